"""How rows of an RNTuple are put together from elements of columns.

A `Node` is a field or sub-field. It says which awkward form it has and reads pieces: ranges of its elements in
clusters, whose offsets say which elements of the nodes below are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.pages import Pages, Stored

__all__ = [
    "Arrays",
    "Counts",
    "Lists",
    "Members",
    "Node",
    "Numbers",
    "Optionals",
    "Piece",
    "Variants",
    "leaves",
    "only",
]

#: a range of elements of a cluster: cluster, start, stop
Piece = tuple[int, int, int]

#: of each value of a variant
_SWITCH = np.dtype([("index", "<i8"), ("tag", "<i4")])


class Node(Protocol):
    """A field or sub-field."""

    def form(self) -> Any:
        """The awkward form of what is read."""
        ...

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        """The awkward layout of the elements of some pieces, one after the other."""
        ...

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        """Bytes in memory of all elements of a cluster before `at`; offsets are looked up."""
        ...

    def columns(self) -> Iterator[tuple[Stored, int]]:
        """Its columns, and bytes of an element of each in memory."""
        ...


@dataclass(frozen=True)
class Numbers:
    """One number or bool each."""

    stored: Stored
    dtype: np.dtype[Any]

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.NumpyForm(self.dtype.name)

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        return ak.contents.NumpyArray(_elements(pages, self.stored, pieces, self.dtype))

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return at * self.dtype.itemsize

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, self.dtype.itemsize


@dataclass(frozen=True)
class Counts(Numbers):
    """The lengths of lists that are another field, whose offsets are `stored`."""

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        counts = np.diff(_offsets(pages, self.stored, pieces)[0])
        if len(counts) and counts.max() > np.iinfo(self.dtype).max:
            raise UnreadableError(f"damaged: {counts.max()} items in a row")
        return ak.contents.NumpyArray(counts.astype(self.dtype))


@dataclass(frozen=True)
class _Ends:
    """Elements of another node, of which `stored` says where those of each row end."""

    stored: Stored
    content: Node

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return 8 * at + self.content.nbytes(pages, cluster, _end(pages, self.stored, cluster, at))

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, 8
        yield from self.content.columns()


@dataclass(frozen=True)
class Lists(_Ends):
    """Lists, or text where `text`."""

    text: bool = False

    def form(self) -> Any:
        import awkward as ak

        content = self.content.form()
        if not self.text:
            return ak.forms.ListOffsetForm("i64", content)
        content = ak.forms.NumpyForm("uint8", parameters={"__array__": "char"})
        return ak.forms.ListOffsetForm("i64", content, parameters={"__array__": "string"})

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        offsets, below = _offsets(pages, self.stored, pieces)
        content = self.content.read(pages, below)
        if self.text:
            content = ak.contents.NumpyArray(content.data, parameters={"__array__": "char"})
        parameters = {"__array__": "string"} if self.text else None
        return ak.contents.ListOffsetArray(ak.index.Index64(offsets), content, parameters=parameters)


@dataclass(frozen=True)
class Optionals(_Ends):
    """Values that may be missing: lists of none or one."""

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.IndexedOptionForm("i64", self.content.form())

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        offsets, below = _offsets(pages, self.stored, pieces)
        there = np.diff(offsets)
        if len(there) and there.max() > 1:
            raise UnreadableError(f"damaged: {there.max()} values of an optional field in a row")
        index = np.where(there == 1, offsets[:-1], -1)
        return ak.contents.IndexedOptionArray(ak.index.Index64(index), self.content.read(pages, below))


@dataclass(frozen=True)
class Arrays:
    """`size` elements of another node each."""

    size: int
    content: Node

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.RegularForm(self.content.form(), self.size)

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        below = [(cluster, start * self.size, stop * self.size) for cluster, start, stop in pieces]
        n = sum(stop - start for _, start, stop in pieces)
        return ak.contents.RegularArray(self.content.read(pages, below), self.size, n)

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return self.content.nbytes(pages, cluster, at * self.size)

    def columns(self) -> Iterator[tuple[Stored, int]]:
        return self.content.columns()


@dataclass(frozen=True)
class Members:
    """Records: an object, a pair, a tuple, an item of a map."""

    members: Mapping[str, Node]

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.RecordForm([node.form() for node in self.members.values()], list(self.members))

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        n = sum(stop - start for _, start, stop in pieces)
        contents = [node.read(pages, pieces) for node in self.members.values()]
        return ak.contents.RecordArray(contents, list(self.members), n)

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return sum(node.nbytes(pages, cluster, at) for node in self.members.values())

    def columns(self) -> Iterator[tuple[Stored, int]]:
        for node in self.members.values():
            yield from node.columns()


@dataclass(frozen=True)
class Variants:
    """Values of one of several types each: a member for each type, of which at most one is there.

    `stored` says for each value which of the `types` it is of, from 1 on, or 0 for none, and where it is among these.
    Members are called by their number, from 0 on.
    """

    stored: Stored
    members: Mapping[str, Node]
    types: int

    def form(self) -> Any:
        import awkward as ak

        contents = [ak.forms.IndexedOptionForm("i64", node.form()) for node in self.members.values()]
        return ak.forms.RecordForm(contents, list(self.members))

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        switches = _elements(pages, self.stored, pieces, _SWITCH)
        if len(switches) and not 0 <= switches["tag"].min() <= switches["tag"].max() <= self.types:
            raise UnreadableError(f"damaged: a value is of a type that is none of {self.types}")
        contents = []
        for name, node in self.members.items():
            index = np.full(len(switches), -1, np.int64)
            below: list[Piece] = []
            at = done = 0
            for cluster, start, stop in pieces:
                here = switches[at : at + stop - start]
                there = here["tag"] == int(name) + 1
                found = here["index"][there]
                if len(found):
                    first, last = int(found.min()), int(found.max()) + 1
                    index[at : at + len(here)][there] = found - first + done
                    below.append((cluster, first, last))
                    done += last - first
                at += len(here)
            contents.append(ak.contents.IndexedOptionArray(ak.index.Index64(index), node.read(pages, below)))
        return ak.contents.RecordArray(contents, list(self.members), len(switches))

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return _SWITCH.itemsize * at + sum(
            node.nbytes(pages, cluster, self._before(pages, cluster, int(name) + 1, at))
            for name, node in self.members.items()
        )

    def _before(self, pages: Pages, cluster: int, tag: int, at: int) -> int:
        """Values of a type before those of a cluster from `at` on."""
        n = 256
        while at:
            start = max(0, at - n)
            here = _elements(pages, self.stored, [(cluster, start, at)], _SWITCH)
            found = here["index"][here["tag"] == tag]
            if len(found):
                return int(found[-1]) + 1
            at, n = start, min(2 * n, 1 << 16)
        return 0

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, _SWITCH.itemsize
        for node in self.members.values():
            yield from node.columns()


# Elements -----------------------------------------------------------------------------------------------------------


def _elements(pages: Pages, stored: Stored, pieces: Sequence[Piece], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    out = np.empty(_count(pages, stored, pieces), dtype)
    at = 0
    for cluster, start, stop in pieces:
        pages.fill(cluster, stored, start, out[at : at + stop - start])
        at += stop - start
    return out


def _count(pages: Pages, stored: Stored, pieces: Sequence[Piece]) -> int:
    """Elements of some pieces; raises unless there are so many, before memory is taken for them."""
    for cluster, _, stop in pieces:
        if stop > pages.count(cluster, stored):
            raise UnreadableError(
                f"damaged: {stop} elements of a column are asked for, of {pages.count(cluster, stored)}"
            )
    return sum(stop - start for _, start, stop in pieces)


def _end(pages: Pages, stored: Stored, cluster: int, at: int) -> int:
    """Elements below those of a cluster before `at`."""
    return pages.item(cluster, stored, at - 1) if at else 0


def _offsets(pages: Pages, stored: Stored, pieces: Sequence[Piece]) -> tuple[npt.NDArray[np.int64], list[Piece]]:
    """Offsets from 0 of the lists of all pieces together, and the pieces below that they hold."""
    offsets = np.zeros(_count(pages, stored, pieces) + 1, np.int64)
    below = []
    at = 0
    for cluster, start, stop in pieces:
        first = _end(pages, stored, cluster, start)
        # Columns hold where each list ends in its cluster.
        ends = offsets[at + 1 : at + 1 + stop - start]
        pages.fill(cluster, stored, start, ends)
        below.append((cluster, first, int(ends[-1]) if len(ends) else first))
        if shift := int(offsets[at]) - first:
            ends += shift
        at += len(ends)
    if len(offsets) > 1 and (offsets[1:] < offsets[:-1]).any():
        raise UnreadableError("damaged: its offsets are not in order")
    return offsets, below


# Parts of a node ----------------------------------------------------------------------------------------------------

#: names of members that lead to one
Path = tuple[str, ...]


def leaves(node: Node, path: Path = ()) -> Iterator[Path]:
    """The paths of all members that are no records themselves."""
    if isinstance(node, Members | Variants):
        for name, member in node.members.items():
            yield from leaves(member, (*path, name))
    elif isinstance(node, Lists | Optionals | Arrays):
        yield from leaves(node.content, path)
    else:
        yield path


def only(node: Node, paths: Sequence[Path]) -> Node:
    """A node without the members that no path leads to.

    Examples
    --------
    >>> number = Numbers(Stored((0,)), np.dtype("f4"))
    >>> node = Lists(Stored((1,)), Members({"pt": number, "eta": number}))
    >>> list(leaves(node)), list(leaves(only(node, [("eta",)])))
    ([('pt',), ('eta',)], [('eta',)])
    """
    if isinstance(node, Members | Variants):
        kept = {name: [p[1:] for p in paths if p[:1] == (name,)] for name in node.members}
        return replace(node, members={name: only(node.members[name], below) for name, below in kept.items() if below})
    if isinstance(node, Lists | Optionals | Arrays):
        return replace(node, content=only(node.content, paths))
    return node
