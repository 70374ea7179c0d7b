"""Several datasets as one: `mmdask.concat`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdask.dataset.dataset import Dataset
from mmdask.errors import OptionError, SchemaError, did_you_mean
from mmdask.rows.reading.part import read_aux
from mmdask.rows.rows import Rows
from mmdask.rows.selecting import Below
from mmdask.rows.views.joined import Joined
from mmdask.rows.views.views import view_of
from mmdask.rows.views.virtual import Derived
from mmdask.schema import MAX_LABEL, check_name
from mmdask.store.snapshot import Snapshot

__all__ = ["concat"]


def concat(datasets: Iterable[Dataset] | Mapping[str, Dataset], *, by: str | None = None) -> Dataset:
    """Put the rows of several datasets one after the other, without copying them. Lazy.

    Parameters
    ----------
    datasets : list of Dataset, or mapping of labels to datasets
        Any selections of any stores, also several of the same one. They have the same fields, in any order.
    by : str, optional
        With a mapping: the name of a category that is added, and says of each row under which label its dataset was.
        It takes no space.

    Returns
    -------
    Dataset
        With the fields in the order of the first dataset. Labels of categories are put together. A field is optional
        if it is so in one of them.

    Raises
    ------
    SchemaError
        When a field is missing in one of the datasets, or is something else there.
    OptionError
        When a field that is computed is not computed alike, or is a dask array; when `by` is taken.

    Notes
    -----
    Cuts are computed part by part and kept with the store that the part is in: what is known there is used, and what is
    computed here is known there. `Dataset.attrs` and `Dataset.aux` are what all stores have alike; to find that out,
    aux arrays of the same name are read. `Dataset.refresh` takes the newest generation of each store.

    Examples
    --------
    >>> import mmdask as mm
    >>> a = mm.from_arrays({"met": [10.0, 60.0]}, "signal.mm")
    >>> b = mm.from_arrays({"met": [70.0, 20.0, 80.0]}, "background.mm")
    >>> ds = mm.concat({"signal": a, "background": b[b.cut("met > 50")]}, by="process")
    >>> ds["met"].compute(), ds["process"].compute().tolist()
    (array([10., 60., 70., 80.]), ['signal', 'signal', 'background', 'background'])
    """
    labels, some = _given(datasets, by)
    names = _names(some)
    for ds in some:
        ds._readable("datasets that are put together have", names)
    derived = _derived(some, names)
    read = {read for d in derived.values() for read in d.expression.fields}
    stored = [name for name in names if name not in derived]
    stored += sorted(read - set(stored))
    if by is not None and by in (*names, *stored):
        raise OptionError(f"there is a field {by!r} already; choose another name for by=, or leave it out by ds[[...]]")
    bases = tuple([ds._rows.snapshot for ds in some])
    view = view_of(Joined, bases, tuple(stored), by or "", labels, _common_aux(bases))
    steps = (Below(tuple([ds._rows.stored for ds in some])),) if any(ds._rows.steps for ds in some) else ()
    made = {name: d.over(view.schema) for name, d in derived.items()}
    rows = Rows(view, steps, made)
    return Dataset(rows, [*names, *([by] if by is not None else [])], min(ds._chunk_rows for ds in some))


def _given(datasets: Any, by: object) -> tuple[tuple[str, ...], list[Dataset]]:
    """The labels, and the datasets."""
    labels: tuple[str, ...] = ()
    if isinstance(datasets, Dataset) or not isinstance(datasets, Iterable) or isinstance(datasets, str):
        raise OptionError(f"concat takes a list of datasets, or a mapping of labels to them; got {_kind(datasets)}")
    if isinstance(datasets, Mapping):
        if by is None:
            raise OptionError(
                "datasets with labels need by=, the name of the field that says which label a row has, as in "
                "by='process'; a list of them needs none"
            )
        check_name(by)
        labels, some = tuple(datasets), list(datasets.values())
        for label in labels:
            if not isinstance(label, str) or len(label) > MAX_LABEL:
                raise OptionError(f"labels are texts of up to {MAX_LABEL} characters, got {label!r}")
    elif by is not None:
        raise OptionError(f"by={by!r} needs labels: give the datasets as a mapping, as in {{'ttH': a, 'ttbb': b}}")
    else:
        some = list(datasets)
    for ds in some:
        if not isinstance(ds, Dataset):
            raise OptionError(f"concat takes datasets, as mm.open(path) gives them; got {_kind(ds)}")
    if not some:
        raise OptionError("concat takes one dataset or more, and got none: their fields are those of the result")
    return labels, some


def _kind(value: object) -> str:
    return f"one {type(value).__name__}" if isinstance(value, Dataset) else type(value).__name__


def _names(some: Sequence[Dataset]) -> list[str]:
    """The fields, which all datasets have."""
    first = some[0].fields
    for k, ds in enumerate(some):
        lacking = [name for name in first if name not in ds.fields]
        more = [name for name in ds.fields if name not in first]
        if lacking or more:
            shown = lacking or more
            where = f"{k} ({ds.path})" if lacking else f"0 ({some[0].path})"
            hint = did_you_mean(shown[0], more if lacking else lacking) if lacking and more else ""
            both = [name for name in first if name in ds.fields]
            text = ", ".join(map(repr, shown[:5])) + (", ..." if len(shown) > 5 else "")
            few = ", ".join(map(repr, both[:5])) + (", ..." if len(both) > 5 else "")
            raise SchemaError(
                f"not all datasets have the same fields: number {where} has no {text}{hint}; "
                f"take the same fields of each before, as ds[[{few}]], or ds.rename(...) what is called otherwise"
            )
    return list(first)


def _derived(some: Sequence[Dataset], names: Sequence[str]) -> dict[str, Derived]:
    """The computed fields, which are computed alike in all datasets."""
    found = {}
    for name in names:
        each = [ds._rows.derived.get(name) for ds in some]
        first = each[0]
        tokens = {d.token if d is not None else None for d in each}
        if len(tokens) > 1:
            said = [f"{'stored' if d is None else d.expression.canonical} in number {k}" for k, d in enumerate(each)]
            raise OptionError(
                f"the field {name!r} is not computed alike: {', '.join(said[:5])}; assign it to what concat gives, "
                f"leave it out by ds[[...]], or store it by mm.assign(path, {name}=...)"
            )
        if first is not None:
            found[name] = first
    return found


def _common_aux(bases: Sequence[Snapshot]) -> tuple[str, ...]:
    """Names of the arrays that are not per row, and equal in all stores."""
    first, others = bases[0], list(dict.fromkeys(bases[1:]))
    return tuple([name for name in first.manifest.aux if all(_same_aux(first, other, name) for other in others)])


def _same_aux(a: Snapshot, b: Snapshot, name: str) -> bool:
    if a is b:
        return True
    field, other = a.manifest.aux[name], b.manifest.aux.get(name)
    if other is None or not field.same_layout(other) or field.labels != other.labels:
        return False
    x, y = read_aux(a, name), read_aux(b, name)
    arrays = [(x.values, y.values), *zip(x.offsets, y.offsets, strict=True), (x.shapes, y.shapes)]
    arrays += [(x.valid_at(d), y.valid_at(d)) for d in range(len(x.offsets) + 1)]
    return all((p is None) == (q is None) and (p is None or _equal(p, q)) for p, q in arrays)


def _equal(p: Any, q: Any) -> bool:
    return bool(p.shape == q.shape and np.ascontiguousarray(p).tobytes() == np.ascontiguousarray(q).tobytes())
