"""Runs competitors interleaved (A B C A B C ...) and reports medians and ratios.

A benchmark is a function that takes the number of rows and an empty folder for its data, and yields competitors: ours,
one limit (a physical one: memcpy, bare decoding), and peers (other ways to do the same work).
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmdask.display import text_table

Role = Literal["ours", "limit", "peer"]
#: short runs are repeated until they add up to this, so that their median means something
_SECONDS_EACH = 0.3
_MOST_REPEATS = 100


@dataclass(frozen=True)
class Competitor:
    """One way to do the work.

    Parameters
    ----------
    name : str
        As the table shows it.
    role : {"ours", "limit", "peer"}
        There is one of ours and one limit in each benchmark.
    run : callable or None
        What is timed; None where the competitor is missing.
    prepare : callable, optional
        Called before every run, not timed.
    check : callable, optional
        Called with the result of the first run, which is not timed; raises where it is wrong.
    missing : str
        Why there is nothing to run, as in "torch is not installed".
    """

    name: str
    role: Role
    run: Callable[[], Any] | None
    prepare: Callable[[], Any] | None = None
    check: Callable[[Any], None] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A function that yields competitors, with what is said about it."""

    name: str
    title: str
    rows: Mapping[str, int]
    row_nbytes: int  # that the work reads; 0 where it does not grow with the rows
    target: str
    competitors: Callable[[int, Path], Iterable[Competitor]]
    most_repeats: int = _MOST_REPEATS  # where a run takes long


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(
    title: str,
    *,
    tiny: int,
    laptop: int,
    large: int,
    row_nbytes: int,
    target: str = "",
    most_repeats: int = _MOST_REPEATS,
) -> Callable[[Callable[[int, Path], Iterable[Competitor]]], Callable[[int, Path], Iterable[Competitor]]]:
    """Enter a function in the list of benchmarks, under its name."""

    def enter(function: Callable[[int, Path], Iterable[Competitor]]) -> Any:
        name = function.__name__
        rows = {"tiny": tiny, "laptop": laptop, "large": large}
        BENCHMARKS[name] = Benchmark(name, title, rows, row_nbytes, target, function, most_repeats)
        return function

    return enter


@dataclass(frozen=True)
class Timing:
    """What one competitor took, in seconds; no times where it is missing."""

    name: str
    role: Role
    times: tuple[float, ...] = ()
    missing: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True)
class Result:
    """The timings of one benchmark."""

    benchmark: str
    title: str
    target: str
    rows: int
    row_nbytes: int
    timings: tuple[Timing, ...] = field(default=())

    def median(self, role: Role) -> float:
        """The median of ours or of the limit."""
        return next(t.median for t in self.timings if t.role == role)

    def rates(self, seconds: float) -> tuple[str, str]:
        """Rows and bytes a second; empty where the work does not grow with the rows."""
        if not self.row_nbytes:
            return "", ""
        rate = self.rows / seconds
        return f"{rate / 1e6:,.2f} M", f"{rate * self.row_nbytes / 1e9:,.2f} GB"

    def table(self) -> list[tuple[str, ...]]:
        """Rows of the printed table."""
        ours, limit = self.median("ours"), self.median("limit")
        lines: list[tuple[str, ...]] = []
        for t in self.timings:
            if t.missing:
                lines.append((f"{t.name} ({t.missing})", t.role, "missing", "", "", "", ""))
                continue
            ratios = (f"{t.median / limit:.2f}", f"{t.median / ours:.2f}")
            lines.append((t.name, t.role, _seconds(t.median), *self.rates(t.median), *ratios))
        return lines


HEADERS = ("", "role", "median", "rows/s", "bytes/s", "x limit", "x ours")
ALIGN = "llrrrrr"


def _seconds(t: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if t * factor >= 1:
            return f"{t * factor:.3g} {unit}"
    return f"{t * 1e6:.3g} us"


def run(which: Benchmark, rows: int, folder: Path, repeats: int, *, seconds_each: float | None = None) -> Result:
    """Run one benchmark: everyone once to warm up and be checked, then in turns."""
    seconds_each = _SECONDS_EACH if seconds_each is None else seconds_each
    repeats = min(repeats, which.most_repeats)
    competitors = list(which.competitors(rows, folder))
    roles = [c.role for c in competitors]
    if roles.count("ours") != 1 or roles.count("limit") != 1:
        raise ValueError(f"benchmark {which.name} needs one of ours and one limit, got {roles}")
    for c in competitors:
        if c.run is not None:
            _, result = _once(c)
            if c.check is not None:
                c.check(result)
            del result
    times: dict[str, list[float]] = {c.name: [] for c in competitors if c.run is not None}
    gc.collect()
    gc.freeze()  # what is imported by now is not looked at in each collection, which would take longer than the runs
    try:
        while not _enough(times.values(), repeats, seconds_each):
            for c in competitors:
                if c.run is not None:
                    times[c.name].append(_once(c)[0])
    finally:
        gc.unfreeze()
    timings = [Timing(c.name, c.role, tuple(times.get(c.name, ())), c.missing) for c in competitors]
    return Result(which.name, which.title, which.target, rows, which.row_nbytes, tuple(timings))


def _enough(times: Iterable[list[float]], repeats: int, seconds_each: float) -> bool:
    return all(len(t) >= repeats and (len(t) >= max(repeats, _MOST_REPEATS) or sum(t) >= seconds_each) for t in times)


def _once(c: Competitor) -> tuple[float, Any]:
    assert c.run is not None
    if c.prepare is not None:
        c.prepare()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        result = c.run()
        return time.perf_counter() - start, result
    finally:
        gc.enable()


def run_all(names: Iterable[str], size: str, repeats: int, data: Path | None) -> Iterator[Result]:
    """Run benchmarks one after the other; each has a folder of its own, removed at the end unless `data` is given."""
    for name in names:
        which = BENCHMARKS[name]
        rows = which.rows.get(size) or int(size)
        if data is not None:
            folder = data / f"{name}-{rows}"
            folder.mkdir(parents=True, exist_ok=True)
            yield run(which, rows, folder, repeats)
        else:
            with tempfile.TemporaryDirectory(prefix="mmdask-bench-") as temporary:
                yield run(which, rows, Path(temporary), repeats)


def text(result: Result) -> str:
    """One result for the terminal."""
    target = f"   target: {result.target}" if result.target else ""
    table = text_table(result.table(), HEADERS, ALIGN)
    return f"{result.benchmark}: {result.title}, {result.rows:,} rows{target}\n{table}\n"


def markdown(results: Iterable[Result]) -> str:
    """All results as one table for the docs."""
    lines = ["| work | way | time | rows/s | bytes/s | x limit | x ours |", "|---|---|--:|--:|--:|--:|--:|"]
    for r in results:
        for i, (name, _, *numbers) in enumerate(r.table()):
            title = f"{r.title}, {r.rows:,} rows" if i == 0 else ""
            cells = [c.replace("|", "\\|") for c in (title, name, *numbers)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_json(results: Iterable[Result]) -> str:
    """All results with every time in seconds, and what they were measured with."""
    return json.dumps({"machine": machine(), "results": [asdict(r) for r in results]}, indent=1) + "\n"


def machine() -> dict[str, Any]:
    """What the numbers depend on; nothing that names the machine."""
    from importlib import metadata

    packages = ("mmdask", "numpy", "dask", "awkward", "uproot", "numba")
    found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in packages}
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": dict(sorted(found.items())),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
