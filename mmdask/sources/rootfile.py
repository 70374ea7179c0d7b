"""Read TTrees of ROOT files: what a tree holds, from its metadata, and its branches as runs of rows.

uproot is imported in here and nowhere else. A branch is read alone and along its own baskets, in runs of about 32 MiB,
so that no basket is read twice and memory is bounded whatever the file.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, SourceError, SourceNotFoundError, did_you_mean
from mmdask.schema import Field, FieldData
from mmdask.sources.inputs import Input, digest
from mmdask.sources.picked import Picked, select
from mmdask.sources.recipe import Recipe
from mmdask.sources.table import RUN_NBYTES, Rows, Table, UnreadableError

__all__ = ["RootFiles", "part_ranges", "runs"]

#: raised when the same options would give other data than before
CONVERTER_VERSION = 1

#: where the first object of a ROOT file begins
HEADER_NBYTES = 100
#: trees of which the rows are looked up for a message
_MOST_OPENED = 40

_DAMAGED = "damaged, or of a form that uproot does not read"
_TREES = frozenset({"TTree", "TNtuple", "TNtupleD"})


@dataclass(frozen=True)
class RootFiles:
    """The reader of TTrees for `mmdask.sources.conversion.convert`.

    `fields` and `exclude` are names and patterns of branches, `part_nbytes` the decoded bytes of a part, `recipe` what
    is computed of the rows.
    """

    fields: tuple[str, ...] | None
    exclude: tuple[str, ...]
    part_nbytes: int
    recipe: Recipe = field(default_factory=Recipe)
    kind = "ROOT"

    @property
    def options(self) -> dict[str, Any]:
        """What decides which data the layers hold, as JSON."""
        fields = None if self.fields is None else list(self.fields)
        exclude = list(self.exclude)
        options = {"fields": fields, "exclude": exclude, "part_nbytes": self.part_nbytes}
        return {**options, "converter": CONVERTER_VERSION, **self.recipe.options}

    def inspect(self, source: Input) -> Table:
        """What the metadata of one input say; no basket is read."""
        with _open_tree(source) as (tree, tree_name):
            n = int(tree.num_entries)  # a float in some files
            branches, doubles = _branches(tree)
            names = _select(branches, self.fields, self.exclude, source.name)
            exact = frozenset(n for n in self.fields or () if n in names)
            layouts = {name: _layout(name, branches[name], n) for name in names}
            fields = tuple(f for f in layouts.values() if isinstance(f, Field))
            skipped = [(name, why) for name, why in layouts.items() if isinstance(why, str) and why]
            skipped += [(name, "a second branch of this name") for name in doubles if name in layouts]
            for name in exact:
                if not isinstance(layouts.get(name, ""), Field):
                    why = layouts[name] or f"a group of branches; name them as '{name}/*'"
                    raise SchemaError(f"{source.name}: {name!r} cannot be converted: {why}")
            if not fields and not self.recipe.aliases:
                raise self._no_field(source, branches, names, skipped)

            def layout(name: str) -> Field | str:
                if name not in layouts:
                    layouts[name] = _layout(name, branches[name], n)
                return layouts[name]

            bound = self.recipe.bind(source, branches, layout) if self.recipe else None
            stored = sum(_decoded_nbytes(branches[f.name], f, n) for f in fields)
            read = [*fields, *(f for f in (bound.reads if bound else ()) if f not in fields)]
            sizes = {f.name: _decoded_nbytes(branches[f.name], f, n) for f in read}
            cuts = [branches[f.name].entry_offsets for f in read]
            ranges = part_ranges(n, stored or sum(sizes.values()), self.part_nbytes, cuts)
            types = [(name, str(branch.typename)) for name, branch in branches.items() if name in layouts]
            fingerprint = digest(tree_name, n, types)
            if bound is not None:
                fields += tuple(f for name, _ in self.recipe.aliases for f in bound.fields if f.name == name)
        return Table(source, tree_name, fields, tuple(skipped), ranges, sizes, exact, fingerprint, bound)

    def _no_field(
        self, source: Input, branches: Mapping[str, Any], names: Mapping[str, None], skipped: Sequence[tuple[str, str]]
    ) -> OptionError | SourceError:
        """The error for a tree of which nothing is taken."""
        if not branches:
            return SourceError(f"{source.name}: no field can be converted: the tree has no branches")
        chosen = f"fields={self.fields and list(self.fields)!r} and exclude={list(self.exclude)!r}"
        if not names:
            return OptionError(
                f"{source.name}: no field is selected: {chosen} leave none of the {len(branches)} branches"
            )
        why = "; ".join(f"{name!r}: {why}" for name, why in skipped[:5])
        if not why:
            groups = ", ".join(f"'{name}/*'" for name in list(names)[:5])
            return OptionError(f"{source.name}: no field is selected: {chosen} leave only groups; name {groups}")
        return SourceError(f"{source.name}: no field can be converted: {why}")

    @contextlib.contextmanager
    def open(self, table: Table) -> Iterator[Rows]:
        """Open an inspected input for reading."""
        with _open_tree(table.source) as (tree, _):
            branches, _ = _branches(tree)

            def rows(
                field: Field, start: int, stop: int, *, nbytes: int = RUN_NBYTES, picked: Picked | None = None
            ) -> Iterator[FieldData]:
                return _read(branches[field.name], field, start, stop, table.nbytes[field.name], nbytes, picked)

            yield rows


@contextlib.contextmanager
def _open_tree(source: Input) -> Iterator[tuple[Any, str]]:
    """The TTree of an input, and its name within the file."""
    with _open_file(source.path) as file:
        key = _tree_key(file, source)
        try:
            tree = file[key]
        except Exception as error:
            raise SourceError(f"{source.path}: damaged: the tree {key!r} cannot be read {_brief(error)}") from error
        named_cycle = ";" in source.tree
        yield tree, (key if named_cycle else key.rpartition(";")[0])


def _open_file(path: str) -> Any:
    import uproot

    _check_header(path)
    # A mapping, so that uproot does not look for a tree in the path; plain reads, since a map would be killed by SIGBUS
    # when the file is cut short meanwhile; no caches, which would hold what was read.
    options = {"handler": uproot.MultithreadedFileSource, "array_cache": None, "object_cache": None}
    try:
        return uproot.open({path: None}, **options)
    except Exception as error:
        raise SourceError(f"{path}: damaged: its header or list of objects cannot be read {_brief(error)}") from error


def _check_header(path: str) -> None:
    """Raise for a file that is gone, is no ROOT file, or is shorter than its header says."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as f:
            header = f.read(HEADER_NBYTES)
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path}: the file is gone") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    if header[:4] != b"root":
        what = f"it begins with {header[:4]!r} and not with b'root'" if size else "an empty file"
        raise SourceError(f"{path}: not a ROOT file: {what}")
    if len(header) < HEADER_NBYTES:
        raise SourceError(f"{path}: truncated: {size} bytes, and the header alone has {HEADER_NBYTES}")
    (version,) = struct.unpack_from(">i", header, 4)
    # fEND, which has 8 bytes in files that may grow beyond 2 GiB
    (end,) = struct.unpack_from(">q" if version >= 1_000_000 else ">i", header, 12)
    if end > size:
        raise SourceError(f"{path}: truncated: {size} bytes, its header says {end}")


