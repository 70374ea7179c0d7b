"""Rows of a store as a TTree or an RNTuple of a new ROOT file, written by uproot."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmdask import display
from mmdask.errors import FieldNotFoundError, OptionError, StoreExistsError, did_you_mean
from mmdask.export.root_columns import (
    FORMATS,
    Column,
    Format,
    check_names,
    column_of,
    counter_names,
    owner_of,
    takes_fill,
    usual_fill,
)
from mmdask.rows.rows import Rows
from mmdask.rows.views.virtual import carrier
from mmdask.schema import FieldData, Schema, empty
from mmdask.store.folder import check_outside
from mmdask.store.outcome import writing
from mmdask.store.system import SYSTEM

__all__ = ["Format", "rows_to_root"]

#: bytes of all fields that are written at once: a basket of each branch, or a cluster
BLOCK_NBYTES = 32 << 20
_MOST_ROWS = 1 << 20

#: codecs and the level that each has if none is given, as in ROOT
_LEVELS = {"zlib": 1, "lz4": 4, "zstd": 5, "lzma": 7}
_COMPRESSION = re.compile(r"([a-z0-9]+)(?::(\d{1,2}))?")
_TREE = re.compile(r"[^\x00-\x1f:;\[\]]+")


def rows_to_root(
    rows: Rows,
    names: Sequence[str],
    path: str | os.PathLike[str],
    tree: str,
    *,
    format: Format,
    compression: str | None,
    fill: Any,
    overwrite: bool,
    progress: bool,
) -> None:
    """Write rows as a tree of a new ROOT file; see `mmdask.Dataset.to_root`.

    Parameters
    ----------
    rows : Rows
        Already resolved.
    names : sequence of str
        The fields, in their order.
    path, tree, format, compression, fill, overwrite, progress
        As there.
    """
    wanted = str(format).lower()
    if wanted not in FORMATS:
        raise OptionError(f"format= is 'ttree' or 'rntuple', got {format!r}{did_you_mean(wanted, FORMATS)}")
    kind: Format = "ttree" if wanted == "ttree" else "rntuple"
    codec = _codec(compression)
    target = _target(path)
    _check_tree(tree)
    if not names:
        raise OptionError("a tree needs one field or more, and none is selected")
    check_names(names, kind)
    fills = _fills(rows.schema, names, fill)
    columns = {name: column_of(rows.schema[name], kind, fills.get(name)) for name in names}
    _check_free(target, overwrite)
    if kind == "ttree" and (dotted := [name for name in names if "." in name]):
        some = ", ".join(map(repr, dotted[:3])) + (f", ... ({len(dotted)} in all)" if len(dotted) > 3 else "")
        warnings.warn(
            "names with a dot are written as they are, and ROOT takes what stands behind it for a member of an "
            f"object: {some}; ds.rename({{name: name.replace('.', '_') for name in ds.fields}}) gives others",
            stacklevel=3,
        )
    with writing(target, "no file was written"), _replacing(target, overwrite) as fd:
        import uproot

        # a descriptor of its own: uproot closes what it is given
        with os.fdopen(os.dup(fd), "w+b") as sink, uproot.recreate(sink, compression=codec) as file:
            blocks = list(_blocks(rows, columns))
            begin = _ttree if kind == "ttree" else _rntuple
            extend = begin(file, tree, rows, columns, len(blocks))
            with display.progress(len(rows), "to ROOT", disable=not progress, delay=0.5) as bar:
                for start, stop in blocks:
                    extend({name: rows.read(name, start, stop) for name in columns})
                    rows.release(columns)
                    bar.update(stop - start)


# What is asked for --------------------------------------------------------------------------------------------------


def _codec(compression: str | None) -> Any:
    """What uproot calls a codec and its level."""
    import uproot

    if compression is None or compression == "none":
        return None
    found = _COMPRESSION.fullmatch(compression.lower()) if isinstance(compression, str) else None
    level = int(found[2]) if found and found[2] else _LEVELS.get(found[1], 0) if found else 0
    if (
        not found
        or found[1] not in _LEVELS
        or not 1 <= level <= (12 if found[1] == "lz4" else 22 if found[1] == "zstd" else 9)
    ):
        near = did_you_mean(found[1], _LEVELS) if found else ""
        raise OptionError(
            f"compression= is {', '.join(map(repr, _LEVELS))}, one of these with a level as 'zstd:9', or None; "
            f"got {compression!r}{near}"
        )
    return getattr(uproot, found[1].upper())(level)


def _fills(schema: Schema, names: Sequence[str], fill: Any) -> dict[str, Any]:
    """What stands for missing values of each field."""
    if isinstance(fill, Mapping):
        fill = {schema.resolve(name) if name in schema.short else name: value for name, value in fill.items()}
        if unknown := [name for name in fill if name not in names]:
            raise FieldNotFoundError(
                f"fill= names {unknown[0]!r}, which is not written{did_you_mean(str(unknown[0]), names)}"
            )
        return dict(fill)
    if fill is None:
        return {}
    optional = [name for name in names if schema[name].optional]
    wrong = [name for name in optional if not takes_fill(schema[name], fill)]
    if wrong:
        # those that it does not fit first; rows that are arrays have none
        shown = [schema[n] for n in sorted(optional, key=lambda n: n not in wrong) if schema[n].kind != "shaped"]
        each = [f"{f.name!r}: {(fill if takes_fill(f, fill) else usual_fill(f))!r}" for f in shown[:3]]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise OptionError(
            f"fill={fill!r} cannot be a value of {wrong[0]!r} ({schema[wrong[0]].describe()}){more}; say for each "
            f"field what stands for missing values, as in fill={{{', '.join(each)}{', ...' * (len(shown) > 3)}}}"
        )
    return dict.fromkeys(optional, fill)


def _target(path: str | os.PathLike[str]) -> str:
    """The absolute path of the file; that which a link leads to."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text:
        raise OptionError(f"the path of a file is text or a pathlib.Path, got {path!r}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise OptionError(f"only files of this machine are written, got {text!r}; write here, then copy")
    if isinstance(path, str) and ".root:" in text:
        file, _, tree = text.rpartition(":")
        raise OptionError(f"the tree is named by itself: to_root({file!r}, {tree or 'events'!r})")
    target = os.path.realpath(os.path.expanduser(text))
    check_outside(target)
    if not os.path.isdir(os.path.dirname(target)):
        raise OptionError(f"cannot write {target}: there is no folder {os.path.dirname(target)}")
    return target


def _check_tree(tree: object) -> None:
    if not isinstance(tree, str) or not _TREE.fullmatch(tree) or not all(tree.split("/")):
        raise OptionError(f"tree= is a name as 'events', or 'folder/events', got {tree!r}")


def _check_free(target: str, overwrite: bool) -> None:
    if os.path.isdir(target):
        raise StoreExistsError(f"{target} exists: it is a folder; name a file in it, as {target}/events.root")
    if os.path.lexists(target) and not overwrite:
        raise StoreExistsError(f"{target} exists; choose another path, or say overwrite=True (--overwrite)")


@contextlib.contextmanager
def _replacing(target: str, overwrite: bool) -> Iterator[int]:
    """A new file that takes its place when all of it is written and safe; whatever happens before leaves nothing.

    It is locked as long as it is written. What a process that was killed left, is not, and goes first.
    """
    _remove_left(target)
    temporary = ""
    try:
        while True:
            temporary = f"{target}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
            fd = SYSTEM.create(temporary)
            if _lock(fd):
                break
            os.close(fd)  # another took it for one that was left, before it was locked
        try:
            yield fd
            SYSTEM.fsync(fd)
            _check_free(target, overwrite)
            SYSTEM.rename(temporary, target)  # locked until it has its name: without, another takes it for one left
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            SYSTEM.unlink(temporary)
        raise
    SYSTEM.fsync_folder(os.path.dirname(target))


def _lock(fd: int) -> bool:
    """Lock a new file, if its file system can; False if it has been removed meanwhile."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX)
    return os.fstat(fd).st_nlink > 0


def _remove_left(target: str) -> None:
    """Remove what killed processes left of files that were to be in this place."""
    folder, name = os.path.split(target)
    left = re.compile(rf"{re.escape(name)}\.tmp-\d+-[0-9a-f]{{8}}")
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [e.path for e in entries if left.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
    for path in found:
        # whatever is refused here, is none of this export's business
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                SYSTEM.unlink(path)
            finally:
                os.close(fd)


# Trees --------------------------------------------------------------------------------------------------------------


def _title(columns: Mapping[str, Column]) -> str:
    """The units of fields: branches have no place for them."""
    return "; ".join(f"{name}: {c.note}" for name, c in columns.items() if c.note)


def _ttree(
    file: Any, tree: str, rows: Rows, columns: Mapping[str, Column], n_blocks: int
) -> Callable[[Mapping[str, FieldData]], None]:
    """Begin a TTree; gives what adds a basket to each branch."""
    import awkward as ak

    counters = _counters(rows, columns)
    types = {name: column.type() for name, column in columns.items()}
    made = file.mktree(
        tree,
        types,
        title=_title(columns),
        counter_name=lambda name: counters[name],
        # uproot would write the list of baskets again when it is full, which takes seconds for a thousand branches
        initial_basket_capacity=n_blocks + 2,
    )
    # a field that counts is made of the lists
    given = [name for name in columns if name not in counters.values()]

    def extend(block: Mapping[str, FieldData]) -> None:
        branches: dict[str, Any] = {}
        for name in given:
            column, data = columns[name], block[name]
            dense = column.field.kind == "dense"
            branches[name] = column.plain(data) if dense else ak.Array(column.layout(data))
        made.extend(branches)

    return extend


def _rntuple(
    file: Any, tree: str, _rows: Rows, columns: Mapping[str, Column], _n_blocks: int
) -> Callable[[Mapping[str, FieldData]], None]:
    """Begin an RNTuple; gives what adds a cluster."""
    import awkward as ak

    def record(block: Mapping[str, FieldData]) -> Any:
        return ak.contents.RecordArray([c.layout(block[name]) for name, c in columns.items()], list(columns))

    made = file.mkrntuple(tree, record({name: empty(c.field) for name, c in columns.items()}).form)

    def extend(block: Mapping[str, FieldData]) -> None:
        made.extend(ak.Array(record(block)))

    return extend


def _counters(rows: Rows, columns: Mapping[str, Column]) -> dict[str, str]:
    """The counter of each list: one for those that belong together, or the field that has these numbers already."""
    owners = {name: owner_of(c.field) for name, c in columns.items() if c.lists}
    alike = {name: _same_counts(rows, name) for name in owners}
    known: dict[tuple[object, object], bool] = {}

    def agree(a: str, b: str) -> bool:
        key = alike[a], alike[b]
        if key not in known:
            known[key] = key[0] == key[1] or all(
                np.array_equal(rows.read_counts(a, *block), rows.read_counts(b, *block)) for block in _runs(rows)
            )
        return known[key]

    def counts(counter: str, name: str) -> bool:
        key = counter, alike[name]
        if key not in known:
            known[key] = _is_count(rows, counter, name)
        return known[key]

    return counter_names(owners, set(columns), agree, counts)


def _same_counts(rows: Rows, name: str) -> object:
    """Equal for lists that surely have as many items in every row, as the store holds the same offsets for them."""
    stored: str | None = name
    if name in rows.derived:
        stored = carrier(rows.derived[name].expression.typed)
    if stored is None:
        return name
    snapshot, where = rows.snapshot, []
    for part in np.flatnonzero(np.diff(snapshot.starts)).tolist():
        layer, field = snapshot.stored(part, stored)
        if not field.offsets:
            return name
        where.append((layer.path, layer.id, field.offsets[0]))
    return tuple(where)


def _runs(rows: Rows) -> Iterator[tuple[int, int]]:
    for start in range(0, len(rows), _MOST_ROWS):
        yield start, min(start + _MOST_ROWS, len(rows))


def _is_count(rows: Rows, counter: str, name: str) -> bool:
    """Whether a field has the numbers of items of a list, as 32 bits; uproot writes counters as int32."""
    field = rows.schema[counter]
    if field.kind != "dense" or field.shape or field.dtype not in (np.dtype("<i4"), np.dtype("<u4")) or field.optional:
        return False
    return all(
        np.array_equal(rows.read(counter, *block).values, rows.read_counts(name, *block)) for block in _runs(rows)
    )


# Blocks of rows -----------------------------------------------------------------------------------------------------


def _blocks(rows: Rows, columns: Mapping[str, Column]) -> Iterator[tuple[int, int]]:
    """Runs of rows of about `BLOCK_NBYTES`, one row at least; where lists are long, they are short."""
    n = len(rows)
    # Of lists it is known how many items there are before they are read; of all else, about.
    lists = {name: c.field.item_nbytes for name, c in columns.items() if c.field.levels <= 1 and _counted(rows, name)}
    width = sum(_width(rows, c) for name, c in columns.items() if name not in lists) + 8 * len(lists)
    start, step = 0, _MOST_ROWS
    while start < n:
        stop = min(start + step, start + max(1, int(BLOCK_NBYTES / max(width, 1))), n)
        while stop - start > 1 and _nbytes(rows, lists, width, start, stop) > BLOCK_NBYTES:
            stop = start + (stop - start) // 2
        yield start, stop
        start, step = stop, min(2 * (stop - start), _MOST_ROWS)


def _counted(rows: Rows, name: str) -> bool:
    return bool(rows.schema[name].n_offsets) and rows.is_stored(name)


def _nbytes(rows: Rows, lists: Mapping[str, int], width: float, start: int, stop: int) -> float:
    items = sum(rows.item_count(name, start, stop) * nbytes for name, nbytes in lists.items())
    return (stop - start) * width + items


def _width(rows: Rows, column: Column) -> float:
    """Bytes of a row of a field, about; of labels as text, of a computed field as of the widest that it reads."""
    field, n = column.field, max(rows.n_store, 1)
    if field.kind == "category":
        return 8 + max((len(label.encode()) for label in field.labels), default=0)
    if not field.n_offsets:
        return field.item_nbytes
    derived = rows.derived.get(field.name)
    read = [field.name] if derived is None else derived.expression.fields
    stored = [(part, name) for part in np.flatnonzero(np.diff(rows.snapshot.starts)).tolist() for name in read]
    total = dict.fromkeys(read, 0)
    for part, name in stored:
        layer, held = rows.snapshot.stored(part, name)
        total[name] += layer.field_nbytes(name) if held.values is not None else 0
    return max(total.values(), default=0) / n + field.item_nbytes
