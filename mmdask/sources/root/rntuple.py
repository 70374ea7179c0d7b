"""The top-level fields of an RNTuple as columns, each read from the pages that hold some rows of it.

There are no baskets: a cluster may hold all rows, and a row any number of items. So the ends of runs are found by
looking at the offsets of lists, page by page, and memory is bounded by what a run takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmdask.errors import SourceError
from mmdask.kernels.once import once
from mmdask.schema import Field, FieldData
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.column import Column, Lazy
from mmdask.sources.root.file import DAMAGED, brief
from mmdask.sources.root.forms import plan_of
from mmdask.sources.root.pages import Pages, check_page_lists
from mmdask.sources.root.rntuple_fields import Schema, Unsupported, node_of
from mmdask.sources.root.rntuple_nodes import Node, Piece, leaves, only

__all__ = ["TopField", "TopFields"]

#: decoded bytes of a cluster that count as one piece when rows are skipped
_GROUP_NBYTES = 8 << 20
#: what uproot's objects for a field and its columns take in memory, and each page, about
_FIELD_NBYTES, _PAGE_NBYTES = 4_000, 500


class TopFields:
    """An RNTuple of uproot as a `Tree`.

    Raises
    ------
    SourceError
        When what it says of itself is damaged.
    """

    def __init__(self, ntuple: Any, name: str) -> None:
        self.name = name
        try:
            check_page_lists(ntuple)
            self._pages = Pages(ntuple)
            self._schema = Schema(ntuple, self._pages)
            self._top = {self._schema.fields[i].field_name: i for i in self._schema.top}
        except Exception as error:
            # What is odd in its metadata comes out of uproot as any kind of exception.
            raise SourceError(
                f"{ntuple.file.file_path}: damaged: the RNTuple {name!r} cannot be read {brief(error)}"
            ) from error
        self.rows = int(self._pages.rows[-1])
        self.doubles: list[str] = []
        self.columns = Lazy(self._top, self._column)
        self.types = Lazy(self._top, self._type)

    @property
    def metadata_nbytes(self) -> int:
        """What it takes in memory while it is open, about."""
        return _FIELD_NBYTES * len(self._schema.fields) + _PAGE_NBYTES * self._pages.n_pages

    def _column(self, name: str) -> Column | str:
        if self._hidden(self._top[name]):
            return ""
        try:
            node = node_of(self._schema, self._top[name])
            _check_clusters(node, self._pages)
            return TopField(name, node, self._pages)
        except Unsupported as error:
            return f"type {error}" if str(error)[:7] != "damaged" else str(error)
        except Exception as error:
            return f"its type cannot be told {brief(error)}"

    def _type(self, name: str) -> str:
        record = self._schema.fields[self._top[name]]
        column = self.columns[name]
        form = f" {column.layout}" if isinstance(column, TopField) else ""
        return f"{record.type_name}{form}"

    def _hidden(self, i: int) -> bool:
        """Whether all that a field holds are top-level fields, too: ROOT's importer keeps collections so."""
        name = self._schema.fields[i].field_name
        if not name.startswith("_"):
            return False
        shown = {self._schema.fields[j].source_field_id for j in range(len(self._schema.fields))}
        below = [i]
        for j in below:
            below.extend(self._schema.children.get(j, []))
        return all(j in shown for j in below if self._schema.columns.get(j))


