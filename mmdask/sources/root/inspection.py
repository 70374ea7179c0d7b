"""A look at a ROOT file before it is converted: `mm.inspect_root`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdask import display
from mmdask.errors import OptionError, SourceError
from mmdask.schema import Field
from mmdask.sources.converting.inputs import Input, find_inputs
from mmdask.sources.root.column import Tree
from mmdask.sources.root.file import PRELIMINARY, TREES, brief, classes_of, open_file, open_tree
from mmdask.sources.root.opened import tree_of
from mmdask.sources.root.sizes import Sizes, sizes_of

__all__ = ["ColumnInfo", "Inspection", "TreeInfo", "inspect_root"]

#: lines of a table; `Inspection.text` has all
_SHOWN = 40
#: characters of a type in a table
_SHORT = 48
_PRELIMINARY_WHY = "a format before its first release; write it again with ROOT 6.34 or newer"


@dataclass(frozen=True)
class ColumnInfo:
    """A branch of a TTree, or a top-level field of an RNTuple, and what a conversion makes of it.

    Attributes
    ----------
    name, type : str
        As the file has them.
    fields : tuple of Field
        What it becomes: one field, several where an object is flattened, none where it is left out.
    left_out : tuple of (str, str)
        Names of what becomes no field, with the reason.
    decoded, compressed : int
        Bytes as they are in memory, and in the file.
    pieces : int
        Baskets of a branch, pages of a field.
    codec : str
        As "ZSTD 5"; empty where it is not known.
    """

    name: str
    type: str
    fields: tuple[Field, ...]
    left_out: tuple[tuple[str, str], ...]
    decoded: int
    compressed: int
    pieces: int
    codec: str

    @property
    def is_group(self) -> bool:
        """Whether it holds other branches and nothing else."""
        return not self.fields and not self.left_out


@dataclass(frozen=True)
class TreeInfo:
    """A TTree or RNTuple of a file.

    Attributes
    ----------
    name : str
        With its folders: what `mm.from_root` takes behind a colon.
    cycles : tuple of int
        Of all versions that the file holds, the newest first; that one is converted.
    kind : str
        Its class.
    rows, n_columns : int
        Entries, and branches or fields.
    columns : tuple of ColumnInfo or None
        In the order of the file; None where only an overview was asked for.
    decoded, compressed : int
        Bytes of all columns; in the file without baskets that are within the object of the tree.
    error : str
        Why it cannot be read; empty if it can.
    """

    name: str
    cycles: tuple[int, ...]
    kind: str
    rows: int = 0
    n_columns: int = 0
    columns: tuple[ColumnInfo, ...] | None = None
    decoded: int = 0
    compressed: int = 0
    error: str = ""


@dataclass(frozen=True, repr=False)
class Inspection:
    """What a ROOT file holds; prints as tables. Made by `mmdask.inspect_root`.

    Attributes
    ----------
    path : str
        Of the file.
    nbytes : int
        Its size.
    trees : tuple of TreeInfo
        Its trees, those with most rows first; only one, with its columns, if one was named.
    others : mapping
        How many other objects of each class there are.
    """

    path: str
    nbytes: int
    trees: tuple[TreeInfo, ...]
    others: Mapping[str, int]

    def text(self, most: int | None = None) -> str:
        """The tables as plain text, of all columns or of the first of them."""
        pieces = [display.terminal_safe(self._caption())]
        for cells, headers, align, more in self._tables(most):
            pieces += ["", *([display.text_table(cells, headers, align)] if cells else []), *([more] if more else [])]
        return "\n".join(pieces)

    def __repr__(self) -> str:
        return self.text(_SHOWN)

    def _repr_html_(self) -> str:
        pieces = [f"<small>{display.html_text(self._caption())}</small>"]
        for cells, headers, align, more in self._tables(_SHOWN):
            if cells:
                pieces.append(display.html_table(cells, headers, align))
            if more:
                pieces.append(f"<small>{display.html_text(more)}</small>")
        return display.html_block(*pieces)

    def to_json(self) -> dict[str, Any]:
        """All of it as what JSON holds."""
        return {
            "path": self.path,
            "nbytes": self.nbytes,
            "trees": [_tree_json(t) for t in self.trees],
            "others": dict(self.others),
        }

    def _caption(self) -> str:
        others = ", ".join(f"{n} {name}" for name, n in self.others.items())
        n = f"{display.amount(len(self.trees), 'tree')}{f'; also {others}' if others else ''}"
        return f"{self.path}: {display.nbytes_text(self.nbytes)}, {n}"

    def _tables(self, most: int | None) -> Iterator[tuple[list[list[str]], list[str], str, str]]:
        """Cells, headers, sides, and a line below."""
        if self.trees:
            yield _overview(self.trees, self.path)
        for tree in self.trees:
            if tree.columns is not None:
                yield _columns_table(tree, most)


def inspect_root(path: str | os.PathLike[str], *, tree: str | None = None) -> Inspection:
    """Look at what a ROOT file holds, and at what a conversion makes of it; no data are read.

    Parameters
    ----------
    path : path or ``"file.root:tree"``
        One file, here or on a server.
    tree : str, optional
        The tree, if the path does not name it. Of the only tree of a file, or the one that is named, every branch is
        listed; of several there is an overview.

    Returns
    -------
    Inspection
        Prints as tables, in a notebook, too; `Inspection.trees` has all of it.

    Raises
    ------
    SourceNotFoundError
        When there is no such file.
    SourceError
        When it is no ROOT file, truncated or damaged, or has no such tree.
    OptionError
        When several files are meant.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[1.5], [2.5, 3.5]]}, "look.mm")
    >>> ds.to_root("look.root", "nominal", compression=None)
    >>> look = mm.inspect_root("look.root")
    >>> [(c.name, c.type, c.fields[0].describe()) for c in look.trees[0].columns]
    [('met', 'double', 'float64'), ('njet', 'int32_t', 'int32'), ('jet_pt', 'double[]', 'ragged float64')]
    """
    inputs, absent = find_inputs(path, tree)
    if absent:
        raise absent[0].error
    if len(inputs) != 1:
        some = ", ".join(os.path.basename(i.path) for i in inputs[:3]) + (", ..." if len(inputs) > 3 else "")
        raise OptionError(f"one file is looked at, and {os.fspath(path)!r} means {len(inputs)}: {some}")
    (source,) = inputs
    with open_file(source.location) as file:
        classes = classes_of(file, source.path)
        kinds = {key.rpartition(";")[0]: kind for key, kind in classes.items() if kind in TREES or kind in PRELIMINARY}
        cycles: dict[str, list[int]] = {name: [] for name in kinds}
        others: dict[str, int] = {}
        for key, kind in classes.items():
            name, _, cycle = key.rpartition(";")
            if name in cycles:
                cycles[name].append(int(cycle))
            else:
                others[kind] = others.get(kind, 0) + 1
        if source.tree:
            with open_tree(source) as (_, name):
                plain = name.rpartition(";")[0] if ";" in name else name
            cycles = {plain: cycles[plain]}
        infos = [
            _tree_info(file, source, name, kinds[name], tuple(sorted(of, reverse=True)), len(cycles) == 1)
            for name, of in cycles.items()
        ]
    infos.sort(key=lambda info: -info.rows)
    return Inspection(source.path, source.size, tuple(infos), others)


def _tree_info(file: Any, source: Input, name: str, kind: str, cycles: tuple[int, ...], columns: bool) -> TreeInfo:
    """One tree, with its columns if asked for."""
    if kind in PRELIMINARY:
        return TreeInfo(name, cycles, kind, error=_PRELIMINARY_WHY)
    cycle = source.tree.rpartition(";")[2] if ";" in source.tree else str(cycles[0])
    try:
        found = file[f"{name};{cycle}"]
        opened = tree_of(found, name)
        sizes = sizes_of(found)
    except Exception as error:
        why = str(error) if isinstance(error, SourceError) else f"damaged {brief(error)}"
        if source.tree:
            raise SourceError(f"{source.path}: the tree {name!r} cannot be read: {why}") from error
        return TreeInfo(name, cycles, kind, error=why)
    every = tuple(_column_infos(opened, sizes))
    decoded, compressed = sum(c.decoded for c in every), sum(c.compressed for c in every)
    shown = every if columns else None
    return TreeInfo(name, cycles, kind, opened.rows, len(opened.columns), shown, decoded, compressed)


def _column_infos(tree: Tree, of_each: Mapping[str, Sizes]) -> Iterator[ColumnInfo]:
    for name, column in tree.columns.items():
        stored = of_each.get(name, Sizes())
        sizes = stored.compressed, stored.pieces, stored.codec
        if isinstance(column, str):
            left_out = ((name, column),) if column else ()
            yield ColumnInfo(name, _type(tree, name), (), left_out, stored.decoded, *sizes)
        else:
            yield ColumnInfo(name, _type(tree, name), column.fields, column.skipped, sum(column.nbytes), *sizes)
    for name in tree.doubles:
        yield ColumnInfo(name, "", (), ((name, "a second branch of this name"),), 0, 0, 0, "")


def _type(tree: Tree, name: str) -> str:
    """What the file calls the type of a column."""
    try:
        text = tree.types[name]
    except Exception as error:  # uproot's, of any kind
        return f"unknown {brief(error)}"
    layout = str(getattr(tree.columns[name], "layout", ""))
    return text.removesuffix(f" {layout}") or layout


# Tables -------------------------------------------------------------------------------------------------------------


def _overview(trees: Sequence[TreeInfo], path: str) -> tuple[list[list[str]], list[str], str, str]:
    cells = [
        [
            t.name,
            ", ".join(map(str, t.cycles)),
            t.kind.removeprefix("ROOT::"),
            *(["", "", "", "", t.error] if t.error else _sizes(t)),
        ]
        for t in trees
    ]
    headers = ["tree", "cycle", "kind", "rows", "branches", "in memory", "on disk", "problem"]
    used = [i for i in range(len(headers)) if i < 7 or any(row[i] for row in cells)]
    one = next((t.name for t in trees if not t.error), None) if all(t.columns is None for t in trees) else None
    more = "" if one is None else f"name one to see its branches, as in {f'{os.path.basename(path)}:{one}'!r}"
    return [[row[i] for i in used] for row in cells], [headers[i] for i in used], "lrlrrrrl"[: len(used)], more


def _sizes(tree: TreeInfo) -> list[str]:
    count, nbytes = display.count_text, display.nbytes_text
    # baskets within the tree's own object are not told apart from it
    on_disk = nbytes(tree.compressed) if tree.compressed or not tree.decoded else ""
    return [count(tree.rows), count(tree.n_columns), nbytes(tree.decoded), on_disk, ""]


def _columns_table(tree: TreeInfo, most: int | None) -> tuple[list[list[str]], list[str], str, str]:
    columns = tree.columns or ()
    lines = [line for c in columns[:most] for line in _lines(c)]
    rest = len(columns) - len(columns[:most])
    left_out = [c for c in columns if not c.fields and not c.is_group]
    facts = [f"{display.amount(sum(len(c.fields) for c in columns), 'field')}"]
    if left_out:
        facts.append(f"{display.count_text(len(left_out))} left out")
    if rest:
        facts.insert(0, f"... and {display.count_text(rest)} more")
    pieces = "pages" if "RNTuple" in tree.kind else "baskets"
    headers = ["branch" if pieces == "baskets" else "field", "type", "becomes", "in memory", "on disk", pieces, "codec"]
    return lines, headers, "lllrrrl", "; ".join(facts)


def _lines(column: ColumnInfo) -> Iterator[list[str]]:
    """Lines of a table: one for the column, and one for each member of an object."""
    sizes = [
        display.nbytes_text(column.decoded) if column.decoded else "",
        display.nbytes_text(column.compressed) if column.compressed else "",
        display.count_text(column.pieces) if column.pieces else "",
        column.codec,
    ]
    becomes = [(f.name, f.describe()) for f in column.fields]
    becomes += [(name, f"left out: {why}") for name, why in column.left_out]
    if len(becomes) == 1 and becomes[0][0] == column.name:
        yield [column.name, _short(column.type), becomes[0][1], *sizes]
        return
    yield [
        column.name,
        _short(column.type),
        "a group" if column.is_group else display.amount(len(column.fields), "field"),
        *sizes,
    ]
    for name, what in becomes:
        yield [f"  {name}", "", what, "", "", "", ""]


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def _tree_json(tree: TreeInfo) -> dict[str, Any]:
    return {
        "name": tree.name,
        "cycles": list(tree.cycles),
        "kind": tree.kind,
        "rows": tree.rows,
        "n_columns": tree.n_columns,
        "decoded": tree.decoded,
        "compressed": tree.compressed,
        **({"error": tree.error} if tree.error else {}),
        **({} if tree.columns is None else {"columns": [_column_json(c) for c in tree.columns]}),
    }


def _column_json(column: ColumnInfo) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "fields": {f.name: f.describe() for f in column.fields},
        "left_out": dict(column.left_out),
        "decoded": column.decoded,
        "compressed": column.compressed,
        "pieces": column.pieces,
        "codec": column.codec,
    }
