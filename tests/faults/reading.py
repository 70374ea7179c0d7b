"""Ctrl-C at every moment of what reads: the same object gives the right rows then, and nothing wrong is kept."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import linecache
import operator
import os
import shutil
import sys
import threading
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import dask
import numpy as np

import mmdask as mm
from mmdask.kernels import jit
from mmdask.rows import lookup
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from mmdask.store.arrays import held
from mmdask.store.zarr.chunked import CHUNKS
from tests.faults.children import in_parallel
from tests.faults.content import Wrong
from tests.faults.interrupting import different_moments, run_interrupted
from tests.faults.interrupts import Descriptors
from tests.faults.keys import at_work, is_dropped
from tests.faults.report import Result
from tests.faults.tidy import memory_folder, scratch

#: seconds after which something hangs
_HANGS = 300
#: calls that give a descriptor: what comes after them may find it without a name
_OPENING = ("os.open(", "open_file(", ".create(", ".open_or_create(")
#: threads that stay: they take work of any caller
_CREWS = ("mmdask-spread", "mmdask-decode", "mmdask-compile", "mmdask-compute")
ROWS = 60
RNG = np.random.default_rng(1)
I = np.arange(ROWS)  # noqa: E741
X, Y, W = RNG.integers(0, 100, ROWS), RNG.random(ROWS), RNG.random(ROWS)
JET = [RNG.integers(0, 100, n).tolist() for n in RNG.integers(0, 5, ROWS).tolist()]
HARD = np.array([any(p > 80 for p in row) for row in JET])


@dataclass(frozen=True)
class Store:
    """The same rows in files of arrays, in three parts, as zarr arrays, and as a tree."""

    path: Path
    zarr: Path
    root: Path

    def forget(self, *, kept: bool = False) -> None:
        """Have nothing in memory, and nothing kept but if that is asked for."""
        for known in (RESOLVED, masks.LOADED, lookup.LOADED, held.SMALL, held.MAPS, held.DESCRIPTORS, CHUNKS):
            known.clear()
        for path in (self.path, self.zarr):
            if not kept:
                shutil.rmtree(path / "cache", ignore_errors=True)


def make_store(folder: Path) -> Store:
    """Write the rows."""
    store = Store(folder / "s.mm", folder / "z.zarr", folder / "t.root")
    with mm.create(store.path) as w:
        for part in np.array_split(I, 3):
            at = slice(int(part[0]), int(part[-1]) + 1)
            w.extend({"i": I[at], "x": X[at], "y": Y[at], "w": W[at], "jet": JET[at]})
            w.checkpoint()
    mm.open(store.path).save(store.zarr)
    mm.open(store.path).to_root(store.root, fields=["i", "x", "y"])
    return store


# One interrupt ------------------------------------------------------------------------------------------------------


def threads() -> list[str]:
    """Names of threads of ours that are at work on something."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith("mmdask") and not name.startswith(_CREWS)) + at_work()


def open_files() -> set[int]:
    """Descriptors of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the list is closed
            os.readlink(f"/proc/self/fd/{name}")
            found.add(int(name))
    return found


@contextlib.contextmanager
def hanging() -> Iterator[None]:
    """End the process, and say where it was, if this takes minutes."""
    faulthandler.dump_traceback_later(_HANGS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def interrupt(work: Callable[[], object], at: int, check: Callable[[], None]) -> str:
    """Interrupt a call and check what it leaves; the place of the moment, empty if it came too late.

    Raises
    ------
    Wrong
        When another error came, what `check` finds, or something was left open or running.
    """
    jit.wait()  # the thread that compiles opens files
    before, descriptors, lost, place = open_files(), Descriptors(), set[int](), ""
    ended: BaseException | bool = False
    dropped = False

    def caught() -> None:
        nonlocal ended
        try:
            work()
            ended = True
        except BaseException as error:
            ended = error
            raise

    def about_to() -> None:
        nonlocal dropped
        frame = sys._getframe(2)
        dropped = is_dropped(frame)
        if any(call in linecache.getline(frame.f_code.co_filename, frame.f_lineno) for call in _OPENING):
            lost.add(descriptors.newest)  # it has no name yet

    try:
        with hanging(), descriptors.watched(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a file that nobody holds yet closes itself
            place = run_interrupted(caught, at, about_to)
            if not place:
                return place
            unseen = [text for text in descriptors.wrong if "nobody saw KeyboardInterrupt" in text]
            if ended is True and not unseen:
                raise Wrong("the interrupt was lost")
            if ended is not True and not isinstance(ended, KeyboardInterrupt):
                raise Wrong(f"the interrupt became {ended!r}")
            if ended is True:  # Python only prints it where something is collected
                descriptors.wrong.remove(unseen[0])
            if not gc.isenabled():
                raise Wrong("no garbage is collected any more")
            ended = False
            check()
            until = time.monotonic() + _HANGS / 2
            while threads() and time.monotonic() < until:
                time.sleep(0.001)
        for known in (held.SMALL, held.MAPS, held.DESCRIPTORS, CHUNKS):
            known.clear()
        jit.wait()
        if open_files() - before - lost:
            gc.collect()  # a traceback holds what it went through
        if descriptors.wrong:
            raise Wrong("; ".join(descriptors.wrong))
        if not dropped and (left := open_files() - before - lost):
            raise Wrong(f"left open: {[os.readlink(f'/proc/self/fd/{fd}') for fd in sorted(left)]}")
        if threads():
            raise Wrong(f"threads that do not end: {threads()}")
    except Exception as error:
        raise Wrong(f"{place}: {type(error).__name__}: {error}") from error
    finally:
        gc.enable()
    return place


# What is asked ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A question: of what, how, and the right answer, None for that of a run which nobody interrupts."""

    name: str
    run: Callable[[Any], Any]
    right: Any = None
    begin: Callable[[Store], Any] = lambda store: mm.open(store.path)
    #: cuts of which masks may be kept, and what they let pass
    cuts: tuple[tuple[str, Any], ...] = ()
    scheduler: str = "sync"
    #: whether the masks are there before
    kept: bool = False
    #: from so many parts on masks stand together
    many: int = 256

    def ask(self, of: Any) -> Any:
        """The answer now."""
        with dask.config.set(scheduler=self.scheduler), unittest.mock.patch.object(masks, "_MANY", self.many):
            return self.run(of)


