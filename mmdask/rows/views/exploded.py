"""`Exploded`: one row for each item of a list, as a view.

Items of the lists are the rows; what has one value per row is read for the rows that the items are in, and repeated.
Nothing of it is stored, and nothing is known of it before a part is looked at but the number of its items, which the
part itself says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError
from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, RowBits, pack, unpack
from mmdask.rows.reading import marks, reader
from mmdask.rows.reading.gathering import gather_rows
from mmdask.rows.reading.part import ByRows, bad_offsets, counts_at, outer_offsets
from mmdask.rows.rows import Rows
from mmdask.rows.views.views import TAG, SnapshotView, hashed, stored_id
from mmdask.rows.views.virtual import Derived
from mmdask.schema import OFFSET_DTYPE, Field, FieldData, Schema
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.layer import Layer, StoredField
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot

__all__ = ["Exploded"]

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: where each row of a part begins among its items
OFFSETS: Cache[Int64s] = Cache(128 << 20)


class Exploded(SnapshotView, ByRows):
    """A snapshot with a row for each item of the lists in some fields.

    Parameters
    ----------
    bases : tuple of Snapshot
        The one snapshot whose rows have the lists.
    names : tuple of str
        The fields, stored or computed.
    items : tuple of str
        Those of them whose lists are taken apart: as many items in each row of one as of another.
    lists : str
        A stored field that has as many, too.
    number : str
        A field more: the number of the row that an item was in; none if empty.
    derived : tuple of (str, Derived)
        How those are computed that are.
    """

    def __init__(
        self,
        bases: tuple[Snapshot],
        names: tuple[str, ...],
        items: tuple[str, ...],
        lists: str,
        number: str = "",
        derived: tuple[tuple[str, Derived], ...] = (),
    ) -> None:
        [base] = bases
        self.items, self.lists, self.number = frozenset(items), lists, number
        self._rows = Rows(base, (), dict(derived))
        fields = [exploded_field(self._rows.schema[name], name in self.items) for name in names]
        if number:
            fields.append(Field.dense(number, "i8", doc="the number of the row that the item was in"))
        tokens = sorted([name, d.token] for name, d in derived)
        old = base.manifest
        uuid = hashed("explode", names, items, lists, number, tokens, old.uuid)
        self._tag = TAG + uuid[:16]
        schema = Schema(fields)
        manifest = Manifest(uuid, old.generation, old.block_rows, schema, (), old.attrs, old.aux, old.aux_layers)
        super().__init__(bases, (names, items, lists, number, derived), base.path, manifest)

    @property
    def addressable(self) -> bool:
        return False

    @property
    def in_files(self) -> bool:
        return False

    @once
    def parts(self) -> tuple[Part, ...]:
        found = []
        for number, p in enumerate(self.bases[0].parts):
            n = self._n_items(number)
            width = sum(self._width(number, name) for name in self.schema)
            found.append(Part(n, tuple([i + self._tag for i in p.layers]), int(width * n)))
        return tuple(found)

    def _n_items(self, part: int) -> int:
        """Items of a part, as it says itself."""
        base = self.bases[0]
        below, number, name = base.source(part, self.lists)
        if isinstance(below, ByRows):
            return int(counts_at(base, part, self.lists, slice(0, base.parts[part].rows)).sum())
        return outer_offsets(below, number, name)[2]

    def _width(self, part: int, name: str) -> float:
        """Bytes of a field in a row, about."""
        base = self.bases[0]
        if name == self.number:
            return 8.0
        if name in self._rows.derived:
            return float(self._rows.schema[name].item_nbytes)
        layer, stored = base.stored(part, name)
        if stored.values is None:
            return 0.0
        n = self._n_items(part) if name in self.items else layer.rows
        return layer.field_nbytes(name) / max(n, 1)

    # What a part holds ----------------------------------------------------------------------------------------------

    def layer(self, layer_id: str) -> Layer:
        return self.bases[0].layer(layer_id.removesuffix(self._tag))

    def stored(self, part: int, name: str) -> tuple[Layer, StoredField]:
        found = self._stored.get((part, name))
        if found is None:
            found = self._stored[part, name] = self._described(part, self.schema[name])
        return found

    def _described(self, part: int, field: Field) -> tuple[Layer, StoredField]:
        """A layer of nothing but this field.

        Its smallest and largest values are not known: those of rows without items are none of them.
        """
        base, name = self.bases[0], field.name
        own = name != self.number
        derived = self._rows.derived.get(name)
        read = [self.lists, *(derived.expression.fields if derived is not None else [name] if own else [])]
        layers = [base.stored(part, each)[0] for each in read]
        # What its values depend on; row numbers on where the part is, too.
        what = derived.token if derived is not None else "" if own else int(base.starts[part])
        about = hashed("explode", name, name in self.items, self.lists, what, [[x.id, x.rows] for x in layers])
        before = base.stored(part, name)[1] if own and derived is None else StoredField(field.kind)
        n = self.parts[part].rows
        stored = StoredField(
            field.kind,
            values=None if before.constant is not None else 0,
            labels=before.labels,
            constant=before.constant,
            valid=tuple([1 if d in field.optional else None for d in range(field.levels + 1)])
            if field.optional
            else (),
        )
        # One array says how many bytes are read; nobody asks for it, as there is none.
        arrays = tuple([ArraySpec("", np.dtype("u1"), (k,), ()) for k in (int(self._width(part, name) * n), 0)])
        layer_id = f"{stored_id(layers[-1].id)}{TAG}{about[:16]}"
        return Layer(layer_id, n, {name: stored}, arrays, path=layers[-1].path), stored

    def source(self, part: int, name: str) -> tuple[Snapshot, int, str]:
        return self, part, name

    # Rows -----------------------------------------------------------------------------------------------------------

    def offsets(self, part: int) -> Int64s:
        """Where the items of each row of a part of the base begin, int64 ``(rows + 1,)``: checked once."""
        key = self.key, part
        found = OFFSETS.get(key)
        if found is None:
            base = self.bases[0]
            counts = counts_at(base, part, self.lists, slice(0, base.parts[part].rows))
            found = np.zeros(len(counts) + 1, OFFSET_DTYPE)
            np.cumsum(counts, out=found[1:])
            if found[-1] != self.parts[part].rows:
                raise bad_offsets(base.stored(part, self.lists)[0], self.lists, self.parts[part].rows)
            OFFSETS.put(key, found, found.nbytes + 256)
        return found

    def _in_rows(self, part: int, start: int, stop: int) -> tuple[int, int, Int64s]:
        """The rows of the base, from one to another, that hold some items, and how many of these each has."""
        offsets = self.offsets(part)
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = max(int(np.searchsorted(offsets, stop, side="left")), first)
        if start >= stop:
            return first, first, np.zeros(0, np.int64)
        bounds = np.clip(offsets[first : last + 1], start, stop)
        return first, last, bounds[1:] - bounds[:-1]

    def read_rows(self, part: int, name: str, start: int, stop: int) -> FieldData:
        first, last, counts = self._in_rows(part, start, stop)
        base = int(self.bases[0].starts[part])
        if name == self.number:
            return FieldData(np.repeat(np.arange(base + first, base + last), counts))
        data = self._rows.read(name, base + first, base + last)
        if name not in self.items:
            return _repeated(self.schema[name], data, counts)
        return self._items_of(part, name, data, first, last)[slice(*self._within(part, first, start, stop))]

    def _within(self, part: int, first: int, start: int, stop: int) -> tuple[int, int]:
        begin = int(self.offsets(part)[first])
        return (start - begin, stop - begin) if stop > start else (0, 0)

    def _items_of(self, part: int, name: str, data: FieldData, first: int, last: int) -> FieldData:
        """The items of rows `first` to `last`, one after the other."""
        offsets = self.offsets(part)[first : last + 1]
        wrong = np.flatnonzero(data.offsets[0] != offsets - offsets[:1])
        if len(wrong):
            row = int(self.bases[0].starts[part]) + first + max(int(wrong[0]) - 1, 0)
            raise ExpressionError(
                f"{name!r} and {self.lists!r} have different numbers of items in row {row}; explode only fields whose "
                "items belong together, as ds[[...]].explode(...)"
            )
        return FieldData(data.values, data.offsets[1:], data.labels, valid=data.valid[1:])

    def numbers(self, part: int, rows: Int64s) -> Int64s:
        """The row of the base that each of some rows of a part was in."""
        found: Int64s = np.searchsorted(self.offsets(part), rows, side="right") - 1 + self.bases[0].starts[part]
        return found

    def _own(self, part: int, name: str, rows: Int64s) -> FieldData:
        return reader.take(self, name, self.starts[part] + rows)

    def take_counts(self, part: int, name: str, rows: Int64s) -> Int64s:
        if name in self.items:
            return self._own(part, name, rows).counts
        return self._rows.counts(name, self.numbers(part, rows))

    def take_valid(self, part: int, name: str, rows: Int64s) -> Flags | None:
        if name in self.items or name in self._rows.derived or name == self.number:
            return self._own(part, name, rows).valid_at(0)
        return marks.take_valid(self.bases[0], name, self.numbers(part, rows))

    def take_shapes(self, part: int, name: str, rows: Int64s) -> Int64s:
        return marks.take_shapes(self.bases[0], name, self.numbers(part, rows))

    # Selections -----------------------------------------------------------------------------------------------------

    def lifted(self, bits: Sequence[RowBits]) -> list[PartBits]:
        found: list[PartBits] = []
        for part, some in enumerate(bits[0].parts):
            if isinstance(some, bool):
                found.append(some and bool(self.parts[part].rows))
                continue
            mask = np.repeat(unpack(some, 0, self.bases[0].parts[part].rows), np.diff(self.offsets(part)))
            found.append(pack(mask) if mask.any() else False)
        return found

    def span(self, spans: Sequence[range]) -> range | None:
        [span] = spans
        if span.step != 1:
            return None
        return range(self._first_of(span.start), self._first_of(span.stop)) if len(span) else range(0)

    def _first_of(self, row: int) -> int:
        """The number of items before a row of the base, which may be the one behind the last."""
        base = self.bases[0]
        if row >= base.rows:
            return self.rows
        part = base.part_of(row)
        return int(self.starts[part] + self.offsets(part)[row - base.starts[part]])


def exploded_field(field: Field, is_item: bool) -> Field:
    """A field that is repeated for each item, or that has one item of its lists per row."""
    if not is_item:
        return replace(field, expression="") if field.expression else field
    optional = tuple(d - 1 for d in field.optional if d)
    kind = "dense" if field.kind == "ragged" and field.levels == 1 else field.kind
    return replace(field, kind=kind, levels=field.levels - 1, optional=optional, expression="")


def _repeated(field: Field, data: FieldData, counts: Int64s) -> FieldData:
    """Each row so many times; a constant stays one value."""
    if not field.n_offsets and not data.values.strides[0] and len(data) and data.valid_at(0) is None:
        return replace(data, values=np.broadcast_to(data.values[0], int(counts.sum())))
    return gather_rows(field, data, np.repeat(np.arange(len(data)), counts))
