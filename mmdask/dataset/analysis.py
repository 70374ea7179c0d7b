"""`Analysis`: sums over the rows of a view: cut flows, histograms, statistics. Each is a pass, or what one has kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from mmdask.batches.normalisation import Normalisation
from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.cuts.cutflow import CutFlow, cut_flow, name_of
from mmdask.dataset.definitions import Definitions
from mmdask.dataset.sums.describe import Description, describe_quickly, describe_rows
from mmdask.dataset.sums.hist import Bins, histograms, texts_of
from mmdask.dataset.sums.normalisation import normalisation_of
from mmdask.errors import OptionError

__all__ = ["Analysis"]


class Analysis(Definitions):
    """The part of a `Dataset` that computes; its methods are eager."""

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
        by = self._whole(by)
        self._readable("a cut flow reads", [by], [weight])
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
        by = self._whole(by)
        self._readable("a histogram is filled from", texts=texts_of(fields, weight, by))
        rows = self._rows if where is None else self[self.cut(where)]._rows
        return histograms(rows, fields, bins, range, weight, by)

    def describe(self, fields: str | Iterable[str] | None = None, *, quick: bool = False) -> Description:
        """Count, smallest, largest, mean and spread of the values of each field, in one pass. Eager; kept.

        What was found for a part of the store of which all rows are looked at is kept beside the store, as cuts are: it
        is read the next time, and after rows were appended only they are looked at.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        quick : bool
            Read no data: only what was kept when rows were written, which has no mean and spread, and is about all rows
            of a store. What is not known is None, and ``?`` in the table.

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
        OptionError
            With `quick`, when these are not all rows.

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
        if quick:
            return describe_quickly(self._resolved(), names)
        return describe_rows(self._resolved(), names)

    def normalisation(
        self,
        fields: str | Iterable[str],
        *,
        weight: str | None = None,
        where: str | Cut | None = None,
        dtype: npt.DTypeLike = "float32",
    ) -> Normalisation:
        """Find the means and standard deviations that batches are normalised by, in one pass. Eager; kept.

        ``train.batches(4096, normalise=train.normalisation(["met", "jet_pt"]))``: find them with the rows that are
        trained on, and use them for all others. They are kept as those of `describe` are.

        Parameters
        ----------
        fields : str or iterable of str
            Names of fields or records, or patterns (``"jet_*"``), of real numbers. Of lists it is over all items; of
            fields with a shape there is one mean for each component.
        weight : str, optional
            A field or an expression with one number per row, also for all of its items. Negative ones count as such.
        where : str or Cut, optional
            Only the rows that pass.
        dtype : dtype
            Of what is normalised.

        Returns
        -------
        Normalisation
            With `mean` and `std` by name, `apply`, `invert` and `to_dict`.

        Raises
        ------
        FieldNotFoundError
            When a name or pattern matches no field.
        OptionError
            When a field is no number or has no finite value, a weight is nan, infinite or missing, or negative weights
            leave no mean or a negative variance.

        Notes
        -----
        What is nan, infinite or missing is left out. The std is that of `numpy.std`: the root of the weighted mean of
        squared differences. Sums are those of differences from the mean, so a large mean takes no digits from it.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, float("nan")], "jets": [[1.0, 2.0], [], [6.0]]}, "norm.mm")
        >>> n = ds.normalisation(["met", "jets"])
        >>> n
        mm.Normalisation to float32
        field  mean      std
        -----  ----  -------
        met      35       25
        jets      3  2.16025
        >>> ds.batches(2, shuffle=False, normalise=n)[0]["met"]
        array([-1.,  1.], dtype=float32)
        """
        names = self.schema.match(fields)
        rows = self._resolved() if where is None else self[self.cut(where)]._resolved()
        self._readable("what is normalised are", names, [weight])
        return normalisation_of(rows, names, weight, dtype)