def _sums(ds: Any) -> list[Any]:
    hists = ds.hist({"x": (5, 0, 100), "jet": (4, 0, 100)}, weight="w")
    return [np.round(h.values(), 9).tolist() for h in hists.values()]


def _right_sums() -> list[Any]:
    counts = [len(row) for row in JET]
    jets = np.concatenate([np.array(row, np.int64) for row in JET])
    found = np.histogram(X, 5, (0, 100), weights=W)[0], np.histogram(jets, 4, (0, 100), weights=np.repeat(W, counts))[0]
    return [np.round(f, 9).tolist() for f in found]


def _rooted(path: Any) -> str:
    return repr(mm.inspect_root(path))


@cache
def looks() -> dict[str, Look]:
    """All questions by name."""
    both, some = (X > 50) & HARD, X > 30
    cuts = (("x > 50", X > 50), ("any(jet > 80)", HARD))
    cut = operator.methodcaller("cut", "x > 50 & any(jet > 80)")
    all_jets = [p for row in JET for p in row]
    found = [
        Look("open", lambda path: mm.open(path)["x"].compute().tolist(), X.tolist(), lambda store: store.path),
        Look("pread", lambda path: mm.open(path, io="pread")["jet"].compute().tolist(), JET, lambda store: store.path),
        Look("cut", lambda ds: ds[cut(ds)]["y"].compute().tolist(), Y[both].tolist(), cuts=cuts),
        Look(
            "threads", lambda ds: ds[cut(ds)]["y"].compute().tolist(), Y[both].tolist(), cuts=cuts, scheduler="threads"
        ),
        Look("kept", lambda ds: ds[cut(ds)]["x"].compute().tolist(), X[both].tolist(), cuts=cuts, kept=True),
        Look("bundled", lambda ds: cut(ds).count(), int(both.sum()), cuts=cuts, many=2),
        Look("bundles", lambda ds: cut(ds).count(), int(both.sum()), cuts=cuts, many=2, kept=True),
        Look(
            "several",
            lambda ds: [a.tolist() for a in dask.compute(ds[ds.cut("x > 30")]["x"], ds[ds.cut("y > 0.5")]["x"])],
            [X[some].tolist(), X[Y > 0.5].tolist()],
            cuts=(("x > 30", some), ("y > 0.5", Y > 0.5)),
        ),
        Look(
            "keyed",
            lambda ds: ds.cut(lambda block: block["x"] + block["y"] > 50, key="sum", fields=["x", "y"]).count(),
            int((X + Y > 50).sum()),
        ),
        Look("clear", _cleared, int((X > 50).sum()), cuts=cuts, kept=True),
        Look("ragged", lambda ds: (ds["jet"] * ds["x"] + 1).compute().tolist(), _scaled()),
        Look("items", lambda ds: ds["jet"][ds["jet"] > 50].compute().tolist(), [[p for p in r if p > 50] for r in JET]),
        Look(
            "loc",
            lambda ds: [int(ds.loc["i", 17]["x"]), ds.loc["i", [40, 3]]["y"].tolist()],
            [int(X[17]), Y[[40, 3]].tolist()],
        ),
        Look(
            "rows", lambda ds: [int(ds[5]["x"]), ds[[3, 50]]["x"].tolist(), ds["x"][9:30].compute().tolist()], _rows()
        ),
        Look("hist", _sums, _right_sums()),
        Look("describe", lambda ds: repr(ds.describe())),
        Look("cutflow", lambda ds: repr(ds.cutflow(["x > 50", "any(jet > 80)", "y > 0.1"], weight="w")), cuts=cuts),
        Look("split", lambda ds: _parts(ds.split({"a": 0.5, "b": 0.5}, by="i", seed=3).values())),
        Look("kfold", lambda ds: _parts(part for pair in ds.kfold(2, by="i", seed=3) for part in pair)),
        Look("permutation", lambda ds: _parts(ds.split({"a": 0.5, "b": 0.5}, how="permutation", seed=3).values())),
        Look("normalisation", lambda ds: np.round(ds.normalisation(["x"]).mean["x"], 9), round(float(X.mean()), 9)),
        Look("frame", lambda ds: ds.to_dataframe(["i", "x"]).to_numpy().tolist(), np.stack([I, X], 1).tolist()),
        Look("awkward", lambda ds: ds.to_awkward()["jet"].tolist(), JET),
        Look("assign", lambda ds: ds.assign(z="2 * x")["z"].compute().tolist(), (2 * X).tolist()),
        Look("concat", lambda ds: mm.concat([ds, ds])["x"].compute().tolist(), [*X.tolist(), *X.tolist()]),
        Look("explode", lambda ds: ds.explode("jet")["jet"].compute().tolist(), all_jets),
        Look("view", lambda _: mm.view({"x": X, "jet": JET})["jet"].compute().tolist(), JET),
        Look("verify", lambda path: mm.verify(path).ok, True, lambda store: store.path),
        Look(
            "zarr", lambda ds: ds[ds.cut("x > 50")]["jet"].compute().tolist(), _jets(X > 50), lambda s: mm.open(s.zarr)
        ),
        Look("root", _rooted, None, lambda store: store.root),
    ]
    return {look.name: look for look in found}


