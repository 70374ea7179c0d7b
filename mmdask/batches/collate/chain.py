"""The steps for one field, put in their order: cut rows, give them a form, change the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask.batches.collate.arrays import AsType, ExpandDims, OneHot, Squeeze
from mmdask.batches.collate.base import Fetch, Form, Int64s, Items, Made, Maker, Take, axes_of, extents_of, in_lists
from mmdask.batches.collate.cropping import Crop, Window
from mmdask.batches.collate.forms import Equal, Nested, Pack, Plain
from mmdask.batches.collate.padding import Pad
from mmdask.batches.ordering import order
from mmdask.batches.ordering.row_rng import RowRng
from mmdask.errors import OptionError
from mmdask.rows.reading.gathering import gather_rows
from mmdask.schema import Field, FieldData

__all__ = ["Chain", "Step", "chain_of"]

Cut = Crop | Window
Final = Pad | Pack | Nested | Plain | Equal
After = AsType | ExpandDims | Squeeze | OneHot
#: what a caller may put into ``collate=``
Step = Crop | Window | Pad | Pack | Nested | AsType | ExpandDims | Squeeze | OneHot
Cuts = tuple[Int64s, Int64s, Int64s]  # extents, begin, kept


@dataclass(frozen=True)
class Chain:
    """What becomes of one field.

    Parameters
    ----------
    name : str
        The name in ``collate=``, on which random windows depend: members of a record have the same.
    field : Field
        As it is read.
    casts : tuple of AsType
        Before rows have a form, so that padding need not fit the dtype of the field.
    cuts : tuple of Crop or Window
        What is kept of rows.
    final : step
        What gives them a form.
    after : tuple
        What is done to the arrays.
    form : Form
        Of what comes out.
    """

    name: str
    field: Field
    casts: tuple[AsType, ...]
    cuts: tuple[Cut, ...]
    final: Final
    after: tuple[After, ...]
    form: Form

    @property
    def cast(self) -> Field:
        """The field with the dtype that rows have when they get their form."""
        return replace(self.field, dtype=self.casts[-1].dtype) if self.casts else self.field

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the chains of other fields, and of the same field in a stack."""
        return self.name, self.field.name

    def reads_alone(self, fetch: Fetch) -> bool:
        """Whether no other step can use what it reads, because it reads some items only, or reads them padded."""
        if not fetch.rows.is_stored(self.field.name) or not self.field.n_offsets:
            return False
        return bool(self.cuts) or self._pads_at_once

    @property
    def _pads_at_once(self) -> bool:
        field, final = self.field, self.final
        plain = isinstance(final, Pad) and final.is_plain and not self.casts and not self.cuts
        return plain and in_lists(field) and field.n_offsets == 1 and not field.optional

    def maker(self, fetch: Fetch, data: FieldData | None, cuts: Cuts | None) -> tuple[Maker, Items | None]:
        """What makes the entries of batches, and the rows if they were not read in their last form at once.

        Parameters
        ----------
        fetch : Fetch
            The rows.
        data : FieldData or None
            Their data, unless the chain reads alone.
        cuts : tuple or None
            What is kept of them, if there are cuts.
        """
        items = None
        if data is None and self._pads_at_once:
            assert isinstance(self.final, Pad)
            make = self.final.read(self.field, fetch)
        else:
            items = self._items(fetch, data, cuts)
            make = self.final.maker(items)
        if not self.after:
            return make, items

        def and_after(take: Take) -> Made:
            value, mask = make(take)
            for step in self.after:
                value = step.apply(self.field.name, value)
            return Made(value, mask)

        return and_after, items

    # Cutting ----------------------------------------------------------------------------------------------------------

    def extents(self, fetch: Fetch, data: FieldData | None) -> Int64s:
        """How long the rows are on each axis; of lists, on the first alone."""
        return extents_of(self.field, fetch.rows, fetch.numbers, data)

    def cut(self, fetch: Fetch, extents: Int64s) -> Cuts:
        """What is kept of rows that are so long."""
        begin, kept = np.zeros_like(extents), extents
        for number, step in enumerate(self.cuts):
            least = None
            if step.needs_least:
                least = np.empty_like(extents)
                for take in fetch.takes:
                    least[take.rows] = self._least(take, self._kept_of_all(fetch, take, extents, number))
            key = order.epoch_key(fetch.seed, fetch.epoch, f"window of rows {self.name}", number)
            bits = RowRng(key, fetch.streams).bits() if isinstance(step, Window) else np.empty(0, np.uint64)
            begin = begin + step.begin(kept, bits)
            kept = step.kept(kept, least)
        return extents, begin, kept

    def shortest(self, fetch: Fetch) -> Int64s:
        """How long the shortest row of each batch is on each axis before rows are cropped to it.

        int64 ``(batches, axes)``; `_NONE` where there is no row. Where they are cropped to it again, all are equal.
        """
        number = next(i for i, cut in enumerate(self.cuts) if cut.needs_least)
        extents = self.extents(fetch, None)
        found = [self._kept_of_all(fetch, take, extents, number).min(0, initial=_NONE) for take in fetch.takes]
        return np.stack(found)

    def _least(self, take: Take, kept: Int64s) -> Int64s:
        """How long the shortest of the rows of a batch is on each axis, those of other loaders with it."""
        least: Int64s = kept.min(0, initial=_NONE)
        others = (take.shortest or {}).get(self.key)
        return least if others is None else np.minimum(least, others)

    def longest(self, fetch: Fetch) -> Int64s:
        """How long the longest row of each batch is on each axis when it gets its form, int64 ``(batches, axes)``.

        Of lists in lists, on all levels.
        """
        if in_lists(self.field) and axes_of(self.field) > 1:
            data = self._again(fetch).data
            levels = [[np.diff(o) for o in data[take.rows].offsets] for take in fetch.takes]
            return np.array([[int(counts.max(initial=0)) for counts in each] for each in levels])
        extents = self.extents(fetch, None)
        found = [self._kept_of_all(fetch, take, extents, len(self.cuts)).max(0, initial=0) for take in fetch.takes]
        return np.stack(found)

    def _kept_of_all(self, fetch: Fetch, take: Take, extents: Int64s, n_steps: int) -> Int64s:
        """How long the rows of a batch on all ranks are behind so many steps, ``(rows of all ranks, axes)``."""
        if take.alone:
            kept = extents[take.rows]
        else:
            # Of a field that is computed, the lengths of lists of which no one knows them are those of its values.
            kept = extents_of(self.field, fetch.rows, take.everyone)
        for step in self.cuts[:n_steps]:
            least = np.broadcast_to(self._least(take, kept), kept.shape) if step.needs_least else None
            kept = step.kept(kept, least)
        return kept

    def _items(self, fetch: Fetch, data: FieldData | None, cuts: Cuts | None) -> Items:
        name = self.field.name
        if data is None and cuts is None:
            data = fetch.rows.take_many([name], fetch.numbers)[name]
        if cuts is None:
            assert data is not None
            extents = extents_of(self.field, fetch.rows, fetch.numbers, data) if axes_of(self.field) else _NO_AXES
            begin, kept = np.zeros_like(extents), extents
        else:
            extents, begin, kept = cuts
            data, begin = self._read_cut(fetch, data, extents, begin, kept)
        for step in self.casts:
            data = replace(data, values=step.converted(name, data.values))

        def lengths(take: Take) -> Int64s:
            return self._kept_of_all(fetch, take, extents, len(self.cuts))

        return Items(self.cast, data, extents, begin, kept, lengths, self._again, fetch, self.key)

    def _again(self, fetch: Fetch) -> Items:
        extents = self.extents(fetch, None)
        return self._items(fetch, None, self.cut(fetch, extents) if self.cuts else None)

    def _read_cut(
        self, fetch: Fetch, data: FieldData | None, extents: Int64s, begin: Int64s, kept: Int64s
    ) -> tuple[FieldData, Int64s]:
        """The items that are kept, and where the boxes of arrays begin in them."""
        field = self.field
        if field.kind == "dense":
            if data is None:
                data = fetch.rows.take_many([field.name], fetch.numbers)[field.name]
            return data, begin
        inner = extents[:, 1:].prod(1)  # items for every step along the first axis
        items = begin[:, 0] * inner, kept[:, 0] * inner
        if data is None and fetch.rows.is_stored(field.name):
            data = fetch.rows.take_items(field.name, fetch.numbers, *items)
        else:
            if data is None:
                data = fetch.rows.take_many([field.name], fetch.numbers)[field.name]
            data = gather_rows(field, data, np.arange(len(data)), items)
        if data.shapes is not None:
            begin, shapes = begin.copy(), data.shapes.copy()
            begin[:, 0], shapes[:, 0] = 0, kept[:, 0]
            return replace(data, shapes=shapes), begin
        for level in range(1, field.n_offsets):
            data = self._cut_lists(data, level)
        return data, begin

    def _cut_lists(self, data: FieldData, level: int) -> FieldData:
        """Rows of several levels whose lists of one level are cut."""
        most = [n for step in self.cuts if isinstance(n := step.length(level), int)]
        if not most:
            return data
        optional = tuple(depth - level for depth in self.field.optional if depth >= level)
        field = replace(self.field, levels=self.field.levels - level, optional=optional)
        lists = FieldData(data.values, data.offsets[level:], valid=data.valid[level:])
        counts = np.minimum(lists.counts, min(most))
        lists = gather_rows(field, lists, np.arange(len(lists)), (np.zeros_like(counts), counts))
        offsets, valid = data.offsets[:level] + lists.offsets, data.valid[:level] + lists.valid
        return replace(data, values=lists.values, offsets=offsets, valid=valid)


