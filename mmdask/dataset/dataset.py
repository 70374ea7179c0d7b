"""`Dataset`: the lazy view of a set of rows of a store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from typing import Any, NoReturn

import numpy as np

from mmdask import display
from mmdask.batches.collate import Step
from mmdask.batches.loader import Last, Loader, Shuffle
from mmdask.dataset.auxiliary import Aux
from mmdask.dataset.cut import Cut
from mmdask.dataset.cutflow import CutFlow, cut_flow, name_of
from mmdask.dataset.describe import Description, describe_rows
from mmdask.dataset.explain import Explanation, explain
from mmdask.dataset.frames import OnRagged, dask_frame, frame_names, pandas_frame, xarray_of
from mmdask.dataset.given import Given, each_masked
from mmdask.dataset.hist import Bins, histograms, texts_of
from mmdask.dataset.kept import KeptCuts, cuts_of
from mmdask.dataset.keyed import keyed_cut
from mmdask.dataset.layouts import records, row, several
from mmdask.dataset.lazy import FieldArray, row_edges, to_dask
from mmdask.dataset.ragged import Ragged
from mmdask.dataset.recipe import Frame
from mmdask.dataset.records import Records, zipped
from mmdask.dataset.run import dask_runner
from mmdask.errors import FieldNotFoundError, OptionError
from mmdask.export.save import save_rows
from mmdask.expr import Expression
from mmdask.rows.keyed import again_on, keyed_leaves
from mmdask.rows.rows import Rows
from mmdask.rows.splits import check_key, folds
from mmdask.rows.virtual import names_in_text
from mmdask.schema import Schema
from mmdask.store.layer import Source
from mmdask.store.manifest import Entry, history
from mmdask.store.place import IO
from mmdask.store.snapshot import Snapshot, open_snapshot

__all__ = ["Dataset", "open_dataset"]

CHUNK_ROWS = 1 << 20
CHUNK_NBYTES = 128 << 20
#: rows of the tables that a dataset prints
_SHOWN_FIELDS = 40
#: what no name of a field is expected to hold, and most cuts do
_OPERATORS = "<>=!&|~"


class Dataset(Mapping[str, Any]):
    """A set of rows of a store, in store order, as lazy fields by name. Immutable.

    Made by `mmdask.open`, and by slicing, cutting and splitting another one, none of which copies data.
    It pickles as a reference: the path, the generation and the selection.

    Parameters
    ----------
    rows : Rows
        Which rows.
    names : sequence of str
        Which fields, in which order.
    chunk_rows : int
        Store rows of a chunk, a power of two.
    given : mapping of Given, optional
        Fields that are dask arrays of the user's, by name.
    """

    def __init__(
        self, rows: Rows, names: Sequence[str], chunk_rows: int, given: Mapping[str, Given] | None = None
    ) -> None:
        self._rows = rows
        self._names = tuple(names)
        self._chunk_rows = chunk_rows
        self._given = dict(given or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rows, self._names, self._chunk_rows, self._given)

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return self._names

    @cached_property
    def schema(self) -> Schema:
        """Kind, dtype, shape, unit and doc of the fields."""
        given = {name: g.field for name, g in self._given.items()}
        return Schema(given[name] if name in given else self._rows.schema[name] for name in self._names)

    @property
    def path(self) -> str:
        """The store's folder."""
        return self._rows.snapshot.path

    @property
    def generation(self) -> int:
        """The commit of the store that this dataset shows; it goes on showing it."""
        return self._rows.snapshot.manifest.generation

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the store's writer noted."""
        return self._rows.snapshot.manifest.attrs

    @property
    def sources(self) -> list[Source]:
        """Where the store's rows came from, one entry per converted part; reads every part.json.

        Of a source that was converted, ``stop - start`` is its number of rows before any cut, `rows` how many of them
        the store has, and `weights` are the sums over all of them that `mm.from_root` was asked for.
        """
        snapshot = self._rows.snapshot
        return [s for part in snapshot.parts for layer in part.layers for s in snapshot.layer(layer).sources]

    @cached_property
    def aux(self) -> Mapping[str, Any]:
        """The store's arrays that are not per row, by name: bin edges, scalers, lists of classes.

        A read-only mapping; each value is read when it is asked for, and is what ``ds[17]`` would give of a field:
        a number, text, a read-only array, a list of text, or an awkward array.
        """
        return Aux(self._rows.snapshot)

    def history(self) -> list[Entry]:
        """The generations of the store that can still be opened, oldest first.

        Returns
        -------
        list of tuples
            ``(generation, time, action, n_rows, n_parts, n_fields)`` by these names. The last one is the newest, which
            may be later than the one that this dataset shows.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "kept.mm")
        >>> [(entry.generation, entry.n_rows) for entry in ds.history()]
        [(1, 2)]
        """
        return history(self.path)

    def refresh(self) -> Dataset:
        """The same selection on the newest generation of the store, as a new dataset.

        Cuts and splits are made anew, so rows that were appended are among theirs; slices go on meaning the same row
        numbers. A dataset of all fields has those that were added, too. Computes nothing.

        Raises
        ------
        FieldNotFoundError, ExpressionError
            When fields that were chosen, or that a cut or split reads, are gone or have become something else.
        StoreNotFoundError
            When the store is gone, or another one is in its place.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "growing.mm")
        >>> hard = ds[ds.cut("met > 30")]
        >>> with mm.append("growing.mm") as w:
        ...     w.extend({"met": [55.0, 12.5]})
        >>> len(hard), len(hard.refresh())
        (1, 2)
        """
        snapshot = self._rows.snapshot
        newest = open_snapshot(snapshot.path, uuid=snapshot.manifest.uuid, io=snapshot.io)
        for name in [name for name in self._given if name in self._names]:
            raise OptionError(
                f"the field {name!r} is a dask array over the rows that there were; refresh the dataset that it was "
                "given to, and assign it anew"
            )
        rows = self._rows.on(newest)
        # All of the fields of the store are those that it has now.
        n = len(snapshot.schema)
        every = self._names[:n] == tuple(snapshot.schema)
        chosen = self._names[n:] if every else self._names
        names = [*(newest.schema if every else ()), *(rows.schema[name].name for name in chosen)]
        return Dataset(rows, list(dict.fromkeys(names)), self._chunk_rows)

    @property
    def nbytes(self) -> int:
        """Stored bytes of the whole store, all fields."""
        return sum(p.nbytes for p in self._rows.snapshot.parts)

    def __len__(self) -> int:
        """Rows; computes the cut once if there is one."""
        return len(self._resolved())

    def _resolved(self) -> Rows:
        if not self._rows.resolved:
            self._rows.resolve(dask_runner("cut"))
        return self._rows

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Rows of each chunk, the same for all fields; computes the cut once if there is one."""
        return tuple(np.diff(row_edges(self._resolved(), self._chunk_rows)).tolist())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def keys(self) -> Any:
        """Names of the fields (``len(ds)`` is the number of rows)."""
        return dict.fromkeys(self._names).keys()

    def items(self) -> Any:
        """Names and lazy fields."""
        return {name: self[name] for name in self._names}.items()

    def values(self) -> Any:
        """Lazy fields."""
        return {name: self[name] for name in self._names}.values()

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise OptionError(
            "a dataset is not an array; its fields are: ds['met'] is a lazy one, ds['met'].compute() all of it"
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    # Selecting ------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """A field by name; a Dataset by a list of names, a slice or a cut; values by row numbers.

        Parameters
        ----------
        key : str, list of str, slice, Cut, int, or list of int
            ``ds["met"]`` is a lazy dask array, ``ds["jet_pt"]`` a lazy `Ragged`; ``ds[["met", "jet_*"]]``,
            ``ds[10:20]`` and ``ds[cut]`` are datasets; ``ds[17]`` is a dict of values, ``ds[[5, 3, 3]]`` a dict of
            arrays (awkward for ragged fields), both read at once. What is missing is None in a row, and masked in
            arrays.

        Raises
        ------
        FieldNotFoundError, RowNotFoundError
            With the nearest names, or the number of rows.
        OptionError
            For anything else, and for a cut of another store.
        """
        if isinstance(key, str):
            return self._field(key)
        if isinstance(key, Cut):
            return self._with(self._selected_by(key))
        if isinstance(key, slice):
            return self._with(self._resolved().sliced(key))
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._row(int(key))
        if isinstance(key, list | tuple) and key and all(isinstance(k, str) for k in key):
            return self._with(self._rows, self.schema.match(key))
        if isinstance(key, list | tuple | np.ndarray):
            return self._take(key)
        hint = "; rows are cut by ds[ds.cut('met > 30')]" if hasattr(key, "dtype") else ""
        what = "a field name, a list of them, a slice, a cut, or row numbers"
        raise OptionError(f"a dataset takes {what}; got {type(key).__name__}{hint}")

    def _with(self, rows: Rows, names: Sequence[str] | None = None) -> Dataset:
        return Dataset(rows, self._names if names is None else names, self._chunk_rows, self._given)

    def _field(self, name: str) -> Any:
        if name not in self._names and any(sign in name for sign in _OPERATORS):
            hint = f"a cut is written ds[ds.cut({name!r})]"
            raise FieldNotFoundError(f"{self.schema.unknown(name)}; {hint}")
        field = self.schema[name]
        if name in self._given:
            return self._given[name].on(self._resolved(), self._chunk_rows)
        rows = self._resolved().only((name,))
        return (
            Ragged(rows, name, self._chunk_rows)
            if field.n_offsets
            else to_dask(FieldArray(rows, name), self.chunks, name)
        )

    def _row(self, i: int) -> dict[str, Any]:
        number = self._resolved().number(i)
        self._readable("rows at once are", self._names)
        schema = self._rows.schema
        return {name: row(schema[name], self._rows.read_row(name, number)) for name in self._names}

    def _take(self, key: Any) -> dict[str, Any]:
        try:
            indices = np.asarray(key)
        except ValueError:
            indices = np.empty((0, 0))
        if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
            what = f"an array of {indices.dtype} {indices.shape}"
            raise OptionError(f"row numbers are a list of integers, got {what}; rows are cut by ds[ds.cut(...)]")
        rows = self._resolved()
        self._readable("rows at once are", self._names)
        numbers = rows.numbers_of(indices.astype(np.int64) if not len(indices) else indices)
        return {name: several(rows.schema[name], rows.take(name, numbers)) for name in self._names}

    def _readable(self, what: str, names: Iterable[str] = (), texts: Iterable[str] = ()) -> None:
        """Raise for fields that are dask arrays, by name or in texts, where nothing is computed by dask."""
        if not self._given:
            return
        # The text of a weight may be a name that no expression has as it is.
        known = {*self._names, *self._rows.schema}
        named = set(names).union(*[{t} if t in known else names_in_text(t) for t in texts])
        for name in self._given:
            if name in named:
                raise OptionError(
                    f"{what} fields of the store and what is computed from them by expressions, and {name!r} is a dask "
                    f"array; assign it as text, as in ds.assign({name}='a / b'), or store it by mm.assign(path, "
                    f"{name}=ds[{name!r}])"
                )

    def assign(self, fields: Mapping[str, Any] | None = None, /, **named: Any) -> Dataset:
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
                raise OptionError(
                    f"field {name!r} is text, as 'sum(jet_pt)', a cut, or a dask array with an entry for each row; got "
                    f"{type(value).__name__}; values in memory are stored by mm.assign(path, {name}=...)"
                )
        names = list(dict.fromkeys([*self._names, *wanted]))
        return Dataset(self._rows.assign(texts), names, self._chunk_rows, given)

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

    def _own(self, cut: Cut) -> Expression:
        theirs, ours = cut._dataset._rows.snapshot, self._rows.snapshot
        if theirs.manifest.uuid != ours.manifest.uuid:
            raise OptionError(f"the cut is of the store {theirs.path}, these rows are of {ours.path}")
        found = cut._expression
        same = all(ours.schema.get(name) == theirs.schema[name] for name in found.fields)
        return found if same else again_on(found, ours.schema)

    def _selected_by(self, cut: Cut) -> Rows:
        """The rows of this dataset that pass."""
        return self._rows.cut(self._own(cut))

    def split(self, fractions: Mapping[str, float], *, by: str | None = None, seed: int = 0) -> dict[str, Dataset]:
        """Split the rows at random, the same way for ever.

        Which split a row is in depends on the hash of its key and the seed alone: rows appended later move no old row,
        rows with equal keys stay together, and splitting before or after a cut is the same.

        Parameters
        ----------
        fractions : mapping
            Name and fraction of each split; they sum to 1. Sizes are as random as the rows: within about
            ``sqrt(n)`` of the fraction.
        by : str, optional
            The field that is the key, as ``"eventNumber"``; the row number by default.
        seed : int
            Another seed gives an independent split.

        Returns
        -------
        dict of Dataset
            Disjoint, and together all rows. Lazy.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"event": range(1000)}, "events.mm")
        >>> parts = ds.split({"train": 0.8, "test": 0.2}, by="event", seed=7)
        >>> len(parts["train"]) + len(parts["test"])
        1000
        """
        if not isinstance(fractions, Mapping):
            raise OptionError(
                f"a split needs a name for each fraction, as in {{'train': 0.8, 'test': 0.2}}; got {fractions!r}"
            )
        if by is not None:
            self._readable("a split goes by", [by])
            check_key(self._rows.schema[by])
        return {name: self._with(self._rows.fold(fold)) for name, fold in folds(fractions, by, seed).items()}

    def cutflow(
        self,
        cuts: Iterable[str | Cut] | Mapping[str, str | Cut],
        *,
        weight: str | None = None,
        by: str | None = None,
    ) -> CutFlow:
        """Count the rows that pass each cut alone, all cuts up to it, and all but it. Eager.

        Cuts are kept as if they were used one by one: what is not kept yet is computed in one pass over its fields, and
        when all are kept, rows are counted without reading any field. A weight and `by` are read once.

        If the store was converted with a cut, the table begins with what its sources held before, `CutFlow.before`: of
        the whole store, or of a selection by labels alone; with a weight whose sum `mm.from_root` was asked for
        (`weights=`), by a label or not split. A store with appended rows does not say.

        Parameters
        ----------
        cuts : list of str or Cut, or mapping
            In their order; a mapping gives them names.
        weight : str, optional
            A field name, or an expression with one number per row, as in ``"w * where(n > 2, 1.1, 1)"``. Negative
            ones count as such. A nan makes nan of every sum that its row is in; a missing one is an error.
        by : str, optional
            A category, or a field of booleans or integers with up to 1,000 different values: one cut flow for each
            that occurs. Rows in which it is missing are a group of their own, None.

        Returns
        -------
        CutFlow
            It prints as a table.

        Raises
        ------
        ExpressionError
            When a cut or the weight cannot be read.
        FieldNotFoundError
            When there is no field `by`.
        OptionError
            When a weight is no number or missing in a row of this dataset, `by` is another kind of field or has more
            values, or a cut is of another store.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"n": [4, 5, 6, 7], "met": [90.0, 10.0, 80.0, 20.0]}, "flow.mm")
        >>> ds.cutflow({"five jets": "n >= 5", "met": "met > 50"})
        cut        alone  cumulative  N-1  of before  of all
        ---------  -----  ----------  ---  ---------  -------
        initial        4           4                  100.00%
        five jets      3           3    2     75.00%   75.00%
        met            2           1    3     33.33%   25.00%
        """
        if isinstance(cuts, str | Cut) or not isinstance(cuts, Iterable):
            raise OptionError(f"a cut flow takes a list of cuts, or a mapping of names to cuts; got {cuts!r}")
        named = list(cuts.items() if isinstance(cuts, Mapping) else [(None, cut) for cut in cuts])
        expressions = [self.cut(cut)._expression for _, cut in named]
        names = [name_of(label, cut) for label, cut in named]
        self._readable("a cut flow reads", [by or ""], [weight or ""])
        return cut_flow(self._rows, names, expressions, weight, by)

    def hist(
        self,
        *fields: str | Mapping[Any, Bins],
        bins: Any = None,
        range: tuple[float, float] | None = None,
        weight: str | None = None,
        by: str | None = None,
        where: str | Cut | None = None,
    ) -> Any:
        """Fill histograms, as scikit-hep `hist` objects; any number of them in one pass over the data. Eager.

        Parameters
        ----------
        *fields : str, or one mapping
            A field or an expression in the language of cuts, as ``"sum(jet_pt)"``; one axis for each. One with a value
            per item has an entry per item, and what has one per row is repeated for these. A mapping of such texts (or
            tuples of them, for several axes) to bins gives several histograms at once.
        bins : int, tuple, list, range or None
            A number of bins between the smallest and the largest value; ``(n, low, high)``; a list or array of edges,
            as of ``ds.aux``; or, as ``range(0, 12)``, one bin for each whole number. Of several axes a list of these.
            By default whole numbers have a bin each if they are up to 100, labels and booleans always, and all others
            50 bins.
        range : (float, float), optional
            For one axis with a number of bins: their lower and upper end.
        weight : str, optional
            A field or an expression with one number per row, or per item where there are items.
        by : str, optional
            A category, or booleans or up to 1,000 different integers, one per row: the first axis, one bin for each
            label of the store, or number that occurs.
        where : str or Cut, optional
            Only the rows that pass; the cut is kept, as all cuts are.

        Returns
        -------
        hist.Hist or dict of hist.Hist
            A dict for a mapping, with its keys. Storage is `Int64`, with weights `Weight` (sums of weights and of their
            squares). ``metadata`` says how many ``entries`` there were, and how many of them are in no bin because a
            value is ``nan`` or ``missing``. Infinities are in the flow bins.

        Raises
        ------
        ExpressionError
            When an expression cannot be read, or items differ in number.
        OptionError
            When bins or the weight cannot be used, or a weight is missing.
        MissingDependencyError
            When `hist` is not installed.

        Notes
        -----
        As in `hist`, and other than in numpy, a bin does not contain its upper edge, nor does the last one. Where the
        ends are found, the last bin contains the largest value: its edge is the next number. They are found without
        reading data for a stored field of the whole store, and in one pass more for everything else.

        Sums are added in the order of the rows, so they are the same on all schedulers.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, 75.0], "jet_pt": [[20.0], [30.0, 140.0], []]}, "hist.mm")
        >>> ds.hist("met", bins=(4, 0, 100)).values().tolist()
        [1, 0, 1, 1]
        >>> many = ds.hist({"met": [0, 50, 100], "jet_pt": (2, 0, 100)}, weight="met", where="met > 5")
        >>> many["jet_pt"].values(flow=True), many["met"].variances()
        (array([ 0., 70.,  0., 60.]), array([ 100., 9225.]))
        """
        self._readable("a histogram is filled from", texts=texts_of(fields, weight, by))
        rows = self._rows if where is None else self[self.cut(where)]._rows
        return histograms(rows, fields, bins, range, weight, by)

    def describe(self, fields: str | Iterable[str] | None = None) -> Description:
        """Count, smallest, largest, mean and spread of the values of each field, in one pass. Eager; kept.

        What was found for a part of the store of which all rows are looked at is kept beside the store, as cuts are: it
        is read the next time, and after rows were appended only they are looked at.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.

        Returns
        -------
        Description
            A mapping of names to `count`, `missing`, `nan`, `inf`, `min`, `max`, `mean`, `std` and items per row; it
            prints as a table, and has `to_pandas`. Values are those of items where there are lists. What is nan,
            infinite or missing is counted, and left out of the others. Sums of integers are exact.

        Raises
        ------
        FieldNotFoundError
            When a name or pattern matches no field.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, float("nan")], "jets": [[1, 2], [], [6]]}, "described.mm")
        >>> ds.describe()
        3 rows
        field  type          count  nan  min  max  mean      std           items
        -----  ------------  -----  ---  ---  ---  ----  -------  --------------
        met    float64           3    1   10   60    35       25
        jets   ragged int64      3         1    6     3  2.16025  0 to 2, mean 1
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("what is described are", names)
        return describe_rows(self._resolved(), names)

    # Handing out ----------------------------------------------------------------------------------------------------

    def batches(
        self,
        batch_size: int,
        *,
        fields: str | Iterable[str] | None = None,
        shuffle: Shuffle = True,
        seed: int = 0,
        collate: Mapping[str, Step] | None = None,
        last: Last | None = None,
        rank: int = 0,
        world_size: int = 1,
        window: int | str | None = None,
        block: int | None = None,
    ) -> Loader:
        """Iterate over the rows in batches, shuffled, each exactly once per epoch.

        Parameters
        ----------
        batch_size : int
            Rows of a batch, over all ranks.
        fields : str or iterable of str, optional
            Names or patterns (``"jet_*"``); all by default.
        shuffle : bool or "exact"
            Mixed in windows of many blocks; one permutation of all rows; or, if False, in store order.
        seed : int
            Another seed gives another order.
        collate : mapping, optional
            What to do with a field, as ``{"jet_pt": mm.pad(22)}``; ragged fields are packed by default.
        last : {"keep", "drop", "pad"}, optional
            What to do with rows that fill no batch; kept by one process, dropped by several.
        rank, world_size : int
            Which part of every batch this process takes, of how many.
        window, block : optional
            Bytes that are mixed together, rows that stay together; see `Loader`, as for all of these.

        Returns
        -------
        Loader
            Iterable; each batch is a dict of arrays with `rows`.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [1.0, 2.0, 3.0], "jets": [[1.5], [], [2.5, 3.5]]}, "few.mm")
        >>> for batch in ds.batches(2, collate={"jets": mm.pad(2)}, shuffle=False):
        ...     print(batch["met"], batch["jets"].shape, batch.rows)
        [1. 2.] (2, 2) [0 1]
        [3.] (1, 2) [2]
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("batches hold", names)
        return Loader(
            self._resolved().only(names),
            batch_size,
            fields=names,
            shuffle=shuffle,
            seed=seed,
            collate=collate,
            last=last,
            rank=rank,
            world_size=world_size,
            window=window,
            block=block,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        fields: str | Iterable[str] | None = None,
        part_nbytes: int | str = "1 GiB",
        progress: bool = True,
    ) -> Dataset:
        """Write the rows as a new store, in store order, and open it. Eager, in bounded memory.

        Units, docs, labels, attrs and aux are kept, also the expressions of fields if the fields that they read are
        saved, too. What is constant for a whole part takes no space. ``ds.sources`` of the new store says where its
        rows come from.

        Parameters
        ----------
        path : path
            Where it will be; nothing may be there yet.
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        part_nbytes : int or str
            Bytes of a part, about.
        progress : bool
            Whether a progress bar is shown.

        Returns
        -------
        Dataset
            Of the new store.

        Raises
        ------
        StoreExistsError
            When something is at `path`.
        FieldNotFoundError
            When a name or pattern matches no field.
        OptionError
            When `path` lies in this store, or `part_nbytes` is no number of bytes.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, 70.0], "n": [1, 2, 3]}, "whole.mm")
        >>> skim = ds[ds.cut("met > 50")].save("skim.mm", fields="n")
        >>> skim["n"].compute()
        array([2, 3])
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("a store holds", names)
        save_rows(self._resolved(), names, path, part_nbytes=part_nbytes, progress=progress)
        return open_dataset(path)

    def to_awkward(self, fields: str | Sequence[str] | None = None) -> Any:
        """Read fields into one awkward array of records, at once.

        Members of a record are put together again, as ``array.jets.pt``: as lists of records where they are lists of
        equal counts. What is missing is None.

        Parameters
        ----------
        fields : str or list of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        """
        import dask

        names = self.schema.match(fields) if fields is not None else list(self._names)
        if not names:
            raise OptionError("an awkward array of records needs one field or more")
        values = dask.compute(*(self[name] for name in names))
        values = [each_masked(v) if name in self._given else v for name, v in zip(names, values, strict=True)]
        return records(self.schema, names, values)

    def to_dataframe(
        self, fields: str | Iterable[str] | None = None, *, ragged: OnRagged = "error", lazy: bool = False
    ) -> Any:
        """Read fields into a pandas DataFrame, chunk by chunk; or make a lazy dask one.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        ragged : {"error", "drop", "lists"}
            What to do with fields that have lists, or arrays of differing shape, in their rows: refuse them, leave them
            out, or make columns of arrays.
        lazy : bool
            Whether to make a ``dask.dataframe``, in the chunks of the dataset and with known divisions, which reads
            when it is computed.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            Its index numbers the rows of this dataset. Labels are a `Categorical` of all labels of the store, text has
            the dtype ``string``. What is missing is NA, in `Int64`, `Float32`, `boolean` and so on; NaT for times, nan
            for complex numbers. A field ``p3`` of a fixed shape becomes columns ``p3[0]``, ``p3[1]``, ``p3[2]``.

        Raises
        ------
        OptionError
            When a field has lists and `ragged` is "error".
        MissingDependencyError
            When pandas, or what ``dask.dataframe`` needs, is not installed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0], "n": [3, 4], "jets": [[1.5], []]}, "frame.mm")
        >>> ds.to_dataframe(["met", "n"])["met"].max()
        np.float64(41.5)
        """
        names = frame_names(self.schema, self._names if fields is None else self.schema.match(fields), ragged)
        edges = [0, *itertools.accumulate(self.chunks)]
        if lazy:
            self._readable("a lazy data frame has", names)
            return dask_frame(self._rows, names, edges)
        given = {name: self[name].compute() for name in names if name in self._given}
        return pandas_frame(self._rows, names, edges, given)

    def to_xarray(self, fields: str | Iterable[str] | None = None) -> Any:
        """Make an xarray Dataset around the lazy arrays of fields, with the dimension ``row``. Computes nothing.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names or patterns of fields of numbers, times and labels, also with a fixed shape, whose dimensions are
            called ``p3_0`` and so on. By default all that there are of these.

        Returns
        -------
        xarray.Dataset
            Units and docs are the attributes ``units`` and ``long_name``. As xarray knows no masks, what is missing is
            nan (integers and booleans that can be are float64 therefore), NaT, or empty text.

        Raises
        ------
        OptionError
            When a field that is named has lists or text.
        MissingDependencyError
            When xarray is not installed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0], "n": [3, 4]}, "xarray.mm")
        >>> ds.to_xarray().met.mean().compute().item()
        24.25
        """
        dense = [name for name, f in self.schema.items() if f.kind in ("dense", "category")]
        return xarray_of(self.schema, dense if fields is None else self.schema.match(fields), self._field, self.attrs)

    def zip(self, record: str, /) -> Records:
        """Fields that belong together as one lazy collection of awkward records. Of a cut, only its rows are found.

        Parameters
        ----------
        record : str
            The name of a record; or what the names of fields begin with: "jet" for ``jet_pt`` and ``jet_eta``. If some
            of them are lists, these are taken, and are lists of records; else each row is one.

        Returns
        -------
        Records
            Lazy; `compute` gives an awkward array. Records of ``pt``, ``phi``, ``eta`` and ``mass`` or ``e``, and the
            like, are momenta of `vector`, if it is installed.

        Raises
        ------
        FieldNotFoundError
            When there are no such fields.
        ExpressionError
            When lists differ in their numbers of items; when it is computed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], []], "jet_eta": [[0.5, -1.0], []]}, "jets.mm")
        >>> ds.zip("jet").compute().to_list()
        [[{'pt': 50.0, 'eta': 0.5}, {'pt': 30.0, 'eta': -1.0}], []]
        """
        frame = Frame(self._resolved().stored, self._chunk_rows)
        return zipped(self.schema, record, self._names, self._field, frame)

    # Looks ----------------------------------------------------------------------------------------------------------

    def _count_text(self) -> str:
        n_store = self._rows.n_store
        if not self._rows.resolved:
            return f"rows not yet counted, of {n_store:,}"
        n = len(self._rows)
        return display.amount(n, "row") if n == n_store else f"{n:,} of {display.amount(n_store, 'row')}"

    def _table(self) -> tuple[list[list[str]], list[str], str]:
        """The first fields, the headers, and how many fields are left out; columns that are empty are left out, too."""
        cells = [[f.name, f.describe(), f.unit, f.expression, f.doc] for f in self.schema.values()]
        headers = ["field", "type", "unit", "computed as", "doc"]
        used = [i for i in range(5) if i < 2 or any(row[i] for row in cells)]
        more = f"... and {len(cells) - _SHOWN_FIELDS} more" if len(cells) > _SHOWN_FIELDS else ""
        return [[row[i] for i in used] for row in cells[:_SHOWN_FIELDS]], [headers[i] for i in used], more

    def __repr__(self) -> str:
        fields = display.amount(len(self._names), "field")
        head = f"mm.Dataset: {self._count_text()}, {fields}, {display.terminal_safe(self.path)}"
        cells, headers, more = self._table()
        return "\n".join(filter(None, [head, display.text_table(cells, headers), more]))

    def _repr_html_(self) -> str:
        cells, headers, more = self._table()
        fields, parts = len(self._names), len(self._rows.snapshot.parts)
        where = f"store {self.path}: {display.nbytes_text(self.nbytes)} in {display.amount(parts, 'part')}"
        caption = f"{self._count_text()} · {display.amount(fields, 'field')} · {where}"
        table = display.html_table(cells, headers) + (f"<small>{more}</small>" if more else "")
        return f"<div><b>mm.Dataset</b> <small>{escape(caption)}</small>{table}</div>"