class TopField:
    """A top-level field of an RNTuple, with all its sub-fields, as a `Column`."""

    def __init__(self, name: str, node: Node, pages: Pages) -> None:
        self.name = name
        self._node = node
        self._pages = pages
        self._plan = plan_of(name, node.form())
        self.fields: tuple[Field, ...] = tuple(self._plan.fields)
        self.skipped: tuple[tuple[str, str], ...] = tuple(self._plan.skipped)
        self._parts: dict[tuple[str, ...], tuple[Node, Any]] = {}

    @property
    def layout(self) -> str:
        """Its type, in words of awkward."""
        return str(self._node.form().type)

    @once
    def nbytes(self) -> tuple[int, ...]:
        """Decoded bytes of each field."""
        return tuple(_total(self._part([f])[0], self._pages) for f in self.fields)

    @once
    def offsets(self) -> list[int]:
        """Rows where clusters begin, and pieces of large ones, and the end."""
        ends = [0]
        for cluster, (start, stop) in enumerate(itertools.pairwise(self._pages.rows.tolist())):
            n = -(-_of_cluster(self._node, self._pages, cluster) // _GROUP_NBYTES)
            n = max(1, min(n, stop - start))
            ends.extend(start + (stop - start) * (k + 1) // n for k in range(n))
        return list(dict.fromkeys(ends))

    def ends(self, start: int, stop: int, limit: int, wanted: Sequence[Field]) -> Iterator[int]:
        """Ends of runs of rows, each of about `limit` decoded bytes of some fields, or one row."""
        node, _ = self._part(wanted)
        room, begin = limit, start
        for cluster, first, last in self._pieces(start, stop):
            origin = int(self._pages.rows[cluster])
            size = _of_cluster(node, self._pages, cluster)
            whole = last - first == self._pages.rows[cluster + 1] - origin
            if whole and size > room and size <= limit and origin + first > begin:
                yield origin + first  # a cluster that fits is not divided
                room, begin = limit, origin + first
            if whole and size <= room:
                room -= size
                continue
            at = first
            while at < last:
                try:
                    end, used = _reach(node, self._pages, cluster, at, last, room, size)
                except Exception as error:
                    raise _unreadable(error, self.name, self._pages) from error
                if end == at and origin + at == begin:
                    end = at + 1  # a row is not divided
                if end < last:
                    yield origin + end
                    room, begin = limit, origin + end
                else:
                    room -= used
                at = end
        if begin < stop:
            yield stop

    def read(self, start: int, stop: int, wanted: Sequence[Field]) -> tuple[FieldData, ...]:
        """Rows `start` to `stop` of some of its fields."""
        import awkward as ak

        try:
            node, plan = self._part(wanted)
            array = ak.Array(node.read(self._pages, self._pieces(start, stop)))
            return tuple(plan.data(array, wanted))
        except UnreadableError:
            raise
        except Exception as error:
            raise _unreadable(error, self.name, self._pages) from error

    def _pieces(self, start: int, stop: int) -> list[Piece]:
        """Rows `start` to `stop`, in the clusters that hold them."""
        rows = self._pages.rows
        first = int(np.searchsorted(rows, start, side="right")) - 1
        pieces = []
        for cluster in range(max(0, first), len(rows) - 1):
            a, b = int(rows[cluster]), int(rows[cluster + 1])
            if a >= stop:
                break
            lo, hi = max(start, a), min(stop, b)
            if lo < hi:
                pieces.append((cluster, lo - a, hi - a))
        return pieces

    def _part(self, wanted: Sequence[Field]) -> tuple[Node, Any]:
        """The node without what no wanted field needs, and how its arrays become fields."""
        names = tuple(f.name for f in wanted)
        if set(names) == {f.name for f in self.fields} or not self._paths:
            return self._node, self._plan
        if names not in self._parts:
            node = only(self._node, [path for name in names for path in self._paths[name]])
            self._parts[names] = node, plan_of(self.name, node.form())
        return self._parts[names]

    @once
    def _paths(self) -> dict[str, list[tuple[str, ...]]]:
        """The members that each field is made of; empty where there is just one field."""
        found: dict[str, list[tuple[str, ...]]] = {}
        if len(self.fields) > 1 or self.skipped:
            for path in leaves(self._node):
                for f in plan_of(self.name, only(self._node, [path]).form()).fields:
                    found.setdefault(f.name, []).append(path)
        return found


def _reach(node: Node, pages: Pages, cluster: int, at: int, last: int, room: int, size: int) -> tuple[int, int]:
    """How far the rows of a cluster from `at` on take at most `room` bytes, about, and how many they take."""
    before = node.nbytes(pages, cluster, at)

    def used(row: int) -> int:
        return node.nbytes(pages, cluster, row) - before

    rows = int(pages.rows[cluster + 1] - pages.rows[cluster])
    # From near to far, so that pages are looked at in their order.
    step = max(1, room * rows // max(1, size))
    good, taken, bad = at, 0, last + 1
    while good < last and bad > good + max(1, (good - at) // 16):
        probe = min(last, good + step) if bad > last else (good + bad) // 2
        n = used(probe)
        if n <= room:
            good, taken = probe, n
        else:
            bad = probe
    return good, taken


def _of_cluster(node: Node, pages: Pages, cluster: int) -> int:
    """Decoded bytes of a cluster."""
    return sum(pages.count(cluster, stored) * itemsize for stored, itemsize in node.columns())


def _total(node: Node, pages: Pages) -> int:
    return sum(_of_cluster(node, pages, cluster) for cluster in range(len(pages.rows) - 1))


def _check_clusters(node: Node, pages: Pages) -> None:
    """Raise unless columns outside of lists have as many elements as there are rows, in every cluster."""
    for cluster, (start, stop) in enumerate(itertools.pairwise(pages.rows.tolist())):
        for stored, _ in node.columns():
            n, rows = pages.count(cluster, stored), (stop - start) * stored.per_row
            if stored.per_row and n != rows:
                raise Unsupported(f"damaged: a column has {n} elements for {rows} of rows {start} to {stop}")


def _unreadable(error: Exception, name: str, pages: Pages) -> Exception:
    """What to raise for an error on the way from the file to an array."""
    if isinstance(error, UnreadableError | MemoryError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return SourceError(f"{pages.path}: {error.strerror} at field {name!r}")
    # uproot raises whatever the odd bytes lead to: AssertionError, struct.error, IndexError, ...
    return UnreadableError(f"{DAMAGED} {brief(error)}")
