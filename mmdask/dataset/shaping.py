"""`Shaping`: datasets of the same rows in other shapes: some at random, under other names, one per item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from mmdask.dataset.analysis import Analysis
from mmdask.dataset.shapes.explode import exploded
from mmdask.dataset.shapes.loc import Loc
from mmdask.dataset.shapes.mapped import memmap_of
from mmdask.dataset.shapes.rename import renamed
from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.rows.draws.sampling import Sample

__all__ = ["Shaping"]


class Shaping(Analysis):
    """What a `Dataset` makes of itself, beside selections."""

    def sample(self, n: int | None = None, *, fraction: float | None = None, seed: int = 0) -> Self:
        """Take some of the rows at random, without replacement. Lazy; the rows stay in store order.

        Parameters
        ----------
        n : int, optional
            How many rows.
        fraction : float, optional
            Which part of the rows: ``round(fraction * len(ds))`` of them, exactly. One of `n` and `fraction` is given.
        seed : int
            The same rows for the same seed, in every process, as long as the dataset has as many rows. Another seed is
            an independent sample.

        Returns
        -------
        Dataset

        Raises
        ------
        OptionError
            When there are fewer than `n` rows; of a cut that is not yet counted, when the rows are needed.

        See Also
        --------
        split : Splits do not change when rows are appended.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": range(1000)}, "drawn.mm")
        >>> some = ds.sample(100, seed=7)
        >>> len(some), len(ds[ds.cut("met < 500")].sample(fraction=0.1))
        (100, 50)
        """
        return self._with(self._rows.sampled(Sample.checked(n, fraction, seed)))

    def rename(self, names: Mapping[str, str] | None = None, /, **named: str) -> Self:
        """Give fields other names. Lazy, of any rows; the store stays as it is.

        Parameters
        ----------
        names : mapping, optional
            New names by old ones. The name of a record, or what the names of fields begin with, stands for all of its
            members: with ``{"jet": "j"}`` the field ``jet_pt`` is called ``j_pt``, and ``jet.fE`` is called
            ``j.fE``. Names may be swapped.
        **named
            The same, as ``rename(jet="j")``.

        Returns
        -------
        Dataset
            With the fields in their old order. What is computed from them follows. Cuts are kept where those of the old
            names are, and are the same ones: what is kept of ``met > 50`` is that of ``missing_et > 50``.

        Raises
        ------
        FieldNotFoundError
            When there is no such field.
        OptionError
            When a name is taken, or two fields would have it.
        SchemaError
            When a name is none that a field can have.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[20.0], [30.0, 140.0]]}, "names.mm")
        >>> ds = ds.assign(ht="sum(jet_pt)").rename({"jet": "j", "met": "missing"})
        >>> ds.fields, ds.schema["ht"].expression, ds[ds.cut("missing > 50")]["j_pt"].to_list()
        (('missing', 'j_pt', 'ht'), 'sum(j_pt)', [[30.0, 140.0]])
        """
        if names is not None and not isinstance(names, Mapping):
            raise OptionError(f"names are a mapping of old names to new ones, got {type(names).__name__}")
        twice = [name for name in named if name in (names or {})]
        if twice:
            raise OptionError(f"the field {twice[0]!r} is given twice")
        return renamed(self, {**(names or {}), **named})

    def explode(self, record_or_field: str, /, *, number: str | None = None) -> Self:
        """Make one row of each item. Lazy, of any rows; nothing is copied.

        Parameters
        ----------
        record_or_field : str
            A field of lists; or a record, or what names of fields begin with: "jet" for ``jet_pt`` and ``jet_eta``,
            or for ``jet.fE``, whose lists have equal numbers of items.
        number : str, optional
            A field more of this name: the number of the row of the store that the item was in, int64.

        Returns
        -------
        Dataset
            With all fields: those of the items have one item per row, and lists in lists one level less; all others
            have the value of the row that the item was in. Rows without items, and missing lists, give no rows. What is
            computed from fields stays as it is for the row, or for the item. Fields that this dataset leaves out are
            gone.

        Raises
        ------
        FieldNotFoundError
            When there is no such field or record.
        OptionError
            When it has no items, or a field is a dask array.
        ExpressionError
            When lists differ in their numbers of items; when they are read.

        Notes
        -----
        To know the number of rows takes one small file per part, to know in which row an item is, the numbers of items
        of the part; fields are read as far as items are.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[20.0], [30.0, 140.0]]}, "items.mm")
        >>> jets = ds.explode("jet", number="event")
        >>> jets["jet_pt"].compute(), jets["met"].compute(), jets["event"].compute()
        (array([ 20.,  30., 140.]), array([10., 60., 60.]), array([0, 1, 1]))
        >>> jets[jets.cut("jet_pt > met")]["jet_pt"].compute()
        array([ 20., 140.])
        """
        return exploded(self, record_or_field, number)

    @once
    def loc(self) -> Loc:
        """Rows by key: ``ds.loc["eventNumber", 12345]`` is the row of that event, as ``ds[17]`` is that of a number.

        ``ds.loc["eventNumber", [5, 7]]`` are several, in that order, as ``ds[[5, 3]]`` gives them, and
        ``ds.loc[("run", "event"), (1, 12)]`` is found by two fields together. Where one field is said to be the key, as
        by ``mm.Field.string("name", attrs={"key": True})``, its name can be left out: ``ds.loc["a.png"]``.

        Keys are integers, booleans, times, text and labels. The first time, an index is made, part by part in one pass
        over the fields, and kept beside the store; every process finds it there, and when rows are appended only they
        are looked at. A selection has the rows that are selected.

        Raises
        ------
        RowNotFoundError
            When no row has the key; for text with the nearest that there are.
        OptionError
            When several rows have it, or it is no key of the field.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"event": [11, 12, 7], "met": [41.5, 7.0, 60.0]}, "keys.mm")
        >>> ds.loc["event", 7]["met"], ds.loc["event", [12, 11]]["met"]
        (np.float64(60.0), array([ 7. , 41.5]))
        """
        return Loc(self)

    def memmap(
        self, name: str, *, array: str = "values", part: int | None = None, mode: Literal["r", "c"] = "r"
    ) -> np.memmap[Any, Any]:
        """Map the file of a field, as `numpy.memmap` does: what the store is, without anything between. Eager.

        Parameters
        ----------
        name : str
            A field that is stored.
        array : str
            Which of its arrays: ``"values"``; of lists and text ``"offsets"``, int64 with one more than rows, of inner
            lists ``"offsets[1]"``; of shaped rows ``"shapes"``; of optional fields ``"valid"``, bool.
        part : int, optional
            Which part of the store, where the rows lie in several.
        mode : {"r", "c"}
            Read-only, or copy-on-write: what is written stays in memory. Files of a store are never changed.

        Returns
        -------
        numpy.memmap
            Of the rows of this dataset that lie in the part: of all of them the whole file, of a slice a view of it.
            Values of a category are codes of its labels, text is UTF-8 bytes. Offsets count from the beginning of the
            file, also in a slice. What is missing holds nan, NaT or 0.

        Raises
        ------
        OptionError
            When rows are selected otherwise than by slices, or lie in several parts; when the field is computed or
            constant; when files are not mapped (``io="pread"``); for any other mode.
        CorruptStoreError
            When the file is missing or has the wrong size.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0], "jet_pt": [[20.0], [30.0, 140.0]]}, "mapped.mm")
        >>> ds.memmap("met")
        memmap([10., 60.])
        >>> ds[1:].memmap("jet_pt"), ds.memmap("jet_pt", array="offsets")
        (memmap([ 30., 140.]), memmap([0, 1, 3]))
        """
        name = self._whole(name)
        self._readable("files hold", [name])
        field = self.schema[name]
        return memmap_of(self._resolved(), field.name, array, part, mode)
