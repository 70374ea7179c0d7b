"""`View`: rows of a store as a mapping of lazy fields; how they are asked about, selected and shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self

import numpy as np

from mmdask import display
from mmdask.dataset.auxiliary import Aux
from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.given import Given
from mmdask.dataset.hints import no_attribute
from mmdask.dataset.layouts import row, several
from mmdask.dataset.lazy import FieldArray, row_chunks, to_dask
from mmdask.dataset.listing import History, Sources
from mmdask.dataset.lists.ragged import Ragged
from mmdask.dataset.run import resolve
from mmdask.errors import FieldNotFoundError, OptionError
from mmdask.expr import Expression
from mmdask.kernels.once import once
from mmdask.rows.cuts.keyed import again_on
from mmdask.rows.rows import Rows
from mmdask.rows.views.exploded import Exploded
from mmdask.rows.views.views import SnapshotView, one_store
from mmdask.rows.views.virtual import names_in_text
from mmdask.schema import Schema
from mmdask.short import ShortNamed
from mmdask.store.manifest import history

__all__ = ["View"]

#: rows of the tables that a dataset prints
_SHOWN_FIELDS = 40
#: what no name of a field is expected to hold, and most cuts do
_OPERATORS = "<>=!&|~"
#: where rows are that are in no store
_NOWHERE = "a view of arrays"


class View(Mapping[str, Any]):
    """What a `Dataset` is, without what is computed from it.

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

    @once
    def schema(self) -> Schema:
        """Kind, dtype, shape, unit and doc of the fields."""
        given = {name: g.field for name, g in self._given.items()}
        known = self._rows.schema
        return Schema((given[name] if name in given else known[name] for name in self._names), known.absent)

    @property
    def path(self) -> str:
        """The store's folder; of several stores, all of them in one text; empty for `mmdask.view`."""
        return self._rows.snapshot.path

    @property
    def generation(self) -> int:
        """The commit of the store that this dataset shows; it goes on showing it. An error for several stores."""
        return one_store(self._rows.snapshot, "a generation").manifest.generation

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the store's writer noted."""
        return self._rows.snapshot.manifest.attrs

    @property
    def sources(self) -> Sources:
        """Where the store's rows came from, one entry per converted part; reads every part.json.

        A list, which prints as a table. Of a source that was converted, ``stop - start`` is its number of rows before
        any cut, `rows` how many of them the store has, and `weights` are the sums over all of them that `mm.from_root`
        was asked for.
        """
        snapshot = self._rows.snapshot
        return Sources(s for part in snapshot.parts for layer in part.layers for s in snapshot.layer(layer).sources)

    @once
    def aux(self) -> Mapping[str, Any]:
        """The store's arrays that are not per row, by name: bin edges, scalers, lists of classes.

        A read-only mapping; each value is read when it is asked for, and is what ``ds[17]`` would give of a field:
        a number, text, a read-only array, a list of text, or an awkward array.
        """
        return Aux(self._rows.snapshot)

    def history(self) -> History:
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
        return History(history(one_store(self._rows.snapshot, "a history").path))

    def refresh(self) -> Self:
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
        newest = snapshot.newest()
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
        return type(self)(rows, list(dict.fromkeys(names)), self._chunk_rows)

    @property
    def nbytes(self) -> int:
        """Stored bytes of the whole store, all fields."""
        return sum(p.nbytes for p in self._rows.snapshot.parts)

    def __len__(self) -> int:
        """Rows; computes the cut once if there is one."""
        return len(self._resolved())

    def _resolved(self) -> Rows:
        return resolve(self._rows)

    @once
    def chunks(self) -> tuple[int, ...]:
        """Rows of each chunk, the same for all fields; computes the cut once if there is one."""
        return row_chunks(self._resolved(), self._chunk_rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names or (isinstance(name, str) and len(self.schema.short.get(name, ())) == 1)

    def keys(self) -> Any:
        """Names of the fields (``len(ds)`` is the number of rows)."""
        return dict.fromkeys(self._names).keys()

    def items(self) -> Any:
        """Names and lazy fields."""
        return {name: self[name] for name in self._names}.items()

    def values(self) -> Any:
        """Lazy fields."""
        return {name: self[name] for name in self._names}.values()

    def _ipython_key_completions_(self) -> list[str]:
        """What a notebook offers behind ``ds["``."""
        return [*self._names, *(short for short, meant in self.schema.short.items() if len(meant) == 1)]

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise OptionError(
            "a dataset is not an array; its fields are: ds['met'] is a lazy one, ds['met'].compute() all of it; "
            "ds.to_awkward() reads them into one array of records"
        )

    # Without these, awkward takes the names for the rows.
    __dlpack__ = __dlpack_device__ = __array__

    def __getattr__(self, name: str) -> Any:
        return no_attribute(self, name, self.__dict__.get("_names", ()))

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
            return self._with(self._rows.cut(self._own(key)))
        if isinstance(key, slice):
            return self._with(self._resolved().sliced(key))
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._row(int(key))
        if isinstance(key, list | tuple) and key and all(isinstance(k, str) for k in key):
            return self._with(self._rows, self.schema.match(key))
        if isinstance(key, tuple) and not (key and all(isinstance(k, int | np.integer) for k in key)):
            raise OptionError(
                "a dataset takes one thing at a time: ds[cut]['met'] is a field of the rows that pass, ds['met'][:3] "
                f"are some rows of a field, ds[['met', 'ht']] several fields; got {len(key)} together"
            )
        if isinstance(key, list | tuple | np.ndarray):
            return self._take(key)
        hint = "; rows are cut by ds[ds.cut('met > 30')]" if hasattr(key, "dtype") else ""
        what = "a field name, a list of them, a slice, a cut, or row numbers"
        raise OptionError(f"a dataset takes {what}; got {type(key).__name__}{hint}")

    def _with(self, rows: Rows, names: Sequence[str] | None = None) -> Self:
        return type(self)(rows, self._names if names is None else names, self._chunk_rows, self._given)

    def _field(self, name: str) -> Any:
        if name in self.schema.short:
            name = self.schema.resolve(name)
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
            else to_dask(FieldArray(rows, name), self.chunks, f"read:{name}")
        )

    def _row(self, i: int) -> dict[str, Any]:
        number = self._resolved().number(i)
        self._readable("rows at once are", self._names)
        schema = self._rows.schema
        return ShortNamed({name: row(schema[name], self._rows.read_row(name, number)) for name in self._names})

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
        return ShortNamed({name: several(rows.schema[name], rows.take(name, numbers)) for name in self._names})

    def _whole(self, names: Any) -> Any:
        """Names of fields, of which short ones give way to whole ones; also of a list, or as keys; else as given."""
        short = self._rows.schema.short
        if isinstance(names, str):
            return self._rows.schema.resolve(names) if names in short else names
        if isinstance(names, list | tuple):
            return type(names)([self._whole(name) for name in names]) if short else names
        if isinstance(names, dict):
            return {self._whole(name): value for name, value in names.items()} if short else names
        return names

    def _readable(self, what: str, names: Iterable[object] = (), texts: Iterable[object] = ()) -> None:
        """Raise for fields that are dask arrays, by name or in texts, where nothing is computed by dask."""
        if not self._given:
            return
        # The text of a weight may be a name that no expression has as it is.
        known = {*self._names, *self._rows.schema}
        some = [t for t in texts if isinstance(t, str)]  # what is none is refused by what needs it
        named = {n for n in names if isinstance(n, str)}.union(*[{t} if t in known else names_in_text(t) for t in some])
        for name in self._given:
            if name in named:
                fold = str(self._given[name].array.name).startswith("fold-")
                advice = (
                    "select folds by folds.train(i) and folds.test(i)"
                    if fold
                    else f"assign it as text, as in ds.assign({name}='a / b')"
                )
                raise OptionError(
                    f"{what} fields of the store and what is computed from them by expressions, and {name!r} is a dask "
                    f"array; {advice}, or store it by mm.assign(path, {name}=ds[{name!r}])"
                )

    def _own(self, cut: Cut) -> Expression:
        """What a cut asks of the rows of this dataset."""
        theirs, ours = cut._dataset._rows.snapshot, self._rows.snapshot
        if theirs.manifest.uuid != ours.manifest.uuid:
            for one, what in ((ours, "this dataset"), (theirs, "the dataset that the cut was made from")):
                if isinstance(one, Exploded):
                    raise OptionError(
                        f"{what} has one row per item of {', '.join(sorted(one.items))}, so the cut is of other rows: "
                        "select before explode, as in ds[cut].explode('jet'), or make the cut from the dataset that it "
                        "selects, by .cut(...)"
                    )
            hint = (
                "; what rename, concat and explode give has fields of its own: make the cut from that, by .cut(...)"
                if isinstance(theirs, SnapshotView) or isinstance(ours, SnapshotView)
                else ""
            )
            raise OptionError(f"the cut is of the store {theirs.path}, these rows are of {ours.path}{hint}")
        found = cut._expression
        same = all(ours.schema.get(name) == theirs.schema[name] for name in found.fields)
        return found if same else again_on(found, ours.schema)

    # Looks ----------------------------------------------------------------------------------------------------------

    def _count_text(self) -> str:
        n_store = self._rows.n_store
        if not self._rows.resolved:
            return f"rows not yet counted, of {n_store:,}"
        n = len(self._rows)
        return display.amount(n, "row") if n == n_store else f"{n:,} of {display.amount(n_store, 'row')}"

    def _table(self) -> tuple[list[list[str]], list[str], str]:
        """The first fields, the headers, and how many fields are left out; columns that are empty are left out, too."""
        n = len(self._names) - _SHOWN_FIELDS
        more = f"... and {display.amount(n, 'more field')}; ds.fields has all names" if n > 0 else ""
        return (*self.schema.table(most=_SHOWN_FIELDS), more)

    def __repr__(self) -> str:
        fields = display.amount(len(self._names), "field")
        head = f"mm.Dataset: {self._count_text()}, {fields}, {display.terminal_safe(self.path or _NOWHERE)}"
        cells, headers, more = self._table()
        return "\n".join(filter(None, [head, display.text_table(cells, headers, longest=64), more]))

    def _repr_html_(self) -> str:
        cells, headers, more = self._table()
        fields, parts = len(self._names), len(self._rows.snapshot.parts)
        where = f"store {self.path}" if self.path else _NOWHERE
        where += f": {display.nbytes_text(self.nbytes)} in {display.amount(parts, 'part')}"
        caption = f"{self._count_text()} · {display.amount(fields, 'field')} · {where}"
        head = f"<b>mm.Dataset</b> <small>{display.html_text(caption)}</small>"
        return display.html_block(head, display.html_table(cells, headers), f"<small>{more}</small>" if more else "")