def _tree_key(file: Any, source: Input) -> str:
    """The key of the tree, with its cycle: as named, or the only one."""
    try:
        classes: dict[str, str] = file.classnames(recursive=True)
    except Exception as error:
        raise SourceError(f"{source.path}: damaged: its list of objects cannot be read {_brief(error)}") from error
    trees = [key for key, name in classes.items() if name in _TREES]
    highest: dict[str, str] = {}
    for key in trees:
        name, _, cycle = key.rpartition(";")
        if name not in highest or int(cycle) > int(highest[name].rpartition(";")[2]):
            highest[name] = key
    names = sorted(highest)
    if not source.tree and len(highest) > 1:
        names = _by_rows(file, highest)
    listing = f"its trees are: {', '.join(names)}" if names else "it holds no TTree"
    if others := sorted({k.rpartition(";")[0] for k, name in classes.items() if name.endswith("RNTuple")}):
        listing += (
            f" (and the RNTuple {', '.join(others)}, which this version does not read; "
            "uproot writes a TTree with file.mktree)"
        )
    if source.tree:
        wanted = source.tree.strip("/")
        if wanted in trees:
            return wanted
        if wanted in highest:
            return highest[wanted]
        raise SourceError(f"{source.path}: no tree {source.tree!r}{did_you_mean(wanted, highest)} ({listing})")
    if len(highest) != 1:
        example = f"; name one, as in '{os.path.basename(source.path)}:{names[0]}'" if names else ""
        raise SourceError(f"{source.path}: {listing}{example}")
    return next(iter(highest.values()))


