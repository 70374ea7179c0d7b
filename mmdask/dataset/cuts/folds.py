"""`Folds`: rows in k folds, to train on all but one of them and test on that one; and a split of any kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.dataset.lazy import LazyArray, to_dask
from mmdask.dataset.view import View
from mmdask.errors import OptionError, RowNotFoundError
from mmdask.rows.draws.dealing import Deal, Dealer, check_strata, deals
from mmdask.rows.draws.splits import (
    MAX_FOLDS,
    SPLIT_VERSION,
    Hashed,
    Modulo,
    check_key,
    check_keys,
    check_seed,
    equal_folds,
    folds,
    keys_of,
    modulo_folds,
)
from mmdask.rows.rows import Rows
from mmdask.rows.selecting import ROW_NUMBER, key_text
from mmdask.schema import FieldData
from mmdask.store.arrays.cache import Cache

__all__ = ["Folds", "How", "Splits", "how_text", "split_rows"]

How = Literal["hash", "mod", "permutation"]
_FORMAT = 1
#: how rows are dealt out, which takes a pass over classes to find
_DEALERS: Cache[Dealer] = Cache(64 << 20)


def split_rows(
    rows: Rows, fractions: Mapping[str, float], by: Any, seed: int, how: How, stratify: str | None
) -> dict[str, Rows]:
    """The rows of each split, by name; the parameters are those of `Dataset.split`."""
    _check(rows, how, by, seed, stratify)
    if how == "permutation":
        return {name: rows.dealt(*dealt) for name, dealt in deals(fractions, seed, stratify).items()}
    found = folds(fractions, by, seed) if how == "hash" else modulo_folds(fractions, by)
    return {name: rows.fold(fold) for name, fold in found.items()}


def _check(rows: Rows, how: How, by: Any, seed: int, stratify: str | None) -> None:
    """Raise unless these options go together and fit the fields."""
    if how not in get_args(How):
        raise OptionError(f"how is 'hash', 'mod' or 'permutation', got {how!r}")
    names = keys_of(by)
    check_seed(seed)
    if how == "permutation" and names:
        raise OptionError(
            f"how='permutation' deals out single rows, not those of one {names[0]!r} together; leave by= out, or split "
            "by how='hash'"
        )
    if how == "mod" and seed:
        raise OptionError("how='mod' has no randomness; leave seed= out, or split by how='hash'")
    if how == "mod" and len(names) > 1:
        raise OptionError(f"how='mod' goes by one integer, not by {list(names)}; how='hash' takes several keys")
    for name in names:
        check_key(rows.schema[name], Modulo(names, 1) if how == "mod" else None)
    if stratify is not None:
        if how != "permutation":
            raise OptionError(
                f"stratify={stratify!r} is for how='permutation', and how is {how!r}, which deals out no classes; "
                "leave stratify= out, or split by how='permutation'"
            )
        check_strata(rows.schema[stratify])


@dataclass(frozen=True)
class _Plan:
    """How rows come into folds; all of it is in `Folds.to_dict`."""

    k: int
    how: How
    by: tuple[str, ...]
    seed: int
    stratify: str | None

    @property
    def numbering(self) -> Hashed | Modulo:
        return Hashed(self.by, self.seed) if self.how == "hash" else Modulo(self.by, self.k)

    @property
    def deal(self) -> Deal:
        return Deal((1.0,) * self.k, self.seed, self.stratify)


_V = TypeVar("_V", bound=View)


class Splits(dict[str, _V]):
    """Disjoint datasets by name, which print as a table; made by `Dataset.split`."""

    def __init__(self, parts: Iterable[tuple[str, _V]] = (), how: str = "") -> None:
        super().__init__(parts)
        self._how = how

    def _cells(self) -> list[tuple[str, str]]:
        return [(name, part._count_text()) for name, part in self.items()]

    def __repr__(self) -> str:
        return f"mm.Splits: {display.terminal_safe(self._how)}\n{display.text_table(self._cells(), ('split', 'rows'))}"

    def _repr_html_(self) -> str:
        head = f"<b>mm.Splits</b> <small>{display.html_text(self._how)}</small>"
        return display.html_block(head, display.html_table(self._cells(), ("split", "rows")))


def how_text(how: str, by: Sequence[str], seed: int, stratify: str | None) -> str:
    """How rows are split, in a few words."""
    keys = "" if how == "permutation" else f" by {' and '.join(by) or 'row number'}"
    within = f" in each {stratify}" if stratify and how == "permutation" else ""
    return f"how={how!r}{keys}{within}{'' if how == 'mod' else f', seed {seed}'}"


class Folds:
    """Rows in k folds of about one size; made by `Dataset.kfold`. Iterating gives (train, test) of each fold.

    Attributes
    ----------
    k : int
        How many folds.
    how : str
        "hash", "mod" or "permutation".
    by : tuple of str
        The fields that are the key; none for the row number.
    seed : int
    stratify : str or None

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"event": range(100), "x": range(100)}, "folds.mm")
    >>> folds = ds.kfold(5, by="event", seed=7)
    >>> [len(train) + len(test) for train, test in folds]
    [100, 100, 100, 100, 100]
    >>> fold = folds.of(ds).compute()
    >>> set(ds["x"].compute()[fold == 2]) == set(folds.test(2)["x"].compute())
    True
    """

    def __init__(self, plan: _Plan, dataset: View | None, origin: Mapping[str, str]) -> None:
        self._plan = plan
        self._dataset = dataset
        self._origin = dict(origin)
        self.k, self.how, self.by, self.seed, self.stratify = plan.k, plan.how, plan.by, plan.seed, plan.stratify

    @classmethod
    def checked(cls, dataset: View, k: int, by: Any, seed: int, how: How, stratify: str | None) -> Folds:
        """The folds of a dataset; the parameters are those of `Dataset.kfold`."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= MAX_FOLDS:
            raise OptionError(f"k is a number of folds from 2 to {MAX_FOLDS:,}, got {k!r}")
        rows = dataset._rows
        _check(rows, how, by, seed, stratify)
        plan = _Plan(int(k), how, keys_of(by), seed, stratify)
        return cls(plan, dataset, _origin_of(plan, rows))

    def __repr__(self) -> str:
        p = self._plan
        return f"<{p.k} folds: {how_text(p.how, p.by, p.seed, p.stratify)}>"

    def __len__(self) -> int:
        return self.k

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for i in range(self.k):
            yield self.train(i), self.test(i)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """(train, test) of a fold."""
        return self.train(i), self.test(i)

    def train(self, i: int) -> Any:
        """The rows that are not in fold `i`; lazy.

        Raises
        ------
        RowNotFoundError
            When there is no such fold; it is an IndexError.
        OptionError
            When the folds were read from a dict and have no dataset.
        """
        return self._part(i, inside=False)

    def test(self, i: int) -> Any:
        """The rows of fold `i`; as `train`."""
        return self._part(i, inside=True)

    def _part(self, i: int, *, inside: bool) -> Any:
        if isinstance(i, bool) or not isinstance(i, int | np.integer):
            raise OptionError(f"a fold is a number from 0 to {self.k - 1}, got {i!r}")
        if not -self.k <= i < self.k:
            raise RowNotFoundError(f"no fold {i}: there are {self.k}")
        if self._dataset is None:
            raise OptionError("these folds have no dataset; read them for one: mm.Folds.from_dict(saved, ds)")
        number, rows = int(i) % self.k, self._dataset._rows
        if self.how == "permutation":
            return self._dataset._with(rows.dealt(self._plan.deal, number, inside=inside))
        fold = equal_folds(self.k, self._plan.numbering)[number]
        return self._dataset._with(rows.fold(fold if inside else replace(fold, inside=False)))

    def of(self, ds: View) -> Any:
        """The fold of each row of a dataset, also of another store with the same keys. Lazy.

        So the model that was not trained on a row is found for every row: of data, of other selections, of stores that
        came later. ``ds.assign(fold=folds.of(ds))`` makes it a field to compute with, and
        ``mm.assign(path, fold=folds.of(ds))`` stores it, for cuts and batches. To train there are `train` and `test`.

        Parameters
        ----------
        ds : Dataset
            It has the fields `by`. For folds by the row number it is of the same store, for those of a permutation
            its rows are some of those that the folds were made of.

        Returns
        -------
        dask.array.Array
            int64 ``(rows,)`` in the chunks of `ds`, from 0 to k - 1.

        Raises
        ------
        FieldNotFoundError, OptionError
            When `ds` lacks a key, or has one of another kind; when keys are missing, once it is computed.
        """
        rows = ds._resolved()
        ds._readable("folds go by", self.by)
        for name in self.by:
            check_key(rows.schema[name], self._plan.numbering)
        if "store" in self._origin and rows.snapshot.manifest.uuid != self._origin["store"]:
            raise OptionError(
                "the folds go by row number, which means nothing in another store than theirs, as "
                f"{rows.snapshot.path}; make them by a field that both have, as ds.kfold(5, by='eventNumber')"
            )
        if self.how != "permutation":
            return to_dask(_FoldArray(rows.only(self.by), self._plan), ds.chunks, "fold")
        if self._dataset is None:
            raise OptionError(
                "these folds are of a permutation and have no dataset; read them for it: mm.Folds.from_dict(saved, ds)"
            )
        base = self._dataset._resolved()
        return to_dask(_DealtArray(rows.stored, base, self._plan), ds.chunks, "fold")

    def to_dict(self) -> dict[str, Any]:
        """All that the folds are made of, for JSON, so that what is trained can say which rows it has not seen.

        Examples
        --------
        >>> import json
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"event": range(100)}, "saved.mm")
        >>> saved = json.dumps(ds.kfold(3, by="event").to_dict())
        >>> mm.Folds.from_dict(json.loads(saved), ds)
        <3 folds: how='hash' by event, seed 0>
        """
        p = self._plan
        made = {"k": p.k, "how": p.how, "by": list(p.by), "seed": p.seed, "stratify": p.stratify}
        return {"format": _FORMAT, "version": SPLIT_VERSION, **made, **self._origin}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], ds: View | None = None) -> Folds:
        """The folds that `to_dict` saved.

        Parameters
        ----------
        saved : mapping
            What `to_dict` gave.
        ds : Dataset, optional
            What `train` and `test` are of, if they are asked for.

        Raises
        ------
        OptionError
            When it is something else, or the folds of `ds` would not be the same: those by row number are of one
            store, those of a permutation of the same rows.
        """
        try:
            if (saved["format"], saved["version"]) != (_FORMAT, SPLIT_VERSION):
                raise KeyError
            plan = _Plan(saved["k"], saved["how"], tuple(saved["by"]), saved["seed"], saved["stratify"])
            json.dumps(saved)
            if type(plan.k) is not int or not 2 <= plan.k <= MAX_FOLDS or plan.how not in get_args(How):
                raise KeyError
            keys_of(plan.by or None)
            check_seed(plan.seed)
        except (KeyError, TypeError, ValueError):
            raise OptionError(f"not what Folds.to_dict of this version gives: {saved!r:.200}") from None
        origin = {key: saved[key] for key in ("store", "rows") if key in saved}
        if ds is not None:
            stratify = plan.stratify if plan.how == "permutation" else None
            _check(ds._rows, plan.how, list(plan.by) or None, plan.seed, stratify)
            here = _origin_of(plan, ds._rows)
            if here != origin:
                what = (
                    "rows, of which they are a permutation" if "rows" in origin else "store, for they go by row number"
                )
                raise OptionError(f"{ds.path}: the folds were made of another {what}")
        return cls(plan, ds, origin)