def _values_of(what: str, values: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise OptionError(f"{what} are a mapping of names to values, got {type(values).__name__}")
    return values or {}


def open_dataset(
    path: str | os.PathLike[str],
    *,
    generation: int | None = None,
    chunks: int | str = "auto",
    io: IO = "auto",
) -> Dataset:
    """Open a store: reads its manifest and nothing else, and never creates or changes anything.

    Parameters
    ----------
    path : path
        The store's folder.
    generation : int, optional
        An older commit from the store's history; the newest by default.
    chunks : int or "auto"
        Rows of a chunk, rounded up to a power of two. By default 2**20, fewer where a field is so wide that a chunk
        of it would exceed 128 MiB. Chunks end where parts end.
    io : {"auto", "mmap", "pread"}
        How files are read: "mmap" through maps, "pread" by plain reads with nothing mapped. By default maps, except on
        file systems of a server and in workers of a cluster.

    Returns
    -------
    Dataset
        All rows and fields, lazy. It goes on showing this commit, whatever is written later.

    Raises
    ------
    StoreNotFoundError
        When there is no store at `path`; `UnfinishedError` when a conversion began there and did not end.
    CorruptStoreError, FormatError
        When the manifest is damaged, or of a newer version of mmdask.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "small.mm")
    >>> mm.open("small.mm")["met"].sum().compute()
    np.float64(48.5)
    """
    snapshot = open_snapshot(path, generation, io=io)
    if chunks == "auto":
        chunk_rows = _auto_chunk_rows(snapshot)
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        chunk_rows = 1 << (chunks - 1).bit_length()
    else:
        raise OptionError(f"chunks is a number of rows or 'auto', got {chunks!r}")
    return Dataset(Rows(snapshot), list(snapshot.schema), chunk_rows)


def _auto_chunk_rows(snapshot: Snapshot) -> int:
    """A power of two, such that a chunk of the widest field has up to 128 MiB."""
    block_rows = snapshot.manifest.block_rows
    dense = [f.item_nbytes for f in snapshot.schema.values() if f.kind == "dense"]
    # A block of the widest field has up to 64 KiB, unless it is one row; then all that is not dense may be one field.
    other = (1 << 16) / block_rows if block_rows > 1 else Rows(snapshot).row_nbytes - sum(dense)
    return min(CHUNK_ROWS, 1 << max(int(CHUNK_NBYTES / max(1, other, *dense)).bit_length() - 1, 0))
