"""`ds.cuts`: which cuts are kept of a store, as a list that can be cleared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, overload

from mmdask import display
from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.cuts.keyed import forget_keys
from mmdask.dataset.view import View
from mmdask.errors import ExpressionError, OptionError
from mmdask.expr import Expression, operands, parse
from mmdask.expr.tree import Call, Text
from mmdask.rows.cuts.kept import KeptCut, find_kept, remove_kept
from mmdask.rows.cuts.masks import MaskFiles
from mmdask.rows.upkeep.vacuum import seconds_of
from mmdask.rows.views.views import SnapshotView
from mmdask.store.snapshot import Snapshot

__all__ = ["KeptCuts", "cuts_of"]

#: rows of a table
_SHOWN = 40
_HEADERS = ["cut", "kept", "of rows", "parts", "size", "computed"]


class KeptCuts(Sequence[KeptCut]):
    """The cuts that are kept of a store, in the order of their text; made by `Dataset.cuts`.

    It is what was found when it was made. It prints as a table: the cut, how many rows pass, for how many rows and
    parts it is computed, its size on disk, and how long ago it was computed.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"n": [4, 5, 6], "met": [90.0, 10.0, 80.0]}, "listed.mm")
    >>> ds.cut("n >= 5 & met > 50").count()
    1
    >>> [(cut.expression, cut.kept, cut.rows) for cut in ds.cuts]
    [('(met > 50)', 2, 3), ('(met > 50) and (n >= 5)', 1, 3), ('(n >= 5)', 2, 3)]
    >>> ds.cuts.clear("n >= 5"), len(ds.cuts)
    (2, 1)
    """

    def __init__(self, snapshot: Snapshot, cuts: Sequence[KeptCut], n_strange: int, check: Callable[[str], Expression]):
        self._snapshot = snapshot
        self._cuts = list(cuts)
        self._n_strange = n_strange
        self._check = check

    @overload
    def __getitem__(self, index: int) -> KeptCut: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KeptCut]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._cuts[index]

    def __len__(self) -> int:
        return len(self._cuts)

    @property
    def path(self) -> str:
        """The folder where they are."""
        return MaskFiles(self._snapshot).folder

    @property
    def nbytes(self) -> int:
        """What all of them take on disk."""
        return sum(cut.nbytes for cut in self._cuts)

    def clear(self, cut: str | Cut | None = None, *, older_than: str | float | timedelta = 0) -> int:
        """Remove what is kept, also of other generations of the store; it is computed again when it is used.

        Parameters
        ----------
        cut : str or Cut, optional
            One cut: the parts that it joins by "and", "or" and "not", and whatever was kept of these together with
            others. As text it may also be the key of a cut from Python. All cuts by default.
        older_than : str, number of seconds or timedelta
            Only what was computed longer ago, as ``"30d"``, ``"12h"``.

        Returns
        -------
        int
            How many files were removed.

        Raises
        ------
        ExpressionError
            When the text is no cut of this dataset, nor listed.
        """
        texts = None if cut is None else self._texts(cut)
        forget_keys(self._snapshot)
        return remove_kept(self._snapshot, texts, seconds_of(older_than, "older_than"))

    def _texts(self, cut: str | Cut) -> set[str]:
        if isinstance(cut, Cut):
            return _leaves(cut._expression)
        if not isinstance(cut, str):
            raise OptionError(f"cuts are cleared by text or by a Cut, got {type(cut).__name__}")
        kept = {text for file in self._cuts for text in file.expressions}
        chosen = {text for text in kept if text == cut or _key_of(text) == cut}
        listed = {text for file in self._cuts if file.expression == cut for text in file.expressions}
        if chosen | listed:
            return chosen | listed
        try:
            return _leaves(self._check(cut))
        except ExpressionError as error:
            keys = [key for text in sorted(kept) if (key := _key_of(text)) is not None]
            named = f"; the keys are: {', '.join(map(repr, keys))}" if keys else ""
            error.add_note(f"nor is there a kept cut with the key {cut!r}{named}")
            raise

    # Looks ----------------------------------------------------------------------------------------------------------

    def _caption(self) -> str:
        size = f", {display.nbytes_text(self.nbytes)}" if self._cuts else ""
        strange = f", {display.amount(self._n_strange, 'other file')}" if self._n_strange else ""
        return f"{display.amount(len(self), 'kept cut')}{size}{strange}, {self.path}"

    def _rows(self) -> list[list[str]]:
        now = time.time()
        return [
            [
                _inner(cut),
                display.count_text(cut.kept),
                display.count_text(cut.rows),
                f"{display.count_text(cut.parts)} of {display.count_text(cut.n_parts)}",
                display.nbytes_text(cut.nbytes),
                _ago(now - cut.time),
            ]
            for cut in self._cuts[:_SHOWN]
        ]

    def _more(self) -> str:
        return f"... and {len(self) - _SHOWN:,} more" if len(self) > _SHOWN else ""

    def __repr__(self) -> str:
        table = display.text_table(self._rows(), _HEADERS, "lrrrrr") if self._cuts else ""
        return "\n".join(filter(None, [display.terminal_safe(self._caption()), table, self._more()]))

    def _repr_html_(self) -> str:
        table = display.html_table(self._rows(), _HEADERS, "lrrrrr") if self._cuts else ""
        more = f"<small>{self._more()}</small>" if self._more() else ""
        return display.html_block(f"<small>{display.html_text(self._caption())}</small>", table, more)


def cuts_of(dataset: View) -> KeptCuts:
    """The cuts that are kept of the store of a dataset."""
    rows = dataset._rows
    if isinstance(rows.snapshot, SnapshotView):
        paths = ", ".join(dict.fromkeys([store.path for store in rows.snapshot.stores]))
        raise OptionError(
            f"cuts are kept with the stores that this dataset is made of, by the names that fields have there; "
            f"mm.open(path).cuts lists them: {paths}"
        )
    return KeptCuts(rows.snapshot, *find_kept(rows.snapshot), rows.check_cut)


def _leaves(cut: Expression) -> set[str]:
    """The canonical texts of a cut, and of all that it joins."""
    _, args = operands(cut)
    return {cut.canonical}.union(*map(_leaves, args))


def _key_of(text: str) -> str | None:
    """The key of a cut that comes from Python."""
    if not text.startswith("kept("):
        return None
    try:
        tree = parse(text)
    except ExpressionError:
        return None  # no text of ours
    key = tree.args[0] if isinstance(tree, Call) and tree.args else None
    return key.value if isinstance(key, Text) else None


def _inner(cut: KeptCut) -> str:
    """A cut without the brackets around all of it."""
    [text] = cut.expressions if len(cut.expressions) == 1 else [cut.expression]
    return text[1:-1] if len(cut.expressions) == 1 and text.startswith("(") else text


def _ago(seconds: float) -> str:
    for unit, n in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * n:
            return f"{int(seconds / n):,} {unit} ago"
    return "now"
