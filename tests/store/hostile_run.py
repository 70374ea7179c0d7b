"""Everything one does with a store, tried with those of strangers, within limits.

``python -m tests.store.hostile_run FOLDER [CASE ...]`` prints one JSON line per case. Only errors of mmdask are
expected; it notes every other one, the seconds of processor time, and every file opened that is not of the store.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mmdask as mm
from mmdask import cli
from mmdask.kernels.jit import wait
from tests.store.hostile_cases import CASES, ROWS, Case, write_store

#: address space beyond what is in use when the cases begin
ROOM = 1 << 30
#: against what never ends: a busy machine may take long for what takes little of its processor
SECONDS = 300
#: what dask pickles to name its graphs, and numba to keep what it compiled
PICKLED = ("builtins", "copyreg", "dask", "mmdask", "numba", "numpy")
STARTED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def _looks(path: Path) -> None:
    ds = mm.open(path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        cli.main(["info", str(path)])
    texts = {"repr": repr(ds), "info": out.getvalue(), "field": repr(ds[ds.fields[0]]), "aux": repr(ds.aux)}
    for what, text in texts.items():
        assert len(text) < 1 << 20, f"{what} has {len(text)} characters"
        assert all(c.isprintable() or c == "\n" for c in text), f"{what} has control characters"
    page = ds._repr_html_()
    assert len(page) < 1 << 17, f"HTML of {len(page)} characters"
    assert "<script" not in page, "HTML with markup of the store"
    assert "\x1b" not in page


def _fields(path: Path) -> None:
    ds = mm.open(path)
    failed = None
    ds[ds.fields[0]].compute()
    for name in ds.fields:
        try:
            ds._rows.read(name, 0, len(ds))
        except mm.MmdaskError as error:
            failed = failed or error
    if failed:
        raise failed


def _rows(path: Path) -> None:
    ds = mm.open(path)
    failed = None
    for read in (
        lambda: ds[0],
        lambda: ds[len(ds) - 1],
        lambda: ds[[3, 0, 5]],
        lambda: ds[1:4].to_awkward(),
        lambda: list(ds["s"]),
    ):
        try:
            read()
        except mm.MmdaskError as error:
            failed = failed or error
    if failed:
        raise failed


def _cut(path: Path) -> None:
    ds = mm.open(path)
    if "x" in ds.fields:
        assert ds.cut("x > 0").count() == 4
        ds.cut("any(r > 1) & c == 'u'").count()


def _verify(path: Path) -> None:
    for options in ({}, {"quick": True}, {"sample": 0.5}, {"generation": 1}):
        report = mm.verify(path, **options)
        text = str(report)
        assert all(c.isprintable() or c == "\n" for c in text), "a report with control characters"
        if not report.ok:
            raise mm.CorruptStoreError(text)


def _append(path: Path) -> None:
    rows = {f.name: values for f, values in ROWS}
    rows["when"] = np.array([0, 1, 2], "M8[s]")
    if mm.open(path).schema["x"].expression:
        del rows["x"]
    with mm.append(path, labels={"process": "ttbb", "year": 1}) as w:
        w.extend(rows)


def _one_batch(path: Path) -> None:
    loader = mm.open(path).batches(2, seed=1)
    len(loader)
    next(iter(loader))


OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "open": mm.open,
    "looks": _looks,
    "chunks": lambda path: mm.open(path).chunks,
    "fields": _fields,
    "rows": _rows,
    "cut": _cut,
    "constant": lambda path: mm.open(path).cut("year == 2016 & process == 'ttbb'").count(),
    "batches": _one_batch,
    "split": lambda path: [len(d) for d in mm.open(path).split({"a": 0.5, "b": 0.5}).values()],
    "aux": lambda path: {name: mm.open(path).aux[name] for name in mm.open(path).aux},
    "sources": lambda path: mm.open(path).sources,
    "history": lambda path: mm.open(path).history(),
    "generation": lambda path: mm.open(path, generation=1)["year"].compute(),
    "verify": _verify,
    "append": _append,
}


# Trying ---------------------------------------------------------------------------------------------------------------


def _leads_to(path: str, flags: Any) -> str:
    """What would be opened."""
    if isinstance(flags, int) and flags & os.O_NOFOLLOW:
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path), "")
    return os.path.join(os.path.realpath(path), "")


class Watch:
    """What is opened, started or unpickled while a case is tried."""

    def __init__(self) -> None:
        self.root = ""
        self.found: list[str] = []
        self._allowed: tuple[str, ...] = ()

    def allow(self, *folders: str) -> None:
        self._allowed = tuple(os.path.realpath(f) + os.sep for f in folders)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.root:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.fsdecode(args[0])
            if os.sep in path and not _leads_to(path, args[2]).startswith((self.root, *self._allowed)):
                self.found.append(f"opened {path}")
        elif event in STARTED or (event == "pickle.find_class" and args[0].split(".")[0] not in PICKLED):
            self.found.append(f"{event} {args!r:.100}")


def limited(seconds: int, action: Callable[[], Any]) -> Any:
    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return action()
    finally:
        signal.alarm(0)


def attempt(case: Case, good: Path, folder: Path, watch: Watch) -> dict[str, Any]:
    """Everything that is done with one store, and what came of it."""
    (folder / "outside").mkdir(parents=True)
    path = folder / "s.mm"
    shutil.copytree(good, path)
    case.damage(path)
    (folder / "outside" / "seen").touch()
    before = sorted(p.relative_to(folder) for p in (folder / "outside").rglob("*"))
    result: dict[str, Any] = {"case": case.name, "errors": {}, "wrong": [], "seconds": {}}
    watch.root = str(path) + os.sep
    watch.found = []
    for name, operation in OPERATIONS.items():
        if case.only and name not in case.only:
            continue
        began = time.process_time()
        try:
            limited(SECONDS, lambda operation=operation: operation(path))
        except mm.MmdaskError as error:
            result["errors"][name] = f"{type(error).__name__}: {error}"[:2000]
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            result["wrong"].append(f"{name}: {type(error).__name__}: {error!s:.300} ({last.filename}:{last.lineno})")
        result["seconds"][name] = time.process_time() - began
    watch.root = ""
    result["wrong"] += watch.found
    after = sorted(p.relative_to(folder) for p in (folder / "outside").rglob("*"))
    if after != before:
        result["wrong"].append(f"wrote outside: {sorted(set(after) ^ set(before))}")
    return result


def results(folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    import dask
    import tqdm

    dask.config.set(scheduler="synchronous")
    os.environ["XDG_CACHE_HOME"] = str(folder / "home")
    good = folder / "good.mm"
    write_store(good)
    watch = Watch()
    python = {*filter(None, sys.path), sys.prefix, sys.base_prefix, os.path.dirname(mm.__file__)}
    compiled = filter(None, [os.environ.get("NUMBA_CACHE_DIR")])
    watch.allow(*python, *compiled, os.path.dirname(tqdm.__file__), "/proc", "/sys", str(folder / "home"))
    sys.addaudithook(watch)
    attempt(CASES[0], good, folder / "first", watch)  # imports and compiles what there is
    wait()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    for case in CASES:
        if not names or case.name in names:
            # Each in a folder of its own: what is read of one path is kept, for files of a store never change.
            yield attempt(case, good, folder / case.name, watch)
            shutil.rmtree(folder / case.name)


if __name__ == "__main__":
    for result in results(Path(sys.argv[1]), sys.argv[2:]):
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
