"""What becomes of all fields of a batch: single ones, members of records together, several stacked in one array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate.arrays import common_dtype
from mmdask.batches.collate.base import Fetch, Int64s, Items, Made, Packed, Take
from mmdask.batches.collate.chain import Chain, Cuts, Step, chain_of
from mmdask.errors import ExpressionError, OptionError, did_you_mean
from mmdask.schema import Field, FieldData, Schema
from mmdask.short import members_of

__all__ = ["Collate", "Group", "Plan", "Stack", "plan_for", "stack"]

#: gives the entries of one batch
Entries = Callable[[Take], Iterator[tuple[str, Any]]]


@dataclass(frozen=True)
class Stack:
    """Several fields as one array. Made by `stack`."""

    fields: tuple[str, ...]
    step: Step | Sequence[Step] | None = None


def stack(*fields: str, step: Step | Sequence[Step] | None = None) -> Stack:
    """Hand out several fields as one array, with a last axis that runs over the fields, in a common dtype.

    It stands under a new name, as ``collate={"jets": mm.stack("jet_pt", "jet_eta", step=mm.pad(22))}``, which makes
    ``batch["jets"]``, ``(rows, 22, 2)``, and ``batch["jets_mask"]``, ``(rows, 22)``. The fields are not in the batch
    under their own names.

    Parameters
    ----------
    *fields : str
        Names, patterns (``"jet_*"``) or records, in the order of the last axis, of those that the loader reads.
    step : step or list of steps, optional
        What is done with each field before; nothing for dense fields, `packed` for lists.

    Raises
    ------
    OptionError
        When there are no fields; when the loader is made, if their shapes or steps do not fit.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], []], "jet_eta": [[0.5, -1.0], []]}, "stacked.mm")
    >>> loader = ds.batches(2, shuffle=False, collate={"jets": mm.stack("jet_pt", "jet_eta", step=mm.pad(2))})
    >>> loader[0]["jets"][0].tolist(), loader[0]["jets_mask"].tolist()
    ([[50.0, 0.5], [30.0, -1.0]], [[True, True], [False, False]])
    """
    if not fields or not all(isinstance(name, str) for name in fields):
        raise OptionError(
            f"stack takes names of fields, as mm.stack('jet_pt', 'jet_eta', step=mm.pad(8)); got {fields}"
        )
    return Stack(fields, step)


#: what a caller asks for: steps by the name of a field or record, or a stack under a new name
Collate = Mapping[str, Step | Sequence[Step] | Stack]


@dataclass(frozen=True)
class Group:
    """One field, or several that go through the same steps and have one mask.

    Parameters
    ----------
    name : str
        In ``collate=``; of the mask.
    chains : tuple of Chain
        One for each field.
    stacked : numpy.dtype, optional
        Of the array that is made of all of them; None if each is an entry.
    """

    name: str
    chains: tuple[Chain, ...]
    stacked: np.dtype[Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The entries that it makes."""
        fields = [chain.field for chain in self.chains]
        names = [self.name] if self.stacked is not None else [f.name for f in fields]
        if getattr(self.chains[0].final, "mask", False):
            names.append(f"{self.name}_mask")
        if self.stacked is None:
            return (*names, *(f"{f.name}_valid" for f in fields if 0 in f.optional))
        return (*names, *[f"{self.name}_valid"] * any(0 in f.optional for f in fields))

    def takes(self, fetch: Fetch) -> list[str]:
        """Fields of which it wants all rows as they are."""
        return [chain.field.name for chain in self.chains if not chain.reads_alone(fetch)]

    def entries(self, fetch: Fetch, taken: Mapping[str, FieldData]) -> Entries:
        """What gives the entries of batches, of rows that were fetched together."""
        data = [taken.get(chain.field.name) for chain in self.chains]
        cuts = self._cuts(fetch, data) if self.chains[0].cuts else None
        made = [chain.maker(fetch, d, cuts) for chain, d in zip(self.chains, data, strict=True)]
        makers = [make for make, _ in made]
        items = [i for _, i in made]
        if self.name == self.chains[0].field.name:
            return self._one(makers[0], items[0])
        self._check_counts(fetch, items)
        return self._several(makers, items, fetch)

    def _one(self, make: Callable[[Take], Made], items: Items | None) -> Entries:
        name, valid = self.name, None if items is None else items.valid

        def entries(take: Take) -> Iterator[tuple[str, Any]]:
            value, mask = make(take)
            yield name, value
            if mask is not None:
                yield f"{name}_mask", mask
            if valid is not None:
                yield f"{name}_valid", valid[take.rows]

        return entries

    def _several(self, makers: list[Callable[[Take], Made]], items: list[Items | None], fetch: Fetch) -> Entries:
        fields = [chain.field for chain in self.chains]
        valid = {f.name: i.valid for f, i in zip(fields, items, strict=True) if i is not None and i.valid is not None}

        def entries(take: Take) -> Iterator[tuple[str, Any]]:
            made = [make(take) for make in makers]
            if self.stacked is None:
                yield from ((f.name, value) for f, (value, _) in zip(fields, made, strict=True))
            else:
                yield self.name, stacked([value for value, _ in made], self.stacked)
            masks = [mask for _, mask in made if mask is not None]
            if masks:
                yield f"{self.name}_mask", self._mask(fields, masks, fetch, take)
            if self.stacked is None:
                yield from ((f"{name}_valid", v[take.rows]) for name, v in valid.items())
            elif valid:
                yield f"{self.name}_valid", np.logical_and.reduce([v[take.rows] for v in valid.values()])

        return entries

    def _mask(
        self, fields: list[Field], masks: list[npt.NDArray[np.bool_]], fetch: Fetch, take: Take
    ) -> npt.NDArray[np.bool_]:
        """The one mask of all fields, whose items are real in the same places, unless they may be missing."""
        if any(f.optional for f in fields):
            mask: npt.NDArray[np.bool_] = np.logical_and.reduce(masks)
            return mask
        for field, mask in zip(fields[1:], masks[1:], strict=True):
            if not np.array_equal(mask, masks[0]):
                wrong = (mask != masks[0]).any(tuple(range(1, mask.ndim)))
                raise self._unequal(fields[0], field, int(fetch.numbers[take.start + int(np.argmax(wrong))]))
        return masks[0]

    def _cuts(self, fetch: Fetch, data: list[FieldData | None]) -> Cuts:
        """What is kept of the rows of all fields: the same of each."""
        first = self.chains[0]
        extents = first.extents(fetch, data[0])
        for chain, d in zip(self.chains[1:], data[1:], strict=True):
            self._same(fetch, chain, extents, chain.extents(fetch, d))
        return first.cut(fetch, extents)

    def _check_counts(self, fetch: Fetch, items: list[Items | None]) -> None:
        """That the rows of several fields are equally long, where that is not seen otherwise."""
        first = items[0]
        for chain, other in zip(self.chains[1:], items[1:], strict=True):
            if first is not None and other is not None and first.field.n_offsets and not chain.cuts:
                self._same(fetch, chain, first.extents, other.extents)

    def _same(self, fetch: Fetch, chain: Chain, expected: Int64s, found: Int64s) -> None:
        if expected.shape != found.shape:
            raise OptionError(f"collate[{self.name!r}]: {chain.field.name!r} has another number of axes")
        wrong = (expected != found).any(1)
        if wrong.any():
            row = int(fetch.numbers[int(np.argmax(wrong))])
            raise self._unequal(self.chains[0].field, chain.field, row)

    def _unequal(self, first: Field, other: Field, row: int) -> ExpressionError:
        return ExpressionError(
            f"collate[{self.name!r}]: row {row} has not as many items in {other.name!r} as in {first.name!r}; give "
            "them steps of their own"
        )