def _by_rows(file: Any, trees: Mapping[str, str]) -> list[str]:
    """Names of trees, those with most rows first; as in the file where they have equally many."""
    rows = {}
    for name in list(trees)[:_MOST_OPENED]:
        # for a message only: a tree that cannot be read comes last
        with contextlib.suppress(Exception):
            rows[name] = int(file[trees[name]].num_entries)
    return sorted(trees, key=lambda name: -rows.get(name, -1))


def _branches(tree: Any) -> tuple[dict[str, Any], list[str]]:
    """Branches by full name, sub-branches included, and the names that came twice."""
    branches: dict[str, Any] = {}
    doubles = []
    for name, branch in tree.iteritems():
        if name in branches:
            doubles.append(name)
        else:
            branches[name] = branch
    return branches, doubles


def _select(names: Iterable[str], fields: Sequence[str] | None, exclude: Sequence[str], where: str) -> dict[str, None]:
    """Names that `fields` match and `exclude` do not, in the order of `fields`; every pattern must match."""
    known = dict.fromkeys(names)

    def match(patterns: Sequence[str]) -> dict[str, None]:
        found: dict[str, None] = {}
        for pattern in patterns:
            # An exact name first: a name may hold brackets.
            hits = [pattern] if pattern in known else fnmatch.filter(known, pattern)
            if not hits:
                some = ", ".join(list(known)[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
                near = did_you_mean(pattern, known)
                raise FieldNotFoundError(f"{where}: no field {pattern!r}{near or f'; the fields are: {some}'}")
            found.update(dict.fromkeys(hits))
        return found

    kept = known if fields is None else match(fields)
    dropped = match(exclude)
    return {name: None for name in kept if name not in dropped}


def _layout(name: str, branch: Any, rows: int) -> Field | str:
    """The field that a branch becomes, or why it becomes none; empty text for a group, whose members count."""
    import uproot

    try:
        i = branch.interpretation
        if isinstance(i, uproot.interpretation.grouped.AsGrouped):
            return ""
        if isinstance(i, Exception):
            return f"its type cannot be told {_brief(i)}"
        if branch.num_entries != rows:
            return f"it has {branch.num_entries} entries, the tree has {rows}"
        offsets = branch.entry_offsets
        if isinstance(i, uproot.AsStrings):
            return Field.string(name)
        ragged = isinstance(i, uproot.AsJagged)
        content = i.content if ragged else i
        if not isinstance(content, uproot.AsDtype | uproot.AsDouble32 | uproot.AsFloat16):
            return _unsupported(branch)
        if ragged and not isinstance(content, uproot.AsDtype) and content.to_dims:
            # uproot 5.7.7 counts its bytes as if each item had no dimensions, and returns uninitialised memory.
            return f"type {branch.typename} is misread by uproot"
    except Exception as error:
        # What is odd in a file of another decade comes out of uproot as any kind of exception.
        return f"its type cannot be told {_brief(error)}"
    if len(offsets) > 1 and any(a > b for a, b in itertools.pairwise(offsets)):
        return "its baskets are not in order"
    dtype = content.to_dtype
    base, shape = dtype.subdtype or (dtype, ())
    make = Field.ragged if ragged else Field.dense
    try:
        return make(name, base, tuple(int(length) for length in shape))
    except SchemaError:
        return _unsupported(branch)


def _unsupported(branch: Any) -> str:
    name = str(branch.typename)
    return f"type {name if len(name) <= 80 else name[:77] + '...'} is not supported yet"


def _decoded_nbytes(branch: Any, field: Field, rows: int) -> int:
    """About how many bytes the branch takes in memory; exact for dense fields."""
    if field.kind == "dense":
        return rows * field.item_nbytes
    i = branch.interpretation
    content: int = int(branch.uncompressed_bytes) - int(i.header_bytes) * rows
    if field.kind == "ragged":
        content = content * field.item_nbytes // max(1, int(i.content.itemsize))
    return max(0, content) + 8 * rows


def part_ranges(
    rows: int, nbytes: int, part_nbytes: int, cuts: Iterable[Sequence[int]] = ()
) -> tuple[tuple[int, int], ...]:
    """Row ranges of about `part_nbytes`, which together are all rows; one empty range when there are none.

    Parameters
    ----------
    cuts : iterable of sequences of int
        Basket boundaries of each branch. Where a boundary of all of them is near, the range ends there.

    Examples
    --------
    >>> part_ranges(100, 1000, 500)
    ((0, 50), (50, 100))
    >>> part_ranges(100, 1000, 500, [[0, 40, 100], [0, 20, 40, 60, 100]])
    ((0, 40), (40, 100))
    """
    n = max(1, min(rows, round(nbytes / part_nbytes)))
    if n == 1:
        return ((0, rows),)
    sets = [frozenset(c) for c in cuts]
    common = np.array(sorted(frozenset.intersection(*sets)) if sets else [], np.int64)
    ends = {rows}
    for k in range(1, n):
        end = rows * k // n
        if len(common):
            near = int(common[np.abs(common - end).argmin()])
            end = near if abs(near - end) <= rows / n / 2 else end
        if 0 < end < rows:
            ends.add(end)
    stops = sorted(ends)
    return tuple(zip([0, *stops[:-1]], stops, strict=True))


def runs(start: int, stop: int, offsets: Sequence[int], weights: Sequence[float], limit: float) -> Iterator[int]:
    """Ends of runs of rows from `start` to `stop` along basket boundaries, each of weight `limit` or one basket.

    Parameters
    ----------
    offsets : sequence of int
        First row of each basket, and the end of the last.
    weights : sequence of float
        Of each basket; a part of a basket weighs its part.

    Examples
    --------
    >>> list(runs(0, 40, [0, 10, 20, 30, 40], [5, 5, 5, 5], 12))
    [20, 40]
    """
    total = 0.0
    at = begin = start
    for first, last, weight in zip(offsets, offsets[1:], weights, strict=False):
        end = min(last, stop)
        if end <= at:
            continue
        share = weight * (end - at) / (last - first)
        if at > begin and total + share > limit:
            yield at
            begin, total = at, 0.0
        total += share
        at = end
        if at == stop:
            break
    if stop > start:
        yield stop


def _read(
    branch: Any, field: Field, start: int, stop: int, nbytes: int, limit: int, picked: Picked | None
) -> Iterator[FieldData]:
    """Rows of a branch of `nbytes`, run by run, each basket once; baskets without any picked row are left out."""
    try:
        offsets = branch.entry_offsets
        sizes = _basket_weights(branch, offsets)
    except Exception as error:
        raise UnreadableError(f"{_DAMAGED} {_brief(error)}") from error
    scale = nbytes / max(1.0, sum(sizes))
    weights = [w * scale for w in sizes]
    for first, last in [(start, stop)] if picked is None else _spans(start, stop, offsets, picked):
        at = first
        for end in runs(first, last, offsets, weights, limit):
            data = _read_run(branch, field, at, end)
            if len(data) != end - at:
                raise UnreadableError(f"damaged, it gives {len(data)} rows for rows {at} to {end}")
            yield data if picked is None else select(data, picked.mask(at, end))
            at = end


def _spans(start: int, stop: int, offsets: Sequence[int], picked: Picked) -> list[tuple[int, int]]:
    """The rows of baskets of which one is picked, those of neighbours together."""
    spans: list[tuple[int, int]] = []
    for a, b in itertools.pairwise(offsets):
        first, last = max(a, start), min(b, stop)
        if first < last and picked.any(first, last):
            if spans and spans[-1][1] == first:
                first = spans.pop()[0]
            spans.append((first, last))
    return spans


def _basket_weights(branch: Any, offsets: Sequence[int]) -> list[float]:
    """Compressed bytes of each basket, which need no reading; rows where the file does not say."""
    rows = [float(b - a) for a, b in itertools.pairwise(offsets)]
    sizes = branch.member("fBasketBytes", none_if_missing=True)
    if sizes is None or len(sizes) < len(rows) or not all(s > 0 for s in sizes[: len(rows)]):
        return rows
    return [float(s) for s in sizes[: len(rows)]]


def _read_run(branch: Any, field: Field, start: int, stop: int) -> FieldData:
    library = "np" if field.kind == "dense" else "ak"
    try:
        array = branch.array(entry_start=start, entry_stop=stop, library=library, array_cache=None)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"{branch.file.file_path}: {error.strerror} at field {field.name!r}") from error
        # uproot raises whatever the odd bytes lead to: AssertionError, struct.error, IndexError, ...
        raise UnreadableError(f"{_DAMAGED} {_brief(error)}") from error
    return _CONVERT[field.kind](array, field)


def _dense(array: Any, field: Field) -> FieldData:
    return FieldData(_exact(np.asarray(array), field))


def _ragged(array: Any, field: Field) -> FieldData:
    offsets, values = _list(array)
    if not len(values):
        values = np.empty((0, *field.shape), field.dtype)  # awkward may have lost the type
    return FieldData(_exact(values, field), (offsets,))


def _string(array: Any, field: Field) -> FieldData:
    offsets, values = _list(array)
    values = np.ascontiguousarray(values, dtype="u1")
    if values.size and values.max() > 127:
        try:
            str(values.data, "utf-8")
        except UnicodeDecodeError as error:
            wrong = bytes(values[error.start : error.end])
            raise UnreadableError(f"not utf-8 text: {error.reason} {wrong!r}") from None
    return FieldData(values, (offsets,))


def _list(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Offsets from 0 and the values they index, of an awkward array of lists."""
    import awkward as ak

    layout = array.layout.to_ListOffsetArray64(True)
    offsets = np.asarray(layout.offsets)
    return offsets, np.asarray(ak.to_numpy(layout.content[: int(offsets[-1])], allow_missing=False))


def _exact(values: npt.NDArray[Any], field: Field) -> npt.NDArray[Any]:
    """Values of the field's dtype in C order; a bool of another byte than 0 and 1 becomes true, as in C++."""
    if field.dtype.kind == "b" and values.dtype.kind == "b":
        values = np.ascontiguousarray(values).view("u1") != 0
    if values.dtype.newbyteorder("<") != field.dtype or values.shape[1:] != field.shape:
        raise UnreadableError(f"gave {values.dtype} {values.shape[1:]}, should be {field.describe()}")
    return np.ascontiguousarray(values, dtype=field.dtype)


_CONVERT: dict[str, Callable[[Any, Field], FieldData]] = {"dense": _dense, "ragged": _ragged, "string": _string}


def _brief(error: BaseException) -> str:
    """What uproot says, in brackets: the first line of its message, which often ends within a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0].rstrip(" ,;:") if lines else ""
    text = text if len(text) <= 200 else text[:197] + "..."
    return f"(uproot: {type(error).__name__}{': ' * bool(text)}{text})"
