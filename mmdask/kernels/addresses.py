"""Arrays as addresses in memory: one array per part, one compiled form for every dtype and any number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, RowNotFoundError

__all__ = [
    "Parts",
    "Table",
    "address_of",
    "check_out",
    "check_padded",
    "checked_rows",
    "missing_part",
    "view_of",
    "width_of",
]

Parts = Sequence["npt.NDArray[Any] | None"]
Int64s = npt.NDArray[np.int64]


class Table:
    """The addresses of one array per part; 0 where there is none. Valid while the arrays are held."""

    def __init__(self, sources: Parts, dtype: np.dtype[Any], shape: tuple[int, ...], needed: Int64s | None) -> None:
        self.addresses = np.zeros(len(sources), np.int64)
        self.strides = np.full(len(sources), width_of(dtype, shape), np.int64)
        self.complete = True
        for p, s in enumerate(sources):
            if s is None:
                self.complete = False
                continue
            if s.dtype != dtype or s.shape[1:] != shape:
                raise OptionError(f"part {p} holds {s.dtype} rows of shape {s.shape[1:]}, not {dtype} of shape {shape}")
            if needed is not None and len(s) < needed[p]:
                raise OptionError(f"part {p} holds {len(s)} elements, fewer than the {needed[p]} it should")
            if not s.flags.c_contiguous:
                if needed is None or s.strides[0] or not s[:1].flags.c_contiguous:
                    raise OptionError(f"part {p} is not C-contiguous; pass np.ascontiguousarray of it")
                self.strides[p] = 0
            self.addresses[p] = address_of(s)


def address_of(a: npt.NDArray[Any]) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def width_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    width = dtype.itemsize
    for length in shape:
        width *= length
    return width


def checked_rows(rows: Int64s, starts: Int64s, n_parts: int) -> Int64s:
    """The rows as a contiguous array, all of them between 0 and the number of rows."""
    if starts.dtype != np.int64 or len(starts) != n_parts + 1:
        raise OptionError(f"starts is int64 ({n_parts + 1},), got {starts.dtype} {starts.shape}")
    rows = np.ascontiguousarray(rows, np.int64)
    if len(rows):
        low, high, n = int(rows.min()), int(rows.max()), int(starts[-1])
        if low < 0 or high >= n:
            raise RowNotFoundError(f"no row {low if low < 0 else high}: the rows are 0 to {n - 1} ({n} in all)")
    return rows


def check_out(out: npt.NDArray[Any], n: int, axes: int = 1) -> None:
    if out.ndim < axes or len(out) != n or not out.flags.c_contiguous or not out.flags.writeable:
        raise OptionError(f"out has {n} rows, is C-contiguous and writeable; got shape {out.shape}, {out.flags}")


def check_padded(out: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None, n: int) -> None:
    check_out(out, n, axes=2)
    if mask is None:
        return
    check_out(mask, n, axes=2)
    if mask.dtype != np.bool_ or mask.shape != out.shape[:2]:
        raise OptionError(f"the mask is bool {out.shape[:2]}, got {mask.dtype} {mask.shape}")


def missing_part(starts: Int64s, row: int) -> OptionError:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    return OptionError(f"row {row} lies in part {part}, which was not given")


class _Memory:
    """What numpy asks to see memory as an array."""

    def __init__(self, address: int, n: int, width: int) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (n, width),
            "typestr": "|u1",
            "version": 3,
        }


def view_of(address: int, n: int, width: int) -> npt.NDArray[np.uint8]:
    """The memory at an address as ``(n, width)`` bytes."""
    return np.asarray(_Memory(address, n, width))
