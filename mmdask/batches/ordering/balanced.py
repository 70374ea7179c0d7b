"""Epochs in which classes of rows have given shares of every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering.quotas import Quotas
from mmdask.batches.ordering.sequence import Sequence
from mmdask.errors import OptionError, did_you_mean
from mmdask.expr import Expression, spelled_name
from mmdask.kernels.hashing import hash_key
from mmdask.rows.cuts.passes import Runner, run_serially
from mmdask.rows.sums.counting import check_by, count_passing

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["BalancedSequence", "Class", "checked_shares", "classes_of", "rows_of_stream", "seed_of", "spans_of_stream"]

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Class:
    """Rows that are drawn together.

    Parameters
    ----------
    label : str or int
        Their value of the field that classes go by.
    share : float
        Of every batch, in proportion to those of the others.
    cut : Expression
        Which rows they are.
    """

    label: str | int
    share: float
    cut: Expression


def classes_of(rows: Rows, balance: object, run: Runner = run_serially) -> tuple[Class, ...]:
    """The classes that a caller asks for; counts the rows of each, in one pass over their field.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    balance : str or mapping
        A field, of which all values that occur get one share; or ``{value: share}`` of the only category that has all
        these labels; or ``{field: {value: share}}``.
    run : callable
        Runs the tasks.

    Raises
    ------
    FieldNotFoundError, OptionError
        When there is no such field or no row of a class, or shares are no positive numbers.
    """
    name, wanted = _what(rows, balance)
    try:
        check_by(name, rows.schema)
        counted = count_passing(rows, (), by=name, run=run)
    except OptionError as error:
        text = str(error)
        raise OptionError(f"balance{text.removeprefix('by') if text.startswith('by=') else f': {text}'}") from None
    labels = rows.schema[name].labels if rows.schema[name].kind == "category" else None
    found: dict[Any, int] = {}
    for group, n in zip(counted.groups, counted.tally.together.n[:, 0].tolist(), strict=True):
        if group is None and n and wanted is None:
            raise OptionError(
                f"balance={name!r}: it is missing in {n:,} of these rows, which are of no class; select the others: "
                f"ds[ds.cut({f'not ismissing({spelled_name(name)})'!r})].batches(...)"
            )
        if n and group is not None:
            found[group if labels is None else labels[group]] = n
    if wanted is None:
        wanted = dict.fromkeys(found, 1.0)
    for label in wanted:
        if label not in found:
            near = did_you_mean(label, [x for x in found if isinstance(x, str)]) if isinstance(label, str) else ""
            raise OptionError(f"balance: no row has {name} {label!r}{near}; those there are have {list(found)[:20]}")
    # A constant needs a name that no field has.
    constant = "value"
    while constant in rows.schema:
        constant += "_"
    field = spelled_name(name)
    flag = rows.schema[name].kind == "dense" and rows.schema[name].dtype.kind == "b"
    made = []
    for label, share in wanted.items():
        if flag:
            cut = rows.check_cut(field if label else f"not {field}")
        else:
            cut = rows.check_cut(f"{field} == {constant}", {constant: label})
        made.append(Class(label if isinstance(label, str) else int(label), share, cut))
    return tuple(made)


def _what(rows: Rows, balance: object) -> tuple[str, dict[Any, float] | None]:
    """The field of the classes, and their shares if they are given."""
    if isinstance(balance, str):
        return balance, None
    if not isinstance(balance, Mapping) or not balance:
        raise OptionError(
            "balance is a field, as 'process', or the shares of its values, as {'ttH': 0.5, 'ttbb': 0.5}; got "
            f"{balance if isinstance(balance, Mapping) else type(balance).__name__}"
        )
    if len(balance) == 1 and isinstance(next(iter(balance.values())), Mapping):
        [(name, shares)] = balance.items()
        rows.schema[name]
        return name, checked_shares("balance", shares)
    labels = set(balance)
    names = [f.name for f in rows.schema.values() if f.kind == "category" and not f.levels and labels <= set(f.labels)]
    if len(names) != 1:
        which = f"the fields {names} have" if names else "no category of these rows has"
        raise OptionError(f"balance: {which} the labels {list(balance)}; name the field: {{'process': {{...}}}}")
    return names[0], checked_shares("balance", balance)


def checked_shares(what: str, shares: Mapping[Any, Any]) -> dict[Any, float]:
    """Shares as numbers.

    Raises
    ------
    OptionError
        When one is not positive and finite.
    """
    for label, share in shares.items():
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not number or not 0 < share < math.inf:
            raise OptionError(f"{what}: the share of {label!r} is {share!r}; a share is a number above 0")
    if not shares:
        raise OptionError(f"{what}: no shares are given")
    return {label: float(share) for label, share in shares.items()}


def seed_of(seed: int, label: str | int) -> int:
    """The seed of the order of a class."""
    return hash_key("mmdask.balance", seed, label)


class BalancedSequence:
    """Classes that take turns by their shares, each in an order of its own.

    An epoch has as many rows as the classes together. A class is gone through again and again, from one epoch into
    the next, so that at any time none of its rows was handed out more than once more often than another.

    Parameters
    ----------
    classes : list of Sequence
        The orders of the classes.
    shares : tuple of float
        Theirs.
    """

    def __init__(self, classes: list[Sequence], shares: tuple[float, ...]) -> None:
        self.classes = classes
        self.quotas = Quotas(shares)
        self.n = sum(c.n for c in classes)
        self._each = self.quotas.before(self.n)

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        stop = max(start, stop)
        streams = self.quotas.streams(start, stop)
        first = epoch * self._each + self.quotas.before(start)
        rows = np.empty(stop - start, np.int64)
        for i, n in enumerate(np.bincount(streams, minlength=len(self.classes)).tolist()):
            if n:
                rows[streams == i] = rows_of_stream(self.classes[i], int(first[i]), n)
        return rows


def rows_of_stream(sequence: Sequence, first: int, n: int) -> Int64s:
    """Rows number `first` to `first + n` of all epochs of a sequence, one after the other; int64."""
    pieces = [sequence.rows_at(*span) for span in spans_of_stream(sequence.n, first, n)]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.int64), *pieces])


def spans_of_stream(size: int, first: int, n: int) -> Iterator[tuple[int, int, int]]:
    """Where these are in epochs of a size: each epoch, with the first position in it and the one after the last."""
    stop = first + n
    while first < stop:
        epoch, start = divmod(first, size)
        end = min(start + stop - first, size)
        yield epoch, start, end
        first += end - start
