"""`Explanation`: how an expression is read, what it costs, and what of it is kept. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmdask import display
from mmdask.expr import Expression, canonical
from mmdask.expr.typed import Typed
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.cuts.passes import kept_parts
from mmdask.rows.cuts.skip import skipped
from mmdask.rows.rows import Rows
from mmdask.schema import dtype_text

__all__ = ["Explanation", "Step", "explain"]

#: steps and fields of a table; the attributes have all
_SHOWN = 60
#: characters of the expression
_LONG = 2000
#: characters of a step
_WIDTH = 72


@dataclass(frozen=True)
class Step:
    """A piece of an expression.

    Attributes
    ----------
    text : str
        In canonical form.
    level : int
        How many others it stands within.
    dtype : str
        Of its values: a name of numpy's, or "category" or "text".
    depth : int
        0: one value per row; 1: one per item; 2: one per item of an item.
    missing : bool
        Whether there may be no value.
    """

    text: str
    level: int
    dtype: str
    depth: int
    missing: bool


@dataclass(frozen=True)
class Explanation:
    """What `Dataset.explain` says. It prints as text, and as tables in a notebook.

    Attributes
    ----------
    canonical : str
        The expression with every bracket and constant written out, and computed fields replaced by what they are
        computed from. Parsing it gives the same expression.
    steps : tuple of Step
        The expression and its pieces, each behind the one that it stands within. A piece that stands there again, and
        literals, are left out.
    fields : dict of str to int
        The stored fields that it reads, and their bytes in the store.
    may_be_missing : tuple of str
        The pieces from which missing values come.
    parts : int
        Of the store, those that have rows.
    kept_parts : int
        Parts of which nothing has to be read, because the cut is kept there or settled by labels, constants, and
        smallest and largest values. 0 for what is no cut.
    skipped_rows : int
        Rows that need not be read, whether the cut is kept or not.
    rows : int
        Of the store.
    """

    canonical: str
    steps: tuple[Step, ...]
    fields: dict[str, int]
    may_be_missing: tuple[str, ...]
    parts: int
    kept_parts: int
    skipped_rows: int
    rows: int

    def _facts(self) -> Iterator[tuple[str, str]]:
        top = self.steps[0]
        text = self.canonical
        more = "" if len(text) <= _LONG else f"... ({len(text):,} characters; .canonical has all)"
        yield "expression", display.terminal_safe(text[:_LONG]) + more
        yield "gives", f"{_type(top)}, one value per {_per(top.depth)}"
        shown = [f"{name} ({display.nbytes_text(n)})" for name, n in self.fields.items()]
        more = f", ... ({len(shown)} in all)" if len(shown) > _SHOWN else ""
        yield "reads", ", ".join(shown[:_SHOWN]) + more or "no field"
        if top.dtype == "bool" and not top.depth:
            n = self.kept_parts
            left = "nothing is read any more" if n == self.parts else "the rest is computed when it is needed"
            yield "kept", f"in {n:,} of {display.amount(self.parts, 'part')}; {left}"
            why = " by labels, and smallest and largest values" if self.skipped_rows else ""
            yield "skipped", f"{self.skipped_rows:,} of {display.amount(self.rows, 'row')}{why}"
        if self.may_be_missing:
            what = ", ".join(self.may_be_missing[:5]) + (", ..." if len(self.may_be_missing) > 5 else "")
            ends = "; rows where it decides pass neither a cut nor its negation" if top.dtype == "bool" else ""
            yield "missing", f"{what} may have no value{ends}"

    def _cells(self) -> list[list[str]]:
        cells = []
        for step in self.steps[:_SHOWN]:
            text = step.text if len(step.text) <= _WIDTH else step.text[: _WIDTH - 3] + "..."
            cells.append(["  " * min(step.level, 20) + text, _type(step), _per(step.depth)])
        if len(self.steps) > _SHOWN:
            cells.append([f"... and {len(self.steps) - _SHOWN} more steps", "", ""])
        return cells

    def __repr__(self) -> str:
        facts = "\n".join(f"{name:<10}  {text}" for name, text in self._facts())
        return f"{facts}\n\n{display.text_table(self._cells(), ['step', 'type', 'one per'])}"

    def _repr_html_(self) -> str:
        facts = display.html_table([list(fact) for fact in self._facts()], ["", ""])
        return display.html_block(facts, display.html_table(self._cells(), ["step", "type", "one per"]))


def explain(rows: Rows, expression: Expression) -> Explanation:
    """Say how an expression is read; see `mmdask.Dataset.explain`."""
    steps: list[Step] = []
    missing: list[str] = []
    seen: set[str] = set()
    _walk(expression.typed, 0, "", steps, missing, seen)
    fields = {name: _nbytes(rows, name) for name in expression.fields}
    snapshot = rows.snapshot
    parts, kept, skipped_rows = sum(bool(part.rows) for part in snapshot.parts), 0, 0
    if expression.dtype == np.bool_ and not expression.depth:
        kept, _ = kept_parts(snapshot, expression)
        skipped_rows = 0 if keyed_leaves(expression) else skipped(snapshot, expression).rows
    what = expression.canonical, tuple(steps), fields, tuple(missing)
    return Explanation(*what, parts, kept, skipped_rows, snapshot.rows)


def _walk(x: Typed, level: int, above: str, steps: list[Step], missing: list[str], seen: set[str]) -> None:
    text = canonical(x.tree)
    # Operations that are one piece, as those of a chain of comparisons, have its text.
    if text in seen and text != above:
        return
    if text not in seen:
        seen.add(text)
        kind = {"label": "category", "text": "text"}.get(x.kind, dtype_text(x.dtype))
        steps.append(Step(text, level, kind, x.depth, x.missing))
        if x.missing and not any(a.missing for a in x.args):
            missing.append(text)
        level += 1
    for a in x.args:
        if a.op != "literal":
            _walk(a, level, text, steps, missing, seen)


def _nbytes(rows: Rows, name: str) -> int:
    snapshot = rows.snapshot
    found = 0
    for part in range(len(snapshot.parts)):
        layer, stored = snapshot.stored(part, name)
        found += layer.field_nbytes(name) if stored.values is not None else 0
    return found


def _type(step: Step) -> str:
    return f"optional {step.dtype}" if step.missing else step.dtype


def _per(depth: int) -> str:
    return " of an ".join(["item"] * depth) if depth else "row"
