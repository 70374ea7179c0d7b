"""Lists that print as tables: the sources of a store, and its history."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mmdask import display
from mmdask.store.layer import Source
from mmdask.store.manifest import Entry
from mmdask.store.origin import NotFinite

__all__ = ["History", "Sources"]

#: lines of a table; the list has all
_SHOWN = 40
_SHORT = 60

_Table = tuple[list[list[str]], list[str], str]


class _Listing:
    """How a list is shown: a caption, a table of its first entries, and how many there are more."""

    def _caption(self) -> str:
        raise NotImplementedError

    def _table(self) -> _Table:
        raise NotImplementedError

    def text(self, most: int | None = None) -> str:
        """The table as plain text: of all entries, or of the first of them."""
        cells, headers, align = self._table()
        table = display.text_table(cells[:most], headers, align) if cells else ""
        return "\n".join(filter(None, [display.terminal_safe(self._caption()), table]))

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self.text(_SHOWN), _more(len(self._table()[0]))]))

    def _repr_html_(self) -> str:
        cells, headers, align = self._table()
        table = display.html_table(cells[:_SHOWN], headers, align) if cells else ""
        more = _more(len(cells))
        small = [f"<small>{display.html_text(text)}</small>" if text else "" for text in (self._caption(), more)]
        return display.html_block(small[0], table, small[1])


def _more(n: int) -> str:
    return f"... and {display.count_text(n - _SHOWN)} more" if n > _SHOWN else ""


class Sources(_Listing, list[Source]):
    """A list of `Source` that prints as a table; made by `Dataset.sources`."""

    def _folder(self) -> str:
        """The folder in which all of the files are; empty if there is none."""
        names = {os.path.dirname(s.uri) for s in self}
        return names.pop() if len(names) == 1 else ""

    def _caption(self) -> str:
        folder = self._folder()
        return f"{display.amount(len(self), 'source')}{f' in {folder}' if folder else ''}"

    def _table(self) -> _Table:
        skip = len(self._folder()) + 1 if self._folder() else 0
        cells = [
            [
                s.uri[skip:],
                s.tree,
                display.count_text(s.rows),
                display.count_text(s.stop - s.start) if s.cut else "",
                "; ".join(f"{_short(w.weight)}: {w.sum:.6g}" for w in s.weights),
                _some(dict(s.skipped)),
                str(sum(map(_differs, s.notes)) or ""),
                _some(f"{p.field}: {display.count_text(p.items)}" for p in s.padded if p.items),
                _some(_not_finite(n) for n in s.not_finite or ()),
            ]
            for s in self
        ]
        headers = ["source", "tree", "rows", "before the cut", "sums before the cut", "fields left out"]
        headers += ["fields that differ", "items cut off", "not finite"]
        used = [i for i in range(len(headers)) if i < 3 or any(row[i] for row in cells)]
        return (
            [[row[i] for i in used] for row in cells],
            [headers[i] for i in used],
            "".join("llrrllrll"[i] for i in used),
        )


class History(_Listing, list[Entry]):
    """A list of `Entry`, one for each generation, that prints as a table, the newest first; see `Dataset.history`."""

    def _caption(self) -> str:
        return ""

    def _table(self) -> _Table:
        count = display.count_text
        cells = [
            [str(e.generation), e.time, count(e.n_rows), count(e.n_parts), count(e.n_fields), e.action]
            for e in reversed(self)  # the newest is what one looks for
        ]
        return cells, ["generation", "committed", "rows", "parts", "fields", "action"], "rlrrrl"


def _differs(note: tuple[str, str]) -> bool:
    """Whether a field is another than in the file, not only of another name."""
    return not (note[1].startswith("called ") and note[1].count(" in the file") == 1)


def _not_finite(n: NotFinite) -> str:
    counts = [
        f"{'?' if k is None else display.count_text(k)} {what}"
        for k, what in ((n.nan, "nan"), (n.inf, "inf"))
        if k != 0
    ]
    return f"{n.field}: {', '.join(counts)}"


def _some(texts: Iterable[str]) -> str:
    found = list(texts)
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
