"""`CutFlow`: how many rows pass each cut alone, cumulatively, and all cuts but one; how it is shown and exported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.cuts.latex import latex_number, latex_row, latex_text
from mmdask.dataset.optional import imported
from mmdask.dataset.run import dask_runner
from mmdask.expr import Expression
from mmdask.rows.rows import Rows
from mmdask.rows.sums.counting import MAX_GROUPS, check_by, check_weight, count_passing
from mmdask.rows.sums.flow import Grouped, Sums, add, side_by_side, zeros
from mmdask.schema import Field
from mmdask.sources.converting.before import Before, before_conversion

__all__ = ["CutFlow", "Passing", "cut_flow", "name_of"]

Floats = npt.NDArray[np.float64]
#: a value of a field by which rows are split; None where it is missing
Group = str | int | bool | None
_BEFORE, _INITIAL = "before conversion", "initial"


@dataclass(frozen=True, eq=False)
class Passing:
    """Rows that pass, and the sums of their weights; read-only arrays, with an axis of groups first if there are any.

    Attributes
    ----------
    rows : numpy.ndarray
        How many, int64.
    sums : numpy.ndarray
        Sums of weights, float64; without weights the rows again.
    errors : numpy.ndarray
        The square root of the sum of squared weights, float64.
    """

    rows: npt.NDArray[np.int64]
    sums: Floats
    errors: Floats


@dataclass(frozen=True, eq=False, repr=False)
class CutFlow:
    """How many rows pass some cuts; made by `Dataset.cutflow`. Immutable, in memory.

    Attributes
    ----------
    names : tuple of str
        Of the cuts.
    groups : tuple
        The values of `by`: all labels in the order of the store, also of which there is no row; of integers and
        booleans those that occur, ascending. None, last, stands for rows in which it is missing. Of more than 1,000
        labels, only those that occur. Empty when rows are not split.
    alone, cumulative : Passing
        Rows that pass one cut, and all cuts up to it. Entry 0 are all rows, entry k is of cut k: arrays
        ``(cuts + 1,)``, or ``(groups, cuts + 1)`` when rows are split.
    n_minus_one : Passing
        Rows that pass all cuts but one: ``(cuts,)``, or ``(groups, cuts)``.
    weight, by : str
        What rows are weighted and split by; empty if nothing.
    before : Passing or None
        The rows of the sources before a conversion cut them: arrays ``()``, or ``(groups,)``. None where that is not
        known: `Dataset.cutflow` says when it is.
    why_not_before : str
        Why it is not known, of a store that was converted with a cut; else empty.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"n": [4, 5, 6], "w": [1.0, 2.0, -0.5]}, "weighted.mm")
    >>> flow = ds.cutflow(["n >= 5", "n < 6"], weight="w")
    >>> flow.cumulative.sums, flow.cumulative.errors.round(2), flow.n_minus_one.rows
    (array([2.5, 1.5, 2. ]), array([2.29, 2.06, 2.  ]), array([2, 2]))
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    alone: Passing
    cumulative: Passing
    n_minus_one: Passing
    weight: str = ""
    by: str = ""
    before: Passing | None = None
    why_not_before: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the entries of `alone` and `cumulative` are called: "initial", and the names of the cuts."""
        return (_INITIAL, *self.names)

    @property
    def relative(self) -> Floats:
        """Efficiency of each cut among the rows that pass those before it, float64 like `cumulative.sums`.

        Entry 0 is that of the conversion's cut where `before` is known, else nan; so is that of none of none.
        """
        sums = self.cumulative.sums
        first = np.full(sums.shape[:-1], np.nan) if self.before is None else self.before.sums
        before = np.concatenate([first[..., None], sums[..., :-1]], axis=-1)
        return _ratio(sums, before)

    @property
    def efficiency(self) -> Floats:
        """Efficiency of all cuts up to each among all rows, float64 like `cumulative.sums`; nan for none of none."""
        return _ratio(self.cumulative.sums, self.cumulative.sums[..., :1])

    @property
    def acceptance(self) -> Floats | None:
        """Efficiency of all cuts up to each, and of the conversion's, among all rows of the sources; None if not known.

        float64 like `cumulative.sums`.
        """
        return None if self.before is None else _ratio(self.cumulative.sums, self.before.sums[..., None])

    # Looks ----------------------------------------------------------------------------------------------------------

    def table(self) -> str:
        """The numbers as a table in plain text; with weights, sums and their errors, and the rows that pass."""
        return display.text_table(self._rows(), self._headers(), self._align())

    def __repr__(self) -> str:
        return "\n".join(filter(None, [display.terminal_safe(self._caption()), self.table()]))

    def _repr_html_(self) -> str:
        caption, group = self._caption(), self._n_lines if self.by else 0
        return display.html_table(self._rows(), self._headers(), self._align(), caption=caption, group=group)

    @property
    def _n_lines(self) -> int:
        """Lines of a group."""
        return len(self.labels) + (self.before is not None)

    def _caption(self) -> str:
        why = f"not known before conversion: {self.why_not_before}" if self.why_not_before else ""
        return "; ".join(filter(None, [f"weighted by {self.weight}" if self.weight else "", why]))

    def _headers(self) -> list[str]:
        words = ["cut", "alone", "cumulative", "N-1", "of before", "of all"]
        if self.weight:
            words.insert(1, "rows")
        return [self.by, *words] if self.by else words

    def _align(self) -> str:
        return "l" * (1 + bool(self.by)) + "r" * (5 + bool(self.weight))

    def _rows(self, pm: str = " ± ") -> list[list[str]]:
        """The cells of the table."""
        rows = []
        for name, block in self._blocks():
            if block.before is not None:
                numbers = [block.before.cell(0, pm)] * 2 + [""] * 3
                if self.weight:
                    numbers.insert(0, display.count_text(int(block.before.rows[0])))
                rows.append([*([name] if self.by else []), _BEFORE, *numbers])
                name = ""
            for k, label in enumerate(self.labels):
                numbers = [block.alone.cell(k, pm), block.cumulative.cell(k, pm)]
                numbers.append(block.n_minus_one.cell(k - 1, pm) if k else "")
                numbers += [_percent(block.relative[k]), _percent(block.efficiency[k])]
                if self.weight:
                    numbers.insert(0, display.count_text(int(block.cumulative.rows[k])))
                rows.append([*([name if not k else ""] if self.by else []), label, *numbers])
        return rows

    def _blocks(self) -> Iterator[tuple[str, _Block]]:
        """The numbers of each group, and its name."""
        weighted = bool(self.weight)
        for i, group in enumerate(self.groups if self.by else [None]):
            at = i if self.by else ...
            alone, cumulative, others = [
                _Column(p.rows[at], p.sums[at], p.errors[at], weighted)
                for p in (self.alone, self.cumulative, self.n_minus_one)
            ]
            before = None
            if (p := self.before) is not None:
                rows, sums, errors = np.atleast_1d(p.rows[at]), np.atleast_1d(p.sums[at]), np.atleast_1d(p.errors[at])
                before = _Column(rows, sums, errors, weighted)
            yield (
                _group_text(group),
                _Block(alone, cumulative, others, self.relative[at], self.efficiency[at], before),
            )

    # Exports --------------------------------------------------------------------------------------------------------

    def to_latex(self) -> str:
        r"""The table as a LaTeX ``tabular``, which needs no package. Names are escaped.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"n_jet": [4, 5]}, "latex.mm")
        >>> print(ds.cutflow(["n_jet >= 5"]).to_latex())
        \begin{tabular}{lrrrrr}
        \hline
        cut & alone & cumulative & $N-1$ & of before & of all \\
        \hline
        initial & 2 & 2 &  &  & 100.00\% \\
        n\_jet \textgreater{}= 5 & 1 & 1 & 2 & 50.00\% & 50.00\% \\
        \hline
        \end{tabular}
        """
        n_names = 1 + bool(self.by)
        head = [latex_text(h) if i < n_names else h.replace("N-1", "$N-1$") for i, h in enumerate(self._headers())]
        lines = [rf"\begin{{tabular}}{{{self._align()}}}", r"\hline", latex_row(head), r"\hline"]
        for i, row in enumerate(self._rows(pm=r" \pm ")):
            if i and self.by and i % self._n_lines == 0:
                lines.append(r"\hline")
            lines.append(latex_row([latex_text(c) if i < n_names else latex_number(c) for i, c in enumerate(row)]))
        return "\n".join([*lines, *([r"\hline"] if lines[-1] != r"\hline" else []), r"\end{tabular}"])

    def to_pandas(self) -> Any:
        """The numbers as a pandas DataFrame, one row for each label, or for each group and label.

        Columns `alone`, `cumulative` and `n_minus_one` are rows; with weights there are ``..._sum`` and ``..._error``
        of each, too. `n_minus_one` is NA in "initial". `relative` and `efficiency` are as in this class. If
        `before` is known, it comes first, as "before conversion".

        Raises
        ------
        MissingDependencyError
            When pandas is not installed.
        """
        pd = imported("pandas", "pandas")
        labels = self.labels if self.before is None else (_BEFORE, *self.labels)
        if self.by:
            keys = [(group, label) for group in self.groups for label in labels]
            index = pd.MultiIndex.from_tuples(keys, names=[self.by, "cut"]) if keys else None
        else:
            index = pd.Index(labels, name="cut")
        columns: dict[str, Any] = {}
        first = [] if self.before is None else [self.before]
        for name, parts in {
            "alone": [*first, self.alone],
            "cumulative": [*first, self.cumulative],
            "n_minus_one": [self.n_minus_one],
        }.items():
            passing = _joined(parts)
            absent = np.zeros((*passing.rows.shape[:-1], len(labels)), np.bool_)
            absent[..., : len(labels) - passing.rows.shape[-1]] = True
            columns[name] = _pandas_column(pd, passing.rows, absent, "Int64")
            if self.weight:
                columns[f"{name}_sum"] = _pandas_column(pd, passing.sums, absent, "Float64")
                columns[f"{name}_error"] = _pandas_column(pd, passing.errors, absent, "Float64")
        for name, ratio in {"relative": self.relative, "efficiency": self.efficiency}.items():
            none = np.full((*ratio.shape[:-1], len(first)), np.nan)
            columns[name] = np.concatenate([none, ratio], axis=-1).ravel()
        return pd.DataFrame(columns, index=index)

    def plot(self, ax: Any = None) -> Any:
        """Draw the cumulative rows, or sums of weights, of each group, with their errors.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, to go on with: ``flow.plot().set_yscale("log")``.

        Raises
        ------
        MissingDependencyError
            When matplotlib is not installed.
        """
        plt = imported("matplotlib.pyplot", "mmdask[plot]")
        n = len(self.labels)
        if ax is None:
            _, ax = plt.subplots(figsize=(max(4.8, 1.8 + 0.7 * n), 4.2), layout="constrained")
        blocks = [(name, block) for name, block in self._blocks() if block.cumulative.rows.any() or not self.by]
        edges = np.arange(n + 1) - 0.5
        lines = []
        for i, (name, block) in enumerate(blocks):
            column = block.cumulative
            # Bars of several groups stand beside each other.
            at = np.arange(n) + ((i + 0.5) / len(blocks) - 0.5) * 0.6
            line = ax.stairs(
                column.sums, edges, baseline=None, label=display.plot_text(name, 40) if self.by else None, linewidth=1.6
            )
            lines.append(line)
            ax.errorbar(at, column.sums, column.errors, fmt="none", ecolor=line.get_edgecolor(), capsize=2)
        names = [display.plot_text(label, 40) for label in self.labels]
        ax.set_xticks(np.arange(n), names, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.5, n - 0.5)
        if not any((b.cumulative.sums - b.cumulative.errors < 0).any() for _, b in blocks):
            # From 0, but not if the axis becomes logarithmic: so no limit is set.
            ax.update_datalim([(0, 0)], updatex=False)
            for line in lines:
                line.sticky_edges.y.append(0)
            ax.autoscale_view(scalex=False)
        ax.set_ylabel(display.plot_text(f"sum of {self.weight}") if self.weight else "rows")
        if self.by and blocks:
            ax.legend(title=display.plot_text(self.by), frameon=False)
        return ax


@dataclass(frozen=True)
class _Column:
    """The numbers of one group in one column of the table."""

    rows: npt.NDArray[np.int64]
    sums: Floats
    errors: Floats
    weighted: bool

    def cell(self, k: int, pm: str) -> str:
        if not self.weighted:
            return display.count_text(int(self.rows[k]))
        return _with_error(float(self.sums[k]), float(self.errors[k]), pm)


@dataclass(frozen=True)
class _Block:
    """The numbers of one group."""

    alone: _Column
    cumulative: _Column
    n_minus_one: _Column
    relative: Floats
    efficiency: Floats
    before: _Column | None


def name_of(label: object, cut: str | Cut) -> str:
    """What a cut is called in a table: its label if it has one, else its text, with constants put in."""
    if label is not None:
        return str(label)
    if isinstance(cut, Cut):
        text = cut.expression
        # The outermost brackets are those of the last operator, and close at the end.
        return text[1:-1] if text.startswith("(") else text
    return " ".join(cut.split())


def cut_flow(
    rows: Rows, names: Sequence[str], cuts: Sequence[Expression], weight: str | None, by: str | None
) -> CutFlow:
    """Count; the parameters are those of `Dataset.cutflow`."""
    weights = None if weight is None else check_weight(weight, rows)
    if by is not None:
        check_by(by, rows.schema)
    read = dict.fromkeys(name for cut in cuts for name in cut.fields)
    counted = count_passing(rows, cuts, weight=weights, by=by, run=dask_runner("cut flow", read))
    found = before_conversion(rows.snapshot, rows.cuts, weights, by)
    if by in rows.derived and found:
        found = f"{by} is computed, and no label of the inputs"
    before = None if isinstance(found, str) else found
    # Also those of which there is no row, so that what is lost is seen, and flows of one store have the same groups.
    empty = dict.fromkeys([*(before or ()), *_codes(rows.schema[by])]) if by is not None else {}
    counted = add(counted, Grouped(tuple(empty), zeros(len(cuts), len(empty), weighted=weight is not None)))
    total = counted.tally
    everything = total.together.map(lambda entries: entries[:, :1])
    return CutFlow(
        tuple(names),
        tuple([_group(rows.schema[by], value) for value in counted.groups]) if by is not None else (),
        _passing(side_by_side([everything, total.alone]), split=by is not None),
        _passing(total.together, split=by is not None),
        _passing(total.others, split=by is not None),
        weight or "",
        by or "",
        None
        if before is None
        else _before([before.get(value, Before()) for value in counted.groups], split=by is not None),
        found if isinstance(found, str) else "",
    )


def _before(groups: Sequence[Before], *, split: bool) -> Passing:
    n = np.array([b.rows for b in groups], np.int64)
    w, w2 = (np.array(sums, np.float64) for sums in ([b.sum for b in groups], [b.sum2 for b in groups]))
    arrays = n, w, np.sqrt(w2)
    return _read_only(*(a if split else a.reshape(()) for a in arrays))


def _codes(field: Field) -> range:
    """The codes of the labels, if they are few enough to be groups."""
    n = len(field.labels)
    return range(n if n <= MAX_GROUPS else 0)


def _group(field: Field, value: int | None) -> Group:
    if value is None:
        return None
    if field.kind == "category":
        return field.labels[value]
    return bool(value) if field.dtype.kind == "b" else value


def _group_text(group: Group) -> str:
    """What a group is called in tables."""
    return "(missing)" if group is None else str(group)


def _passing(sums: Sums, *, split: bool) -> Passing:
    n = sums.n if split else sums.n[0]
    w, w2 = (np.asarray(n if a is None else a if split else a[0], np.float64) for a in (sums.w, sums.w2))
    return _read_only(n.copy(), w.copy(), np.sqrt(w2))


def _read_only(*arrays: npt.NDArray[Any]) -> Passing:
    for array in arrays:
        array.flags.writeable = False
    return Passing(*arrays)


def _joined(parts: Sequence[Passing]) -> Passing:
    """Entries one after the other; an array without an axis of entries has one."""
    n_axes = parts[-1].rows.ndim
    arrays = []
    for name in ("rows", "sums", "errors"):
        some = [getattr(p, name) for p in parts]
        arrays.append(np.concatenate([a if a.ndim == n_axes else a[..., None] for a in some], axis=-1))
    return Passing(*arrays)


def _ratio(a: Floats, b: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.divide(a, b)


# Text ---------------------------------------------------------------------------------------------------------------


def _percent(x: float) -> str:
    return "" if math.isnan(x) else f"{x:,.2%}"


def _with_error(value: float, error: float, pm: str) -> str:
    """A number with two digits of its error, and the error."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g}{pm}{error:.2g}"
    digits = 1 - math.floor(math.log10(error))
    if digits > 6 or abs(value) >= 1e12 or error >= 1e12:
        return f"{value:.6g}{pm}{error:.2g}"
    digits = max(digits, 0)
    return f"{value:,.{digits}f}{pm}{error:,.{digits}f}"


def _pandas_column(pd: Any, values: npt.NDArray[Any], absent: npt.NDArray[np.bool_], dtype: str) -> Any:
    """Values where they are not absent, as an array of pandas that says which are."""
    filled = np.zeros(absent.shape, values.dtype)
    filled[..., absent.shape[-1] - values.shape[-1] :] = values
    kind = pd.arrays.IntegerArray if dtype == "Int64" else pd.arrays.FloatingArray
    return kind(filled.ravel(), absent.ravel())
