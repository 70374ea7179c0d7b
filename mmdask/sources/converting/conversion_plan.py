"""What a conversion would do, as a value that prints as a table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmdask import display
from mmdask.sources.converting.inputs import Input
from mmdask.sources.converting.jobs import Job
from mmdask.sources.converting.plan import group_of, layer_ids
from mmdask.sources.converting.survey import Found
from mmdask.sources.remote import is_remote
from mmdask.store.layer import Source, layer_exists

__all__ = ["ConversionPlan", "PlannedInput", "make_plan"]

_COLUMNS = ["file", "tree", "what", "rows", "size", "parts", "why"]
_ALIGN = "lllrrrl"
#: rows of a table that is shown
_MOST_SHOWN = 60


#: what is done, in the order in which it is shown
_RANK = ["convert", "replace", "drop", "label", "resume", "copy", "keep"]


@dataclass(frozen=True)
class PlannedInput:
    """What a conversion would do with one input.

    Attributes
    ----------
    path, tree : str
        The file, and its tree.
    action : {"keep", "label", "convert", "replace", "copy", "resume", "drop"}
        Keep its rows; write other labels for them; read a new file; read a file again and replace its rows; copy its
        rows out of a part that they were merged into with others; take what an interrupted call had finished; drop its
        rows.
    rows : int or None
        Of the input, before any cut; None where it was not looked at.
    nbytes : int
        Bytes that would be decoded or copied, about.
    parts : int
        Parts of the store that would be written, those that it shares with others included.
    why : str
        The reason.
    """

    path: str
    tree: str
    action: str
    rows: int | None
    nbytes: int
    parts: int
    why: str

    @property
    def cells(self) -> list[str]:
        rows = "" if self.rows is None else display.count_text(self.rows)
        size = display.nbytes_text(self.nbytes) if self.nbytes else ""
        parts = str(self.parts) if self.parts else ""
        return [self.path, self.tree, self.action, rows, size, parts, self.why]


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion would do; made by `mmdask.from_root` with ``plan=True``. Nothing was written for it.

    Attributes
    ----------
    path : str
        The store.
    inputs : tuple of PlannedInput
        In the order of the rows that are made; those that are dropped come last.
    parts : int
        Parts that would be written.
    """

    path: str
    inputs: tuple[PlannedInput, ...]
    parts: int = 0

    @classmethod
    def of_nothing(cls, path: str, sources: Iterable[tuple[Input, str]]) -> ConversionPlan:
        """The plan for a store that has everything: inputs, and the tree of each."""
        return cls(path, tuple(PlannedInput(s.path, tree, "keep", None, 0, 0, "unchanged") for s, tree in sources))

    @property
    def is_empty(self) -> bool:
        """Whether the store has everything already."""
        return all(i.action == "keep" for i in self.inputs)

    @property
    def nbytes(self) -> int:
        """Bytes that would be decoded or copied, about."""
        return sum(i.nbytes for i in self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[PlannedInput]:
        return iter(self.inputs)

    def __repr__(self) -> str:
        table = display.text_table(self._shown, _COLUMNS, _ALIGN)
        return "\n".join([f"plan for {display.terminal_safe(self.path)}", table, self._summary])

    def _repr_html_(self) -> str:
        table = display.html_table(self._shown, _COLUMNS, _ALIGN)
        return display.html_block(display.html_text(f"plan for {self.path}"), table, display.html_text(self._summary))

    @property
    def _shown(self) -> list[list[str]]:
        # what costs most comes first: it is what one looks for
        some = sorted(self.inputs, key=lambda i: _RANK.index(i.action))
        return [i.cells for i in some[:_MOST_SHOWN]]

    @property
    def _summary(self) -> str:
        counts: dict[str, int] = {}
        for i in self.inputs:
            counts[i.action] = counts.get(i.action, 0) + 1
        text = ", ".join(f"{display.count_text(n)} to {action}" for action, n in counts.items())
        hidden = len(self.inputs) - _MOST_SHOWN
        text += f" ({display.count_text(hidden)} not shown)" if hidden > 0 else ""
        if self.is_empty:
            return f"{text}: nothing to do"
        size = display.nbytes_text(self.nbytes)
        return f"{text}: {size} to be decoded or copied, {display.amount(self.parts, 'part')} to be written"


def make_plan(
    found: Found,
    jobs: Sequence[Job],
    order: Sequence[str | None],
    replaced: Mapping[str, str],
    dropped: Iterable[str],
    options: Sequence[str] = (),
) -> ConversionPlan:
    """What is found, told input by input; `options` are the names of those that are others than before."""
    of_group: dict[str, list[Job]] = {}
    begun = {s.group for job in jobs for s in job.stretches}
    # a call that did not end may have left some of them
    jobs = [job for job in jobs if not layer_exists(found.target.root, job.id)]
    for job in jobs:
        for s in job.stretches:
            of_group.setdefault(s.group, []).append(job)
    left = begun - set(of_group)
    before = {group: found.stale[data] for data, group in replaced.items()}
    rank = {group: i for i, group in enumerate(order) if group is not None}
    planned = []
    for group in sorted(found.sources, key=lambda g: rank.get(g, -1)):
        parts = of_group.get(group, [])
        nbytes = sum(s.nbytes for job in parts for s in job.stretches if s.group == group)
        why = _why(found, options)
        planned.append(_planned(found, group, before.get(group), nbytes, len(parts), group in left, why))
    gone: dict[tuple[str, str], int] = {}
    for data in dropped:
        source = found.stale[data]
        gone[source.uri, source.tree] = max(source.stop, gone.get((source.uri, source.tree), 0))
    why = "no longer there or named; missing='drop'"
    planned += [PlannedInput(uri, tree, "drop", rows, 0, 0, why) for (uri, tree), rows in sorted(gone.items())]
    return ConversionPlan(found.target.root, tuple(planned), len(jobs))


def _planned(
    found: Found, group: str, before: Source | None, nbytes: int, parts: int, left: bool, why: str
) -> PlannedInput:
    """What is to be done with one input.

    `left` says that its rows are in layers that a dead call left, `why` why files that are as before are read again.
    """
    s = found.sources[group]

    def say(action: str, why: str, tree: str = s.tree, rows: int | None = None) -> PlannedInput:
        return PlannedInput(s.path, tree, action, rows, nbytes, parts, why)

    if group in found.kept:
        labelled = all(p.has_labels(s.labels) for p in found.pieces.values() if group_of(p.data) == group)
        tree = found.source_of(layer_ids(group, found.kept[group])[0]).tree
        return say("keep", "unchanged", tree) if labelled else say("label", "other labels", tree)
    if group in found.finished or left:
        return say("resume", "converted by a call that did not end", _tree_of(found, group))
    if group in found.copies:
        old = found.copies[group][-1].source or Source("")
        return say("copy", "unchanged, but another input of its part is not", old.tree, old.stop)
    table = found.tables[group]
    if before is None:
        return say("convert", "new", table.tree, table.rows)
    return say("replace", _change(before, s) or why, table.tree, table.rows)


def _tree_of(found: Found, group: str) -> str:
    """The tree of an input whose rows are complete, though it is in no store yet."""
    s = found.sources[group]
    if group in found.tables:
        return found.tables[group].tree
    layers = found.finished.get(group, ())
    return next((made.tree for layer in layers for made in layer.sources if made.uri == s.path), s.tree)


def _why(found: Found, options: Sequence[str]) -> str:
    """Why inputs are read again that did not change."""
    if options:
        # what expressions mean has no option of its own
        named = [name for name in options if name not in ("semantics", "converter")]
        return f"other options: {', '.join(named)}" if named else "this version of mmdask converts otherwise"
    if not found.target.is_fit:
        return "the types of all inputs together are others"
    return "other labels, which an expression reads"


def _change(before: Source, s: Input) -> str:
    """What changed of an input that was converted; empty if nothing did."""
    if before.size != s.size:
        old, new = display.nbytes_text(before.size), display.nbytes_text(s.size)
        if old == new:
            old, new = (f"{n:,} bytes" for n in (before.size, s.size))
        return f"changed: {old}, now {new}"
    if s.hash and before.hash and s.hash != before.hash:
        return "changed: other contents"
    if before.mtime_ns != s.mtime_ns:
        if is_remote(s.path):
            return "changed on the server"
        old, new = _time(before.mtime_ns), _time(s.mtime_ns)
        if old == new:
            # as many digits of a second as differ
            digits = next(d for d in range(1, 10) if before.mtime_ns // 10 ** (9 - d) != s.mtime_ns // 10 ** (9 - d))
            old, new = (f"{_time(ns)}.{ns % 10**9:09}"[: digits - 9 or None] for ns in (before.mtime_ns, s.mtime_ns))
        return f"changed: written {old}, now {new}"
    return ""


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))
