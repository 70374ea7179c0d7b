"""What a conversion would do, as a value that prints as a table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmdask import display
from mmdask.sources.inputs import Input
from mmdask.sources.jobs import Job
from mmdask.sources.plan import group_of
from mmdask.sources.survey import Found
from mmdask.store.layer import Source, layer_exists

__all__ = ["ConversionPlan", "PlannedInput", "make_plan"]

_COLUMNS = ["file", "tree", "what", "rows", "size", "parts", "why"]
_ALIGN = "lllrrrl"
#: rows of a table that is shown
_MOST_SHOWN = 60


@dataclass(frozen=True)
class PlannedInput:
    """What a conversion would do with one input.

    Attributes
    ----------
    path, tree : str
        The file, and the tree, empty where it was not looked at.
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
    def of_nothing(cls, path: str, sources: Iterable[Input]) -> ConversionPlan:
        """The plan for a store that has everything."""
        return cls(path, tuple(PlannedInput(s.path, s.tree, "keep", None, 0, 0, "unchanged") for s in sources))

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
        # what is to be done comes first: it is what one looks for
        some = sorted(self.inputs, key=lambda i: i.action == "keep")
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
) -> ConversionPlan:
    """What is found, told input by input."""
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
        planned.append(_planned(found, group, before.get(group), nbytes, len(parts), group in left))
    gone: dict[tuple[str, str], int] = {}
    for data in dropped:
        source = found.stale[data]
        gone[source.uri, source.tree] = max(source.stop, gone.get((source.uri, source.tree), 0))
    why = "no longer there or named; missing='drop'"
    planned += [PlannedInput(uri, tree, "drop", rows, 0, 0, why) for (uri, tree), rows in sorted(gone.items())]
    return ConversionPlan(found.target.root, tuple(planned), len(jobs))


def _planned(found: Found, group: str, before: Source | None, nbytes: int, parts: int, left: bool) -> PlannedInput:
    """What is to be done with one input; `left` says that its rows are in layers that a dead call left."""
    s = found.sources[group]

    def say(action: str, why: str, tree: str = s.tree, rows: int | None = None) -> PlannedInput:
        return PlannedInput(s.path, tree, action, rows, nbytes, parts, why)

    if group in found.kept:
        labelled = all(p.has_labels(s.labels) for p in found.pieces.values() if group_of(p.data) == group)
        return say("keep", "unchanged") if labelled else say("label", "other labels")
    if group in found.finished or left:
        return say("resume", "converted by a call that did not end")
    if group in found.copies:
        old = found.copies[group][-1].source or Source("")
        return say("copy", "unchanged, but another input of its part is not", old.tree, old.stop)
    table = found.tables[group]
    if before is None:
        return say("convert", "new", table.tree, table.rows)
    return say("replace", _change(before, s), table.tree, table.rows)


def _change(before: Source, s: Input) -> str:
    """Why an input that was converted is read again."""
    if before.size != s.size:
        return f"changed: {display.nbytes_text(before.size)}, now {display.nbytes_text(s.size)}"
    if s.hash and before.hash and s.hash != before.hash:
        return "changed: other contents"
    if before.mtime_ns != s.mtime_ns:
        return f"changed: written {_time(before.mtime_ns)}, now {_time(s.mtime_ns)}"
    return "options, labels that it is cut by, what could not be read then, or the types of all inputs are others"


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns / 1e9))
