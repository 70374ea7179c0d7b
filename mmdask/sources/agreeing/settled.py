"""The fields of a conversion where inputs differ: what all agree on, and what each has to do for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask.errors import SchemaError
from mmdask.schema import Field
from mmdask.sources.agreeing.agree import Known
from mmdask.sources.agreeing.mismatch import MODES, Modes
from mmdask.sources.agreeing.promote import common_field

__all__ = ["NOT_COMMON", "Settled", "StoredOtherwiseError", "nothing_common", "settle_fields"]

#: how the reason begins when a field is left out since inputs differ
NOT_COMMON = "not alike in all inputs: "


class StoredOtherwiseError(SchemaError):
    """Rows that are stored already would have to be others."""


@dataclass(frozen=True)
class Settled:
    """What inputs agreed on.

    `reads` are the fields as expressions see them, `stored` as they are stored, and `dropped` those that are left out,
    with the reason.
    """

    reads: Mapping[str, Field]
    stored: Mapping[str, Field]
    dropped: Mapping[str, str]


def settle_fields(
    inputs: Sequence[Known],
    modes: Modes,
    pad: Callable[[Field], Field] | None = None,
    kept: frozenset[str] | None = None,
) -> Settled:
    """What the fields of inputs become together.

    Parameters
    ----------
    inputs : sequence of Known
        Those that are stored are as they are; the others can become what `modes` allow.
    modes : Modes
        What is done with each field.
    pad : callable, optional
        From a field to that as which it is stored.
    kept : set of str, optional
        Fields that are stored; all by default. The others are only read, so that stored inputs do not have them.

    Raises
    ------
    SchemaError
        Naming what differs and may not.
    StoredOtherwiseError
        When rows that are stored would have to be others.
    """
    reads: dict[str, Field] = {}
    stored: dict[str, Field] = {}
    dropped: dict[str, str] = {}
    wrong: list[str] = []
    conflicts: list[str] = []
    for name in dict.fromkeys(n for k in inputs for n in k.fields):
        found = _settle_one(name, inputs, modes.of(name), pad, kept is None or name in kept)
        if found.problem:
            (conflicts if found.conflict else wrong).append(found.problem)
        elif found.dropped:
            dropped[name] = found.dropped
        else:
            assert found.read is not None
            reads[name] = found.read
            stored[name] = found.stored or found.read
    if wrong:
        raise SchemaError(
            f"{_some(wrong)}. Choose fields with fields or exclude, or say what to do with these: "
            "on_mismatch={'name': 'common'} leaves one out, 'promote' takes what holds all values, and a dtype, as "
            "'float64', is taken if it holds them"
        )
    if conflicts:
        raise StoredOtherwiseError(f"{_some(conflicts)}. Pass update=True (--update) to convert all inputs again")
    return Settled(reads, stored, dropped)


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:5]) + ("; ..." if len(texts) > 5 else "")


def nothing_common(inputs: Sequence[Known]) -> str:
    """For a message: why no field is alike in all inputs, and which of them is the odd one, if one is.

    Examples
    --------
    >>> a, b = (Known(where, {"x": Field.dense("x", "f4")}, frozenset(), {}) for where in "ab")
    >>> nothing_common([a, b, Known("c", {"y": Field.dense("y", "f4")}, frozenset(), {})])
    "none is alike in all 3 inputs. All but c have 'x' alike; c has 'y' (float32)"
    """
    having: dict[tuple[Any, ...], list[int]] = {}
    for i, known in enumerate(inputs):
        for name, f in known.fields.items():
            having.setdefault((name, f.kind, f.dtype, f.shape, f.levels), []).append(i)
    alike: dict[int, list[str]] = {}  # fields that all inputs but one have alike, by that one
    for (name, *_), some in having.items():
        if len(some) == len(inputs) - 1 > 1:
            odd = next(i for i in range(len(inputs)) if i not in some)
            alike.setdefault(odd, []).append(str(name))
    text = f"none is alike in all {len(inputs)} inputs"
    if alike:
        odd = max(alike, key=lambda i: len(alike[i]))
        return f"{text}. All but {inputs[odd].where} have {_names(alike[odd])} alike; {_has(inputs[odd])}"
    shown = "; ".join(map(_has, inputs[:3])) + (f"; and {len(inputs) - 3} more" if len(inputs) > 3 else "")
    return f"{text}: {shown}"


def _has(known: Known) -> str:
    return f"{known.where} has {_names([f'{f.name!r} ({f.describe()})' for f in known.fields.values()], str)}"


def _names(names: Sequence[str], show: Callable[[str], str] = repr) -> str:
    return ", ".join(map(show, names[:5])) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


@dataclass(frozen=True)
class _One:
    """What became of a field."""

    read: Field | None = None
    stored: Field | None = None
    dropped: str = ""
    problem: str = ""
    conflict: bool = False


def _settle_one(
    name: str, inputs: Sequence[Known], mode: str, pad: Callable[[Field], Field] | None, is_kept: bool
) -> _One:
    having = [k for k in inputs if name in k.fields]
    lacking = [k for k in inputs if name not in k.fields and name not in k.unreadable and (is_kept or not k.stored)]
    free = [k for k in having if not k.stored]
    first = having[0]
    if lacking and mode not in ("promote", *_dtypes(mode)):
        return _refused(mode, name, _absence(name, lacking[0], first))
    if other := [k for k in lacking if name in k.other]:
        return _One(problem=f"field {name!r} {_absence(name, other[0], first)}")
    if not free:
        read = first.fields[name]
    else:
        layouts = [_asked(k.fields[name], mode) for k in free]
        if is_kept:
            layouts += [_unpadded(k.fields[name], layouts[0], pad) for k in having if k.stored]
        if mode in ("error", "common"):
            odd = next((k for k in free if not k.fields[name].same_layout(free[0].fields[name])), None)
            if odd is not None:
                return _refused(mode, name, _difference(name, odd, free[0]))
        together = common_field(layouts)
        if isinstance(together, str):
            odd = next(k for k in having if not k.fields[name].same_layout(free[0].fields[name]))
            return _One(problem=f"field {name!r} {_difference(name, odd, free[0])}: {together}")
        read = together
    if lacking:
        read = replace(read, optional=tuple(sorted({0, *read.optional})))
    stored = read if pad is None or not free else pad(read)
    for k in [k for k in having if k.stored and is_kept]:
        has = k.fields[name]
        if not has.same_layout(stored):
            odd = next((o for o in free if not o.fields[name].same_layout(has)), None)
            why = "" if odd is None else f"and is {odd.fields[name].describe()} in {odd.where}, "
            problem = f"field {name!r} is stored as {has.describe()} ({k.where}), {why}so that it becomes "
            problem += stored.describe()
            if mode in ("error", "common") and free:
                return _refused(mode, name, _difference(name, free[0], k))
            return _One(problem=problem, conflict=True)
        stored = replace(stored, optional=tuple(sorted({*stored.optional, *has.optional})))
    if late := [k for k in lacking if k.stored]:
        problem = f"field {name!r} is in {first.where}, and rows that are stored ({late[0].where}) have none"
        return _One(problem=problem, conflict=True)
    return _One(read, stored)


def _dtypes(mode: str) -> tuple[str, ...]:
    return () if mode in MODES else (mode,)


def _asked(field: Field, mode: str) -> Field:
    """A field of numbers with the dtype that was asked for."""
    if mode in MODES or field.kind not in ("dense", "ragged", "shaped") or field.dtype.kind not in "biufc":
        return field
    return replace(field, dtype=np.dtype(mode))


def _unpadded(stored: Field, like: Field, pad: Callable[[Field], Field] | None) -> Field:
    """A stored field before it was padded; how long its rows were is not known, and does not matter."""
    is_padded = pad is not None and not pad(like).same_layout(like)
    return replace(like, dtype=stored.dtype) if is_padded else stored


def _refused(mode: str, name: str, problem: str) -> _One:
    return _One(dropped=NOT_COMMON + problem) if mode == "common" else _One(problem=f"field {name!r} {problem}")


def _difference(name: str, odd: Known, first: Known) -> str:
    return f"is {odd.fields[name].describe()} in {odd.where}, but {first.fields[name].describe()} in {first.where}"


def _absence(name: str, lacking: Known, first: Known) -> str:
    why = lacking.other.get(name, "")
    there = f"is {first.fields[name].describe()} in {first.where}, and"
    return f"{there} cannot be converted in {lacking.where}: {why}" if why else f"{there} missing in {lacking.where}"
