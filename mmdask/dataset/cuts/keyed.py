"""Cuts from Python: functions of blocks of rows, and dask arrays, which are kept under a key that the user gives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import several
from mmdask.dataset.view import View
from mmdask.errors import OptionError
from mmdask.expr import Expression
from mmdask.rows.bits import pack
from mmdask.rows.blocks import row_blocks
from mmdask.rows.cuts.kept import find_kept
from mmdask.rows.cuts.keyed import keyed
from mmdask.rows.reading.part import read_part
from mmdask.short import ShortNamed
from mmdask.store.snapshot import Snapshot

__all__ = ["forget_keys", "keyed_cut"]

Bits = npt.NDArray[np.uint8]
Tri = tuple[Bits, Bits | None]

#: what stood under a key of a store before, in this process, as far as it can be told
_SEEN: dict[tuple[str, str], Any] = {}


def keyed_cut(dataset: View, what: Any, key: str | None, fields: str | Iterable[str] | None) -> Expression:
    """The cut of a function or dask array; the parameters are those of `Dataset.cut`."""
    lazy = hasattr(what, "__dask_graph__") and hasattr(what, "rechunk")
    if not lazy and not callable(what):
        hint = "; a mask in memory becomes lazy by dask.array.from_array(mask)" if hasattr(what, "dtype") else ""
        raise OptionError(
            "a cut is written as text, as in 'met > 50', or is a function of a block of rows or a lazy dask array of "
            f"booleans, with a key; got {type(what).__name__}{hint}"
        )
    if key is None:
        raise OptionError(
            "a cut from Python needs a key, as in ds.cut(f, key='muon-v2', fields=['met']): it is kept under that "
            "name, for code can change without leaving a trace, and what was kept would be wrong; choose another key "
            "whenever the cut becomes another. A cut that is written as text needs none"
        )
    rows = dataset._rows
    if lazy:
        if fields is not None:
            raise OptionError("fields= is for functions; a dask array is about all fields of its rows")
        array = _checked_array(dataset, what)
        cut = keyed(key, (), rows.snapshot.schema, _Array(array, rows.snapshot))
        # That of another generation is another one, and is meant to be.
        _compare(rows.snapshot, cut, key, (rows.snapshot.manifest.generation, array.name), "dask array")
        return cut
    if fields is None or not [*fields]:
        raise OptionError(
            "a cut that is a function needs fields=, the names of the fields that it reads, as in fields=['jet_pt', "
            "'met']: it gets these, and is computed anew when they change"
        )
    names = rows.schema.match(fields)
    computed = [name for name in names if name in rows.derived]
    if computed:
        raise OptionError(f"a function reads fields of the store, and {computed[0]!r} is computed when it is read")
    cut = keyed(key, names, rows.snapshot.schema, _Function(what, key, tuple(sorted(names))))
    _compare(rows.snapshot, cut, key, _code_of(what), "function")
    return cut


def forget_keys(snapshot: Snapshot) -> None:
    """Compare with nothing what comes next under the keys of a store: what was kept of them is removed."""
    for uuid, key in list(_SEEN):
        if uuid == snapshot.manifest.uuid:
            _SEEN.pop((uuid, key), None)


def _compare(snapshot: Snapshot, cut: Expression, key: str, what: Any, word: str) -> None:
    """Warn when something else is given under a key that is kept; a cell that runs again gives the same."""
    before = _SEEN.setdefault((snapshot.manifest.uuid, key), what)
    if before == what:
        return
    if what[0] == before[0] and any(cut.canonical in kept.expressions for kept in find_kept(snapshot)[0]):
        warnings.warn(
            f"the key {key!r} stood for another {word} before, and what was kept of that is used: choose another key, "
            f"or remove it by ds.cuts.clear({key!r}) first",
            stacklevel=4,
        )
    else:
        _SEEN[snapshot.manifest.uuid, key] = what


def _code_of(function: Callable[..., Any]) -> tuple[str, Any]:
    """What can be compared of a function: its code and what it holds, not what it calls."""
    code = getattr(function, "__code__", None)
    if code is None:
        return "function", type(function).__qualname__
    held = [cell.cell_contents for cell in function.__closure__ or () if _is_plain(cell)]
    return "function", (_code_text(code), repr((held, function.__defaults__, function.__kwdefaults__)))


def _is_plain(cell: Any) -> bool:
    try:
        return isinstance(cell.cell_contents, bool | int | float | str | None)
    except ValueError:  # not filled yet
        return False


def _code_text(code: Any) -> str:
    """The instructions, names and constants of some code, wherever it stands in a file."""
    constants = [_code_text(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_freevars, constants))


def _checked_array(dataset: View, array: Any) -> Any:
    """A dask array that is one boolean for each row of the store."""
    n = dataset._rows.n_store
    if array.ndim != 1 or array.dtype != np.bool_:
        raise OptionError(
            f"a cut is one boolean per row, and this dask array is of {array.dtype} {array.shape}; compare it, as in "
            "mask > 0, or reduce it along its other axes"
        )
    if dataset._rows.span != range(n):
        raise OptionError(
            "a dask array is a cut of all rows of a store, and this dataset is a selection; make it from "
            "ds = mm.open(path), and select by it: selection[ds.cut(mask, key=...)]"
        )
    length = array.shape[0]
    if math.isnan(length):
        raise OptionError(
            "the chunks of this dask array have unknown lengths, so it cannot be told which row an entry is of; "
            "make it without x[mask], or call mask.compute_chunk_sizes()"
        )
    if length != n:
        raise OptionError(
            f"the dask array has {length:,} entries, and the store {n:,} rows: there must be one for each; after an "
            "append, make it from the dataset that is opened anew, and what is kept of the old rows is used"
        )
    return array


@dataclass(frozen=True)
class _Array:
    """A dask array over all rows of a store, as they are in one generation."""

    array: Any
    snapshot: Snapshot

    def task(self, snapshot: Snapshot, part: int, start: int, stop: int) -> tuple[Any, tuple[Any, ...]]:
        first = int(snapshot.starts[part])
        if len(self.array) < first + stop:
            raise OptionError(
                f"the dask array of this cut has {len(self.array):,} entries, and there are rows up to "
                f"{first + stop:,}: some were appended; make it from the dataset that is opened anew, with the same key"
            )
        if not self._has(snapshot, part):
            raise OptionError(
                f"the dask array of this cut is about generation {self.snapshot.manifest.generation} of the store, and "
                f"rows {first:,} to {first + snapshot.parts[part].rows - 1:,} were written anew since; make it from "
                "the dataset that is opened anew, with the same key"
            )
        return _bits_of, (self.array[first + start : first + stop].rechunk(-1),)

    def _has(self, snapshot: Snapshot, part: int) -> bool:
        """Whether a part has the rows that stood there when the array was made: it shares a layer with that part."""
        mine, first = self.snapshot, snapshot.starts[part]
        old, new = mine.parts[mine.part_of(int(first))], snapshot.parts[part]
        return first in mine.starts and old.rows == new.rows and not set(old.layers).isdisjoint(new.layers)


@dataclass(frozen=True)
class _Function:
    """A function of a block of rows."""

    function: Callable[[dict[str, Any]], Any]
    key: str
    fields: tuple[str, ...]

    def task(self, snapshot: Snapshot, part: int, start: int, stop: int) -> tuple[Any, tuple[Any, ...]]:
        return _call, (self, snapshot, part, start, stop)


def _call(cut: _Function, snapshot: Snapshot, part: int, start: int, stop: int) -> Tri:
    """The bits that a function gives for some rows of a part, block by block."""
    pieces: list[npt.NDArray[np.bool_]] = []
    known: list[npt.NDArray[np.bool_]] = []
    for a, b in row_blocks(snapshot, part, cut.fields, start, stop):
        read = {name: several(snapshot.schema[name], read_part(snapshot, part, name, a, b)) for name in cut.fields}
        block = ShortNamed(read)
        first = int(snapshot.starts[part]) + a
        try:
            result = cut.function(block)
        except Exception as error:
            error.add_note(f"raised by the function of the cut {cut.key!r}, for rows {first} to {first + b - a - 1}")
            if isinstance(error, KeyError):
                error.add_note(f"its blocks have the fields that fields= names: {', '.join(cut.fields)}")
            raise
        true, there = _booleans(result, b - a, f"the function of the cut {cut.key!r}")
        pieces.append(true)
        known.append(there)
    return _packed(np.concatenate(pieces), np.concatenate(known))


def _bits_of(values: Any) -> Tri:
    """The bits of a chunk of a dask array."""
    return _packed(*_booleans(np.ma.asanyarray(values), len(values), "the dask array of a cut"))


def _packed(true: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> Tri:
    return pack(true), None if known.all() else pack(known)


def _booleans(result: Any, rows: int, who: str) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where a result is true, and where it is not missing."""
    if type(result).__module__.partition(".")[0] == "awkward":
        import awkward as ak

        if result.ndim == 1:
            result = ak.to_numpy(result, allow_missing=True)
    values = np.ma.asanyarray(result) if isinstance(result, np.ndarray) else np.ma.MaskedArray(np.empty(0))
    if values.dtype != np.bool_ or values.shape != (rows,):
        got = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise OptionError(
            f"{who} must give an array of {rows:,} booleans, one for each row, and gave {got}; in lists, reduce by "
            "ak.any(..., axis=1), and compare numbers"
        )
    known = ~np.ma.getmaskarray(values)
    return np.ma.getdata(values) & known, known
