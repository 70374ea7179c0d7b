"""`Cut`: one boolean per row of a dataset, lazy, computed once and kept."""

from __future__ import annotations

from html import escape
from typing import Any, Literal, NoReturn, Protocol

from mmdask import display
from mmdask.dataset.lazy import MaskArray, to_dask
from mmdask.dataset.run import resolve
from mmdask.errors import OptionError
from mmdask.expr import Expression, combine, conjuncts, negate
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.rows import Rows

__all__ = ["Cut"]

#: characters that are shown
_LONG = 2000


class Cuttable(Protocol):
    """What cuts are of, as every `View` is: rows, and the chunks in which they are computed."""

    @property
    def _rows(self) -> Rows: ...

    @property
    def chunks(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...


class Cut:
    """A boolean per row, made by ``ds.cut("nJets >= 6 & nBTags_77 >= 2")``.

    Making it, combining it by ``& | ~`` and showing it compute nothing. `count`, `keep`, and the rows of ``ds[cut]``
    compute it once, on all threads, and keep it beside the store; from then on it is read.

    Missing values count as failing, and a cut is negated before that: ``cut.count() + (~cut).count()`` is less than
    the number of rows when something is missing.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"n": [5, 6, 7], "tags": [2, 1, 3]}, "cuts.mm")
    >>> good = ds.cut("n >= 6") & ds.cut("tags >= 2")
    >>> good.count(), ds[good]["n"].compute().tolist()
    (1, [7])
    """

    def __init__(self, dataset: Cuttable, expression: Expression) -> None:
        self._dataset = dataset
        self._expression = expression

    @property
    def expression(self) -> str:
        """The cut in full, with every bracket and constant written out."""
        return self._expression.canonical

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the cut reads."""
        return self._expression.fields

    @property
    def _selected(self) -> Rows:
        return self._dataset._rows.cut(self._expression)

    @property
    def mask(self) -> Any:
        """The cut as a lazy dask array, bool ``(rows,)``, over the rows of the dataset that it was made from.

        Reads the kept bits where there are any, and evaluates the rows asked for where not; `keep` first if the mask
        is needed more than once. A cut from Python is kept first.
        """
        if keyed_leaves(self._expression):
            self.keep()  # chunks could not compute it: what does is never pickled
        rows = self._dataset._rows.stored
        leaves = conjuncts(self._expression)
        return to_dask(MaskArray(rows, leaves), self._dataset.chunks, f"mask:{','.join(self.fields)}")

    def count(self) -> int:
        """How many rows of the dataset pass; computes and keeps the cut if that was not done."""
        return len(self._kept())

    def keep(self) -> Cut:
        """Compute the cut now and keep it; returns the cut. Nothing is computed when it is kept already."""
        self._kept()
        return self

    def _kept(self) -> Rows:
        return resolve(self._selected)

    def __and__(self, other: Cut) -> Cut:
        return self._combine("and", other)

    def __or__(self, other: Cut) -> Cut:
        return self._combine("or", other)

    def __invert__(self) -> Cut:
        return Cut(self._dataset, negate(self._expression))

    def _combine(self, how: Literal["and", "or"], other: Any) -> Cut:
        if not isinstance(other, Cut):
            raise OptionError(f"a cut is combined with a cut, got {type(other).__name__}; make one by ds.cut(...)")
        if self._dataset._rows.identity != other._dataset._rows.identity:
            raise OptionError("the two cuts are of different rows; make both from the same dataset")
        return Cut(self._dataset, combine(how, self._expression, other._expression))

    def __len__(self) -> NoReturn:
        raise OptionError("cut.count() is the number of rows that pass, and computes it; len(ds) are all rows")

    def __bool__(self) -> NoReturn:
        raise OptionError("a cut is neither true nor false: combine cuts by & | ~, not by and, or, not")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise OptionError("a cut is not an array: ds[cut]['met'] are the rows that pass, cut.mask is a lazy dask array")

    def __ge__(self, other: Any) -> NoReturn:
        # What dask asks of an index: x[cut].
        raise OptionError("a cut selects rows of a dataset, as ds[cut]['met']; for a dask array there is x[cut.mask]")

    __gt__ = __le__ = __lt__ = __ge__

    def __repr__(self) -> str:
        return f"mm.Cut<{display.terminal_safe(self._short())}, {self._state()}>"

    def _repr_html_(self) -> str:
        text = escape(display.terminal_safe(self._short()))
        return display.html_block(f"<code>{text}</code> <small>{escape(self._state())}</small>")

    def _short(self) -> str:
        text = self.expression
        return text if len(text) <= _LONG else f"{text[:_LONG]}... ({len(text):,} characters; .expression has all)"

    def _state(self) -> str:
        selected = self._selected
        if not selected.resolved:
            return "not yet counted"
        return f"{len(selected):,} of {len(self._dataset):,} rows"
