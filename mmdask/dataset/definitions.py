"""`Definitions`: what is said of the rows of a view, and computed when it is used: fields, cuts, splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.cuts.explain import Explanation, explain
from mmdask.dataset.cuts.folds import Folds, How, Splits, how_text, split_rows
from mmdask.dataset.cuts.kept import KeptCuts, cuts_of
from mmdask.dataset.cuts.keyed import keyed_cut
from mmdask.dataset.given import Given
from mmdask.dataset.lists.ragged import Ragged
from mmdask.dataset.view import View
from mmdask.errors import OptionError
from mmdask.expr import Expression
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.draws.splits import keys_of
from mmdask.schema import Schema

__all__ = ["Definitions"]


class Definitions(View):
    """The part of a `Dataset` that defines fields and selections; its methods compute nothing."""

    def assign(self, fields: Mapping[str, Any] | None = None, /, **named: Any) -> Self:
        """Add fields that are computed when they are read. Computes nothing; the store stays as it is.

        Parameters
        ----------
        fields : mapping, optional
            Values by name, for names that are no Python names.
        **named
            Values by name. Text is an expression in the language of cuts, as ``ht="sum(jet_pt)"``, with one value per
            row or per item. It may name fields of the same call; its own name means the field that it replaces. A
            `Cut` becomes a field of booleans. A dask array has one entry for each row of this dataset.

        Returns
        -------
        Dataset
            With the new fields behind the others; those that are replaced keep their place. A field that is computed
            from an expression does what a stored one does: in cuts, splits, cut flows, batches, and when it is saved.
            A dask array is a field to compute with, and no more.

        Raises
        ------
        ExpressionError
            When an expression cannot be read, or when expressions need each other.
        OptionError
            When a value is something else, or has not one entry for each row.

        See Also
        --------
        mmdask.assign : Add fields to the store.

        Notes
        -----
        Where an expression has no value, as the maximum of an empty row, the value is missing, and the field is
        optional. A cut that names the field is kept as if what it is computed from stood there, so it is computed anew
        if and only if the field becomes another.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [60.0, 40.0], "jet_pt": [[30.0, 20.0], []]}, "lazy.mm")
        >>> ds = ds.assign(ht="sum(jet_pt)", ratio=ds["met"] / 100, hard=ds.cut("met > 50"))
        >>> ds["ht"].compute(), ds["ratio"].compute(), ds[ds.cut("ht > 40 & hard")]["met"].compute()
        (array([50.,  0.]), array([0.6, 0.4]), array([60.]))
        """
        wanted = dict(_values_of("fields", fields)) | named
        twice = [name for name in named if name in (fields or {})]
        if twice:
            raise OptionError(f"the field {twice[0]!r} is given twice")
        texts: dict[str, str | Expression] = {}
        given = dict(self._given)
        for name, value in wanted.items():
            given.pop(name, None)
            if isinstance(value, Cut):
                texts[name] = cut = self._own(value)
                if keyed_leaves(cut):
                    raise OptionError(
                        f"field {name!r}: a cut from Python is computed when it is kept, not when rows are read; "
                        "assign its mask, the dask array cut.mask"
                    )
            elif isinstance(value, str):
                self._readable(f"the expression of {name!r} reads", texts=[value])
                texts[name] = value
            elif hasattr(value, "__dask_graph__") and hasattr(value, "map_blocks"):
                given[name] = Given.checked(name, self._resolved(), value)
            else:
                hint = (
                    "; what is computed item by item is written as text, as in 'jet_pt * 2'"
                    if isinstance(value, Ragged)
                    else f"; values in memory are stored by mm.assign(path, {name}=...)"
                )
                raise OptionError(
                    f"field {name!r} is text, as 'sum(jet_pt)', a cut, or a dask array with an entry for each row; got "
                    f"{type(value).__name__}{hint}"
                )
        names = list(dict.fromkeys([*self._names, *wanted]))
        return type(self)(self._rows.assign(texts), names, self._chunk_rows, given)

    def cut(
        self,
        expression: str | Cut | Callable[[dict[str, Any]], Any] | Any,
        /,
        key: str | None = None,
        *,
        fields: str | Iterable[str] | None = None,
        **constants: Any,
    ) -> Cut:
        """Make a cut: one boolean per row. Computes nothing.

        Parameters
        ----------
        expression : str
            As in ``"nJets >= 6 & nBTags_77 >= 2"``, ``"any(jet_pt > 100)"``, ``"process in ('ttbb', 'ttH')"``; the
            language is described in the documentation of cuts.
            Or, with a `key`, a function from a block of rows (a dict of arrays, as ``ds[[5, 3]]`` gives) to an array
            of booleans, in which masked entries are missing; or a dask array of booleans over all rows of the store.
        key : str, optional
            The name under which a cut from Python is kept. The same key stands for the same cut: another function or
            array under a key that is kept already is not looked at, until ``ds.cuts.clear(key)``.
        fields : str or list of str, optional
            The fields of the store that a function reads; it is computed anew for parts in which they change.
        **constants
            Values of names in the expression, as in ``ds.cut("met > x", x=50)``.

        Returns
        -------
        Cut
            Lazy; ``ds[cut]`` are the rows that pass, and ``& | ~`` combine cuts.

        Raises
        ------
        ExpressionError
            When the expression cannot be read or has two readings; it points at the place.
        OptionError
            When a cut from Python has no key, a function no fields, or an array not one boolean for each row.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[20.0], [30.0, 140.0]]}, "one.mm")
        >>> ds.cut("met > x & any(jet_pt > 100)", x=50).count()
        1
        >>> odd = ds.cut(lambda block: block["met"] % 20 > 0, key="odd met", fields="met")
        >>> (odd & ds.cut("met < 50")).count()
        1
        """
        if isinstance(expression, Cut) and key is None and fields is None:
            return Cut(self, self._own(expression))
        if not isinstance(expression, str):
            if constants:
                raise OptionError(f"constants, as {next(iter(constants))!r}, are for cuts that are written as text")
            if self._given and fields is not None:
                every = dict(self._rows.schema) | {name: g.field for name, g in self._given.items()}
                self._readable("a function reads", Schema(every.values()).match(fields))
            return Cut(self, keyed_cut(self, expression, key, fields))
        if key is not None or fields is not None:
            raise OptionError(
                "key= and fields= are for cuts from Python; a cut that is written as text is named by what it says, "
                "and no constant of it is called key or fields"
            )
        self._readable("a cut reads", texts=[expression])
        return Cut(self, self._rows.check_cut(expression, constants))

    def explain(self, expression: str | Cut, /, **constants: Any) -> Explanation:
        """Say how a cut or another expression is read: types, fields, missing values, what is kept and skipped.

        Reads what parts say of themselves, and no data; computes nothing.

        Parameters
        ----------
        expression : str or Cut
            A cut, or what a field is computed from.
        **constants
            As of `cut`.

        Returns
        -------
        Explanation
            Prints as text, and as tables in a notebook.

        Raises
        ------
        ExpressionError
            When the expression cannot be read or has two readings; it points at the place.
        OptionError
            When a cut from Python has no key, a function no fields, or an array not one boolean for each row.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[20.0], [30.0, 140.0]]}, "explained.mm")
        >>> found = ds.explain("jet_pt[1] > x & met > 5", x=100)
        >>> found.canonical, found.fields, found.may_be_missing
        ('((jet_pt[1] > 100) and (met > 5))', {'jet_pt': 48, 'met': 16}, ('jet_pt[1]',))
        """
        if isinstance(expression, Cut):
            return explain(self._rows, self._own(expression))
        self._readable("an expression reads", texts=[expression])
        return explain(self._rows, self._rows.check(expression, constants))

    @property
    def cuts(self) -> KeptCuts:
        """The cuts that are kept of this store, found when asked for: a list that prints as a table.

        ``ds.cuts.clear()`` removes them, ``ds.cuts.clear("nJets >= 6")`` one of them, ``older_than="30d"`` old ones;
        what is removed is computed again when it is used.
        """
        return cuts_of(self)

    def split(
        self,
        fractions: Mapping[str, float],
        *,
        by: str | Sequence[str] | None = None,
        seed: int = 0,
        how: How = "hash",
        stratify: str | None = None,
    ) -> dict[str, Self]:
        """Split the rows, the same way for ever.

        By default at random: which split a row is in depends on the hash of its key and the seed alone. Rows appended
        later move no old row, rows with equal keys stay together, and splitting before or after a cut is the same.

        Parameters
        ----------
        fractions : mapping
            Name and fraction of each split; they sum to 1. Of a hash, sizes are as random as the rows: within about
            ``sqrt(n)`` of the fraction. For remainders also integers, as in ``{"train": 4, "test": 1}``.
        by : str or list of str, optional
            The field that is the key, as ``"eventNumber"``, or several that are it together; the row number by default.
        seed : int
            Another seed gives an independent split.
        how : {"hash", "mod", "permutation"}
            "mod" goes by the remainder of an integer `by`, as analyses split even and odd events: the modulus is the
            common denominator of the fractions, or the sum of integers, and the first split gets the lowest
            remainders. "permutation" gives exact sizes, of single rows; it depends on how many rows there are, so
            appending rows or cutting before moves rows from one split to another.
        stratify : str, optional
            With ``how="permutation"``: a category, or a field of booleans or integers, of which each split gets its
            fraction of each class exactly, to one row. A hash splits every class by the same fractions anyway, within
            the root of its rows.

        Returns
        -------
        dict of Dataset
            Disjoint, and together all rows. Lazy. Prints as a table.

        Raises
        ------
        FieldNotFoundError, OptionError
            When there is no such field, it is no key, or options do not go together; when keys are missing, once the
            rows are found.

        Warns
        -----
        UnevenFoldsWarning
            When remainders give splits of another size, as event numbers do that are all even; once rows are found.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"event": range(1000)}, "events.mm")
        >>> parts = ds.split({"train": 0.8, "test": 0.2}, by="event", seed=7)
        >>> len(parts["train"]) + len(parts["test"])
        1000
        >>> [len(part) for part in ds.split({"train": 0.8, "test": 0.2}, how="permutation").values()]
        [800, 200]
        """
        if not isinstance(fractions, Mapping):
            raise OptionError(
                f"a split needs a name for each fraction, as in {{'train': 0.8, 'test': 0.2}}; got {fractions!r}"
            )
        by, stratify = self._whole(by), self._whole(stratify)
        self._readable("a split goes by", [*keys_of(by), stratify or ""])
        parts = split_rows(self._rows, fractions, by, seed, how, stratify)
        text = how_text(how, keys_of(by), seed, stratify)
        return Splits(((name, self._with(rows)) for name, rows in parts.items()), text)

    def kfold(
        self,
        k: int,
        *,
        by: str | Sequence[str] | None = None,
        seed: int = 0,
        how: How = "hash",
        stratify: str | None = None,
    ) -> Folds:
        """Cut the rows into `k` folds, to train on all but one and test on that one. Lazy.

        Parameters
        ----------
        k : int
            How many, from 2 to 1,000.
        by, seed, how, stratify
            As of `split`. Of a key n, ``how="mod"`` puts a row into fold ``n % k``.

        Returns
        -------
        Folds
            Iterating gives (train, test); `of` says which fold each row is in, also of other stores.

        Raises
        ------
        FieldNotFoundError, OptionError
            As of `split`.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"event": range(10)}, "kfold.mm")
        >>> for train, test in ds.kfold(5, by="event", how="mod"):
        ...     print(len(train), test["event"].compute())
        8 [0 5]
        8 [1 6]
        8 [2 7]
        8 [3 8]
        8 [4 9]
        """
        by, stratify = self._whole(by), self._whole(stratify)
        self._readable("folds go by", [*keys_of(by), stratify or ""])
        return Folds.checked(self, k, by, seed, how, stratify)


def _values_of(what: str, values: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise OptionError(f"{what} are a mapping of names to values, got {type(values).__name__}")
    return values or {}