def _cleared(ds: Any) -> int:
    ds.cuts.clear()
    return int(ds.cut("x > 50").count())


def _scaled() -> list[list[int]]:
    return [[p * x + 1 for p in row] for x, row in zip(X.tolist(), JET, strict=True)]


def _jets(rows: Any) -> list[list[int]]:
    return [JET[i] for i in np.flatnonzero(rows)]


def _rows() -> list[Any]:
    return [int(X[5]), X[[3, 50]].tolist(), X[9:30].tolist()]


def _parts(parts: Any) -> list[list[int]]:
    return [part["i"].compute().tolist() for part in parts]


def _check(look: Look, store: Store, of: Any, right: Any) -> None:
    """Raise `Wrong` unless the same object, and others, give the right answer, and all that is kept is right."""
    for again in (of, look.begin(store)):
        if (got := look.ask(again)) != right:
            raise Wrong(f"gave {got!r:.300}, not {right!r:.300}")
    store.forget(kept=True)
    for text, mask in look.cuts:
        if (n := mm.open(store.path).cut(text).count()) != mask.sum():
            raise Wrong(f"{n} rows pass {text}, and {mask.sum()} should")
    for path in (store.path, store.zarr):
        if left := [file.name for file in (path / "cache").rglob("*") if ".tmp-" in file.name]:
            raise Wrong(f"half-written files: {left}")


def run_look(look: Look, store: Store, files: Sequence[str] = ("",), every: int = 1, offset: int = 0) -> Result:
    """Interrupt one question, at every so many of its moments."""
    result = Result("reading")

    def fresh() -> Any:
        store.forget()
        if look.kept:
            look.ask(look.begin(store))
            store.forget(kept=True)
        return look.begin(store)

    right = look.ask(fresh())
    if look.right is not None and right != look.right:
        raise Wrong(f"{look.name} gave {right!r:.300}, not {look.right!r:.300}")
    jit.wait()
    of = fresh()
    moments = different_moments(lambda: look.ask(of), files)[offset % every :: every]
    result.counts.update(operations=1, moments=len(moments))
    for at in moments:
        of = fresh()
        try:
            result.counts["interrupts"] += bool(
                interrupt(partial(look.ask, of), at, partial(_check, look, store, of, right))
            )
        except Wrong as error:
            result.failures.append(f"{look.name}, moment {at}, {error}")
    return result


def _run_plain(name: str, every: int, offset: int) -> dict[str, Any]:
    with scratch(memory_folder()) as folder:
        return run_look(looks()[name], make_store(Path(folder)), every=every, offset=offset).plain()


def run(every: int = 1, *, offset: int = 0, processes: int = 2, first_only: bool = False) -> Result:
    """The campaign: each question, at every so many moments from `offset` on."""
    result = Result("reading")
    for one in in_parallel([partial(_run_plain, name, every, offset) for name in looks()], processes):
        result.add(one)
        if first_only and result.failures:
            break
    return result.finish()
