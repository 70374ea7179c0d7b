"""The memory map itself of a field of a store: `Dataset.memmap`."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, OptionError
from mmdask.rows.reading.part import ByRows
from mmdask.rows.rows import Rows
from mmdask.store.arrays.files import open_file
from mmdask.store.arrays.npy import HEADER, ArraySpec
from mmdask.store.layer import Layer, StoredField

__all__ = ["memmap_of"]

_WHICH = re.compile(r"(values|shapes|offsets|valid)(?:\[(\d+)\])?")


def memmap_of(rows: Rows, name: str, array: str, part: int | None, mode: Literal["r", "c"]) -> np.memmap[Any, Any]:
    """The map of an array of a field; see `mmdask.Dataset.memmap`."""
    _check_mode(mode)
    field = rows.schema[name]
    if name in rows.derived:
        raise OptionError(
            f"{name!r} is computed when it is read, so there is no file of it; ds[{name!r}].compute() is an array, and "
            f"mm.assign(path, {name}=...) stores it"
        )
    if rows.span is None:
        raise OptionError(
            f"the rows of this dataset are selected by a cut, a split or a sample, and do not lie in a row in a file; "
            f"ds[{name!r}].compute() reads them, ds.save(path) makes a store of them, and ds.memmap of the whole "
            "store, or of a slice, is its file"
        )
    snapshot = rows.snapshot
    made = [isinstance(snapshot.source(p, name)[0], ByRows) for p in range(len(snapshot.parts))]
    number, here = _part(rows, part) if not made or not all(made) else (0, range(0))
    if made[number]:
        raise OptionError(
            f"a dataset of one row per item has no files of its own; ds[{name!r}].compute() is an array, ds.save(path) "
            "makes a store of it"
        )
    if not snapshot.home(number).on_disk:
        raise OptionError(f"{name!r} is no field of a store, but of arrays that were given; map the files of these")
    if snapshot.manifest.zarr is not None:
        raise OptionError(
            f"{snapshot.path}: its arrays are compressed, and cannot be mapped; ds[{name!r}].compute() reads one, and "
            "ds.save(path, backend='memmap') makes a store that can be mapped"
        )
    if not snapshot.addressable:
        raise OptionError(
            f"{snapshot.path}: opened with io={snapshot.io!r}, which maps nothing here; mm.open(path, io='mmap') does"
        )
    layer, stored = snapshot.stored(number, name)
    if stored.values is None:
        raise OptionError(
            f"{name!r} has the one value {stored.constant!r} for all rows of part {number}, and no file; "
            f"ds[{name!r}].compute() is an array"
        )
    which, depth = _which(array)
    if field.kind == "category" and which == "values":
        codes = snapshot.codes(layer, field)
        if (codes != np.arange(len(codes))).any():
            raise OptionError(
                f"the codes of {name!r} in the file of part {number} count its own labels, {stored.labels}, and not "
                f"those of ds.schema[{name!r}].labels; ds.batches and ds[{name!r}] translate them"
            )
    return _sliced(_map(layer, _spec(layer, stored, name, which, depth), mode), layer, stored, which, depth, here)


def _check_mode(mode: object) -> None:
    if mode not in ("r", "c"):
        reason = (
            "what a commit wrote is never changed, since other datasets and kept cuts rely on it and it has checksums: "
            "mm.append adds rows, mm.allocate makes rows to fill, mm.assign replaces a field; "
            if mode in ("r+", "w+", "readwrite", "write")
            else ""
        )
        raise OptionError(f"{reason}mode is 'r', or 'c' for a copy of the pages that you write to; got {mode!r}")


def _part(rows: Rows, part: int | None) -> tuple[int, range]:
    """The part to map, and which of its rows are among these."""
    assert rows.span is not None
    starts, span = rows.snapshot.starts, rows.span
    n = len(rows.snapshot.parts)
    if part is None:
        first = int(np.searchsorted(starts, span[0], side="right")) - 1 if span else 0
        last = int(np.searchsorted(starts, span[-1], side="right")) - 1 if span else 0
        if first != last:
            raise OptionError(
                f"these rows lie in parts {first} to {last} of {rows.snapshot.path}, each with files of its own; "
                "part= is one of them, as in part=0, and mm.compact(path) makes few large parts of many small ones"
            )
        part = first
    if isinstance(part, bool) or not isinstance(part, int | np.integer) or not 0 <= part < n:
        raise OptionError(f"part is a number from 0 to {n - 1}, got {part!r}" if n else "the store has no rows yet")
    low, high = int(starts[part]), int(starts[part + 1])
    begin = span.start + max(-(-(low - span.start) // span.step), 0) * span.step
    return int(part), range(begin - low, max(min(span.stop, high), begin) - low, span.step)


def _which(array: object) -> tuple[str, int]:
    match = _WHICH.fullmatch(array) if isinstance(array, str) else None
    if match is None:
        raise OptionError(
            "array is 'values', 'offsets', 'shapes' or 'valid'; of lists in lists 'offsets[1]' are the inner ones; "
            f"got {array!r}"
        )
    return match[1], int(match[2] or 0)


def _spec(layer: Layer, stored: StoredField, name: str, which: str, depth: int) -> ArraySpec:
    """The array that is asked for."""
    assert stored.values is not None
    arrays: dict[str, tuple[int | None, ...]] = {
        "values": (stored.values,),
        "shapes": () if stored.shapes is None else (stored.shapes,),
        "offsets": stored.offsets,
        "valid": stored.valid,
    }
    number = arrays[which][depth] if depth < len(arrays[which]) else None
    if number is None:
        known = [(k, i) for k, numbers in arrays.items() for i, x in enumerate(numbers) if x is not None]
        there = ", ".join(f"{k}[{i}]" if i else k for k, i in known)
        missing = " (nothing is missing)" if which == "valid" else ""
        raise OptionError(f"{name!r} has no {which}{f'[{depth}]' * bool(depth)} here{missing}; it has {there}")
    return layer.arrays[number]


def _map(layer: Layer, spec: ArraySpec, mode: Literal["r", "c"]) -> np.memmap[Any, Any]:
    path = os.path.join(layer.path, spec.file)
    try:
        file = os.fdopen(open_file(layer.path, spec.file), "rb")
    except OSError as error:
        raise CorruptStoreError(
            f"{path}: cannot be opened: {error.strerror}; `mmdask verify` lists all damage"
        ) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size != HEADER + spec.nbytes:
            raise CorruptStoreError(
                f"{path}: has {size} bytes, should have {HEADER + spec.nbytes}; the store is damaged: `mmdask verify` "
                "lists all damage"
            )
        mapped: np.memmap[Any, Any] = np.memmap(file, spec.dtype, mode, HEADER, spec.shape)
    mapped.filename = path
    return mapped


def _sliced(
    mapped: np.memmap[Any, Any], layer: Layer, stored: StoredField, which: str, depth: int, here: range
) -> np.memmap[Any, Any]:
    """What the rows `here` of a part have of an array, as a view of its map."""
    if here == range(layer.rows):
        return mapped
    start, stop = here.start, here.stop
    level = {"values": len(stored.offsets), "offsets": depth, "valid": depth, "shapes": 0}[which]
    if here.step != 1 and (level or which == "offsets"):
        raise OptionError(
            f"every {here.step}th row is no run of the items in a file; take ds[start:stop] with step 1, or .compute()"
        )
    for number in stored.offsets[:level]:
        bounds: npt.NDArray[np.int64] = _map(layer, layer.arrays[number], "r")
        start, stop = int(bounds[start]), int(bounds[stop])
        if not 0 <= start <= stop:
            raise CorruptStoreError(f"{layer.path}: damaged offsets; `mmdask verify` lists all damage")
    return mapped[start : stop + (which == "offsets") : here.step]  # type: ignore[return-value]