@dataclass(frozen=True)
class Plan:
    """What becomes of all fields."""

    groups: tuple[Group, ...]

    def entries(self, fetch: Fetch) -> list[Entries]:
        """What gives the entries of batches; reads the rows."""
        names = dict.fromkeys(name for group in self.groups for name in group.takes(fetch))
        taken = fetch.rows.take_many(names, fetch.numbers) if names else {}
        made = [group.entries(fetch, taken) for group in self.groups]
        fetch.found.clear()
        return made


def stacked(values: list[Any], dtype: np.dtype[Any]) -> Any:
    """Arrays, or packed ones, as one with a last axis that runs over them."""
    if isinstance(values[0], Packed):
        first = values[0]
        valid = [v.valid for v in values if v.valid is not None]
        together = np.logical_and.reduce(valid) if valid else None
        return Packed(stacked([v.values for v in values], dtype), first.offsets, together)
    if any(value.shape != values[0].shape for value in values):
        raise OptionError(f"a stack takes arrays of one shape, and these have {[v.shape[1:] for v in values]} in a row")
    out = np.empty((*values[0].shape, len(values)), dtype)
    for i, value in enumerate(values):
        out[..., i] = value
    return out


# From what a caller asks for ----------------------------------------------------------------------------------------


def plan_for(fields: list[Field], collate: Collate | None) -> Plan:
    """What becomes of fields: the steps asked for, or the default.

    Raises
    ------
    OptionError
        When a step is for a field that is not asked for, does not fit its field, or two fields would make an entry
        of the same name.
    """
    if collate is not None and not isinstance(collate, Mapping):
        raise OptionError(f"collate says what to do with each field, as {{'jet_pt': mm.pad(8)}}; got {collate!r}")
    asked = dict(collate or {})
    schema = Schema(fields)
    asked = {schema.resolve(key) if key in schema.short else key: steps for key, steps in asked.items()}
    own = [name for name in asked if name in schema and not isinstance(asked[name], Stack)]
    groups: dict[str, Group] = {}
    taken: dict[str, str] = {}  # the group of each field that does not stand alone
    for key, steps in asked.items():
        if key in own:
            continue
        group = _stack(key, steps, schema) if isinstance(steps, Stack) else _record(key, steps, schema, own)
        groups[key] = group
        for chain in group.chains:
            if isinstance(steps, Stack) and chain.field.name in own:
                continue
            before = taken.setdefault(chain.field.name, key)
            if before != key and not (isinstance(steps, Stack) and isinstance(asked[before], Stack)):
                raise OptionError(
                    f"collate[{before!r}] and collate[{key!r}] are both for {chain.field.name!r}; name its fields one "
                    "by one"
                )
    ordered: dict[str, Group] = {}
    for f in schema.values():
        key = taken.get(f.name, f.name)
        if key not in ordered:
            ordered[key] = groups[key] if f.name in taken else Group(key, (chain_of(key, f, asked.get(key)),))
    ordered |= {key: group for key, group in groups.items() if key not in ordered}
    _check_names(ordered.values())
    return Plan(tuple(ordered.values()))