_NO_AXES = np.zeros((0, 0), np.int64)
#: longer than any row
_NONE = 1 << 62


def chain_of(name: str, field: Field, asked: object) -> Chain:
    """The steps that a caller asks for, in their places, or what a field has by default; checked.

    Raises
    ------
    OptionError
        When one is no step, stands in the wrong place, or does not fit the field.
    """
    steps = _listed(name, asked)
    casts: list[AsType] = []
    cuts: list[Cut] = []
    before = (Crop, Window) if field.kind in ("string", "category") else (Crop, Window, AsType)
    while steps and isinstance(steps[0], before):
        step = steps.pop(0)
        if isinstance(step, AsType):
            casts.append(step)
        else:
            step.check(field)
            cuts.append(step)
    typed = field
    for cast in casts:
        typed = replace(typed, dtype=cast.cast(field.name, typed.dtype))
    final = steps.pop(0) if steps and isinstance(steps[0], Pad | Pack | Nested) else _final(field, cuts)
    final.check(typed)
    if cuts and field.kind == "shaped" and not isinstance(final, Pad | Equal):
        raise OptionError(f"field {field.name!r}: {final} does not serve arrays that are cut; mm.pad() does")
    form = final.form(typed)
    after: list[After] = []
    for step in steps:
        if not isinstance(step, AsType | ExpandDims | Squeeze | OneHot):
            raise OptionError(
                f"field {field.name!r}: {step} comes too late; the order is mm.crop() or mm.window(), then mm.pad(), "
                "mm.packed() or mm.nested(), then steps for arrays"
            )
        after.append(replace(step, n=len(form.labels or ())) if isinstance(step, OneHot) else step)
        form = step.form(field.name, form)
    return Chain(name, field, tuple(casts), tuple(cuts), final, tuple(after), form)


def _final(field: Field, cuts: Sequence[Cut]) -> Final:
    """What gives rows a form if the caller says nothing about it."""
    if cuts:
        return Equal(_lengths(cuts, axes_of(field)), str(cuts[-1]))
    return Pack() if field.kind == "ragged" else Plain()


def _listed(name: str, asked: object) -> list[Any]:
    if asked is None:
        return []
    steps = list(asked) if isinstance(asked, list | tuple) else [asked]
    for step in steps:
        if not isinstance(step, Step):
            raise OptionError(
                f"collate[{name!r}] is a step like mm.pad(22) or mm.packed(), or a list of steps; got {step!r}"
            )
    return steps


def _lengths(cuts: Sequence[Cut], axes: int) -> tuple[int | None, ...]:
    """What cuts make of each axis, where they say a number."""
    found = []
    for axis in range(axes):
        asked = [cut.length(axis) for cut in cuts]
        numbers = [n for n in asked if isinstance(n, int)]
        found.append(min(numbers) if numbers and "min" not in asked else None)
    return tuple(found)
