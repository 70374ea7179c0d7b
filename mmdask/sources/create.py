"""`create` and `append`: begin to write rows, into a new store or one that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from mmdask.schema import Field
from mmdask.sources.writing.row_fields import declared_fields
from mmdask.sources.writing.writer import PART_NBYTES, Writer
from mmdask.store.folder import check_free
from mmdask.store.layer import Scalar
from mmdask.store.manifest import read_manifest, store_root
from mmdask.store.storage import is_url
from mmdask.store.zarr.form import Backend, about_nbytes, check_backend, settled

__all__ = ["append", "create"]


def create(
    path: str | os.PathLike[str],
    *,
    fields: Iterable[Field] | None = None,
    labels: Mapping[str, Scalar] | None = None,
    attrs: Mapping[str, Any] | None = None,
    aux: Mapping[str, Any] | None = None,
    part_nbytes: int | str = PART_NBYTES,
    backend: Backend | None = None,
) -> Writer:
    """Start a new store.

    Parameters
    ----------
    path : path
        Where it will be; nothing may be there yet.
    fields : iterable of Field, optional
        What rows are made of. Fields not given here are taken from the first rows.
    labels : mapping, optional
        Values that are the same for all rows of this block (process, year); they become fields.
    attrs : mapping, optional
        What ``ds.attrs`` will be: anything that JSON holds.
    aux : mapping, optional
        Arrays that are not per row (bin edges, class names), which ``ds.aux`` gives by name: an array, a number, text,
        or lists of these.
    part_nbytes : int or str
        How large parts grow, in bytes or as text like ``"256 MiB"``.
    backend : {"memmap", "zarr"} or mmdask.Zarr, optional
        How arrays are stored: in files that are mapped, or compressed in chunks. By default the former, and the latter
        behind a URL.

    Returns
    -------
    Writer
        A context manager with `append`, `extend` and `allocate`.

    Raises
    ------
    StoreExistsError
        When something is at `path`.
    OptionError
        When `attrs` hold what JSON does not.
    SchemaError
        When a label or an array of `aux` cannot be stored.

    Examples
    --------
    >>> import mmdask as mm
    >>> with mm.create("events.mm", labels={"process": "ttbb"}) as w:
    ...     w.append({"met": 41.5, "hits": [1, 2]})
    ...     w.extend({"met": [7.0, 12.5], "hits": [[], [3]]})
    >>> len(mm.open("events.mm"))
    3
    """
    root = store_root(path)
    check_free(root)
    fields = () if fields is None else declared_fields(fields)
    form = settled(check_backend(backend, remote=is_url(root)), about_nbytes(fields))
    return Writer(root, None, fields=fields, labels=labels, attrs=attrs, aux=aux, part_nbytes=part_nbytes, form=form)


def append(
    path: str | os.PathLike[str],
    *,
    labels: Mapping[str, Scalar] | None = None,
    part_nbytes: int | str = PART_NBYTES,
) -> Writer:
    """Add rows to a store.

    Parameters
    ----------
    path : path
        An existing store.
    labels : mapping, optional
        Values of fields that are the same for all rows of this block.
    part_nbytes : int or str
        How large parts grow, in bytes or as text like ``"256 MiB"``.

    Returns
    -------
    Writer
        A context manager with `append`, `extend` and `allocate`. Rows appended by other processes at the same time all
        survive. Fields that the store computes from expressions are computed for these rows, too.

    Raises
    ------
    StoreNotFoundError
        When there is no store at `path`.
    FieldNotFoundError
        When a label is no field of the store.
    SchemaError
        When a label does not fit its field.

    Examples
    --------
    >>> import mmdask as mm
    >>> with mm.append("events.mm", labels={"process": "ttH"}) as w:
    ...     w.extend({"met": [33.0], "hits": [[4, 5]]})
    """
    return Writer(path, read_manifest(path), labels=labels, part_nbytes=part_nbytes)