def _origin_of(plan: _Plan, rows: Rows) -> dict[str, str]:
    """The rows that folds mean, if that is not any that have the keys."""
    if plan.how == "permutation":
        return {"rows": rows.identity}
    return {} if plan.by else {"store": rows.snapshot.manifest.uuid}


class _FoldArray(LazyArray):
    """The fold of each row by its keys."""

    def __init__(self, rows: Rows, plan: _Plan) -> None:
        keys = tuple(json.dumps(key_text(name, rows.derived.get(name))) for name in plan.by)
        super().__init__(rows, (repr(plan), *keys), (len(rows),), np.int64)
        self.plan = plan

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        keys = [(self.rows.schema[name], self.rows.read(name, start, stop)) for name in self.plan.by]
        for field, data in keys:
            check_keys(field, data)
        keys = keys or [(ROW_NUMBER, FieldData(self.rows.numbers(start, stop)))]
        numbering = self.plan.numbering
        ends = np.array([fold.high for fold in equal_folds(self.plan.k, numbering)], np.int64)
        return np.searchsorted(ends, numbering.numbers(keys), side="right")


class _DealtArray(LazyArray):
    """The fold of each row of some that were dealt out."""

    def __init__(self, rows: Rows, base: Rows, plan: _Plan) -> None:
        super().__init__(rows, (repr(plan), *base.key), (len(rows),), np.int64)
        self.base, self.plan = base, plan

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        found = _dealer(self.base, self.plan).folds_of(self.rows.numbers(start, stop))
        if (found < 0).any():
            raise OptionError(
                "some of these rows are none of those that the folds were made of; folds of a permutation are of these "
                "alone: how='hash' has a fold for every row"
            )
        return found


def _dealer(rows: Rows, plan: _Plan) -> Dealer:
    derived = None if plan.stratify is None else rows.derived.get(plan.stratify)
    key = rows.key, plan, derived and derived.token
    found = _DEALERS.get(key)
    if found is None:
        found = Dealer(rows.snapshot, plan.deal, derived, rows.bits)
        _DEALERS.put(key, found, found.nbytes)
    return found
