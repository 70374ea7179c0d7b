"""What a campaign found: counts for the table, and every failure with what is needed to see it again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Result:
    """The outcome of one campaign.

    `counts` are what was done and seen, in the order in which they are shown; `failures` say what was wrong, and where.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failures

    def finish(self) -> Result:
        self.seconds = time.monotonic() - self.began
        return self

    def need(self, what: str, at_least: int) -> None:
        """Fail unless enough of this happened: a campaign in which nothing happens passes just as well."""
        if self.counts[what] < at_least:
            self.failures.append(f"only {self.counts[what]} {what}, expected {at_least} or more")

    def add(self, other: Result | Mapping[str, Any]) -> None:
        """Add what another part of the campaign found, as it is or as `plain`."""
        plain = other.plain() if isinstance(other, Result) else other
        self.counts.update(plain["counts"])
        self.failures += plain["failures"]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"counts": dict(self.counts), "failures": self.failures}


def table(results: Iterable[Result]) -> str:
    """A markdown table with a line for each campaign."""
    lines = ["| campaign | counts | failures | seconds |", "|---|---|---:|---:|"]
    for r in results:
        counts = "; ".join(f"{n:,} {what}" for what, n in r.counts.items())
        lines.append(f"| {r.name} | {counts} | {len(r.failures)} | {r.seconds:.0f} |")
    return "\n".join(lines)