def _check_names(groups: Any) -> None:
    made: dict[str, Group] = {}
    for group in groups:
        for entry in group.names:
            if entry in made:
                raise OptionError(
                    f"fields {made[entry].name!r} and {group.name!r} both make batch[{entry!r}]; leave one out"
                    f"{' or pass mask=False' * entry.endswith('_mask')}"
                )
            made[entry] = group


def _stack(key: str, asked: Stack, schema: Schema) -> Group:
    if key in schema:
        raise OptionError(f"collate[{key!r}] is a stack, and {key!r} is a field; give the stack a name of its own")
    try:
        names = schema.match(asked.fields)
    except KeyError as error:
        raise OptionError(f"collate[{key!r}]: {error}; a stack is made of fields that are in fields=") from None
    chains = tuple(chain_of(key, schema[name], asked.step) for name in names)
    forms = [chain.form for chain in chains]
    kinds = {(form.what, form.axes) for form in forms}
    shapes = {chain.field.shape for chain in chains}
    if len(kinds) > 1 or len(shapes) > 1 or forms[0].what not in ("array", "packed"):
        made = ", ".join(f"{chain.field.name!r} ({chain.field.describe()}): {chain.form}" for chain in chains)
        raise OptionError(f"collate[{key!r}]: a stack takes arrays of one shape, and its fields make {made}")
    return Group(key, chains, common_dtype(key, {chain.field.name: chain.form.dtype for chain in chains}))


def _record(key: str, steps: Any, schema: Schema, own: list[str]) -> Group:
    """The members of a record, or the fields whose names begin so, that have no steps of their own."""
    found = [f for f in schema.values() if f.record and f.record == key]
    found = found or [schema[name] for name in members_of(key, schema)]
    lists = [f for f in found if f.levels]
    every = lists or found
    found = [f for f in every if f.name not in own]
    if every and not found:
        both = " and ".join(repr(f.name) for f in every)
        raise OptionError(
            f"collate has two steps for {both}: by {'its name' if len(every) == 1 else 'their names'}, and by {key!r}, "
            f"which has no other fields among fields={list(schema)}; leave out one"
        )
    if not found:
        names = list(schema)
        raise OptionError(
            f"collate has a step for {key!r}, which is not among fields={names}"
            f"{did_you_mean(key, names)}; add it to fields= or drop the step"
        )
    return Group(key, tuple(chain_of(key, f, steps) for f in found))
