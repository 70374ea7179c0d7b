"""`from_zarr`: arrays of zarr as a new store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.dataset import Dataset
from mmdask.dataset.making.make import from_arrays
from mmdask.errors import FieldNotFoundError, SchemaError, SourceError, SourceNotFoundError, did_you_mean
from mmdask.sources.address import check_address, public_address
from mmdask.store.storage.calls import missing_package, without_secrets
from mmdask.store.zarr.form import Backend

__all__ = ["from_zarr"]


def from_zarr(
    source: Any,
    path: str | os.PathLike[str],
    *,
    fields: str | Iterable[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    backend: Backend | None = None,
) -> Dataset:
    """Copy arrays of zarr, of either version, into a new store and open it. `mmdask.view` looks at them without a copy.

    Parameters
    ----------
    source : zarr array or group, path or URL
        An array becomes the field of its name, each array of a group one of its own, as ``"jets/pt"``. They have
        equally many rows, and numbers, times or bytes in them; lists are not known to zarr.
    path : path
        Where the store will be; nothing may be there yet.
    fields : str or list of str, optional
        Names or patterns (``"jets/*"``) of the arrays to take; all by default.
    attrs : mapping, optional
        Notes on the store, of anything JSON holds.
    backend : {"memmap", "zarr"} or mmdask.Zarr, optional
        How arrays are stored, as for `mmdask.from_arrays`.

    Returns
    -------
    Dataset
        Of the new store.

    Raises
    ------
    SourceNotFoundError, SourceError
        When there is no array at `source`, or zarr cannot open it.
    OptionError
        When `source` is a URL with a password in it.
    FieldNotFoundError
        When a name or pattern fits none.
    SchemaError
        When arrays differ in their number of rows, or cannot be fields.
    StoreExistsError
        When something is at `path`.

    Examples
    --------
    >>> import mmdask as mm
    >>> import zarr
    >>> array = zarr.create_array("met.zarr", shape=(3,), chunks=(2,), dtype="f4")
    >>> array[:] = [41.5, 7.0, 12.5]
    >>> mm.from_zarr("met.zarr", "met.mm")["met"].compute().tolist()
    [41.5, 7.0, 12.5]
    """
    arrays = _chosen(_arrays(source), fields)
    for name, array in arrays.items():
        if not array.shape:
            raise SchemaError(f"array {name!r} is one number, which has no rows; choose others with fields=")
    rows = {name: _Rows(name, array) for name, array in arrays.items()}
    return from_arrays(rows, path, attrs=attrs, backend=backend)


class _Rows:
    """An array of zarr, or a member of one of records, as something that has a length and gives slices."""

    def __init__(self, name: str, array: Any, members: tuple[str, ...] = ()) -> None:
        self.name, self.array, self._members = name, array, members
        dtype = array.dtype
        for member in members:
            dtype = dtype[member]
        self.shape, self.dtype = (*array.shape, *dtype.shape), dtype.base
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return _Rows(self.name, self.array, (*self._members, key))
        try:
            rows = np.asarray(self.array[key])
        except MemoryError:
            raise
        except Exception as error:  # zarr has no kind of error of its own for damage
            raise SourceError(
                f"array {self.name!r} of {self.array.store_path}: zarr cannot read it: {without_secrets(error)}"
            ) from None
        for member in self._members:
            rows = rows[member]
        return rows


def _arrays(source: Any) -> dict[str, Any]:
    import zarr

    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        check_address(path)
        shown = public_address(path)
        name = os.path.splitext(os.path.basename(shown.rstrip("/")))[0]
        try:
            source = zarr.open(path, mode="r")
        except FileNotFoundError:
            raise SourceNotFoundError(f"{shown}: there is no array or group of zarr") from None
        except ImportError as error:
            raise missing_package(shown.partition("://")[0], error) from None
        except Exception as error:
            raise SourceError(f"{shown}: zarr cannot open it: {without_secrets(error)}") from None
        if os.path.exists(os.path.join(path, "manifest.json")) or os.path.exists(os.path.join(path, "part.json")):
            raise SourceError(
                f"{shown} belongs to a store of mmdask: mm.open(path of the store) reads it, and "
                "ds.save(path) copies it"
            )
    else:
        name = ""
    if isinstance(source, zarr.Array):
        return {source.basename or name or "values": source}
    if not isinstance(source, zarr.Group):
        raise SourceError(f"from_zarr takes an array or a group of zarr, or where one is; got {type(source).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of files beside the arrays
        members = source.members(max_depth=None)
    found = {
        node.path.removeprefix(source.path).strip("/"): node for _, node in members if isinstance(node, zarr.Array)
    }
    if not found:
        raise SourceNotFoundError(f"{source.store_path}: a group of zarr without arrays")
    return dict(sorted(found.items()))


def _chosen(arrays: dict[str, Any], fields: str | Iterable[str] | None) -> dict[str, Any]:
    if fields is None:
        return arrays
    chosen: dict[str, Any] = {}
    for pattern in [fields] if isinstance(fields, str) else fields:
        some = {name: array for name, array in arrays.items() if fnmatchcase(name, pattern)}
        if not some:
            raise FieldNotFoundError(f"no array {pattern!r}{did_you_mean(pattern, arrays)}")
        chosen.update(some)
    return chosen
