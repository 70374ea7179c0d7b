"""Laziness as a test: how often dask computes, and who asked for it."""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest import mock

from mmdask.errors import OptionError

__all__ = ["Computes", "max_computes"]

#: what stands between a user's line and a scheduler
_OURS = ("mmdask", "dask", "distributed", "contextlib", "concurrent", "threading", "tornado", "asyncio", "unittest")


@dataclass
class Computes:
    """The computes so far, as `max_computes` counts them.

    Attributes
    ----------
    limit : int
        The most that are allowed.
    log : list of str
        One line for each: what was computed, how many tasks it had, and the line of code that asked for it.
    """

    limit: int
    log: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.log)

    def _add(self, what: str) -> None:
        with self._lock:
            self.log.append(f"{what}, by {_caller()}")
            over = len(self.log) > self.limit
        if over:
            self._fail()

    def _fail(self) -> None:
        lines = "\n".join(f"  {i}. {line}" for i, line in enumerate(self.log, 1))
        raise AssertionError(f"compute {self.count} where at most {self.limit} were allowed:\n{lines}")


@contextmanager
def max_computes(n: int) -> Iterator[Computes]:
    """Fail on the compute number `n + 1` within the block, and say what it was and who asked for it.

    Counted is every run of a graph by a scheduler of dask, in any thread of this process: ``dask.compute``,
    ``.compute()``, ``persist``, cuts and whatever else of mmdask computes, by threads, processes, an executor, the
    synchronous scheduler or a client of distributed, also where ``scheduler=`` names it. Tasks that were given to a
    client one by one, by its ``submit`` or ``map``, are not.

    Parameters
    ----------
    n : int
        How many are allowed; 0 for none.

    Yields
    ------
    Computes
        `count` so far, and `log`.

    Raises
    ------
    AssertionError
        From within the compute that is too many, before any of its tasks runs, and again at the end of the block if
        that was caught.
    OptionError
        When `n` is not a number.

    Examples
    --------
    >>> import mmdask as mm
    >>> import mmdask.testing as mt
    >>> ds = mm.from_arrays({"x": [1.0, 2.0]}, "lazy.mm")
    >>> with mt.max_computes(1) as computes:
    ...     lazy = (ds["x"] + 1).sum()
    ...     assert computes.count == 0
    ...     lazy.compute()
    np.float64(5.0)
    """
    if type(n) is not int or n < 0:
        raise OptionError(f"how many computes are allowed is a number, 0 or more; got {n!r}")
    computes = Computes(n)
    with ExitStack() as stack:
        for owner, name, describe in _entries():
            stack.enter_context(mock.patch.object(owner, name, _watched(computes, getattr(owner, name), describe)))
        yield computes
    if computes.count > n:
        computes._fail()


def _watched(computes: Computes, original: Callable[..., Any], describe: Callable[..., str]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        computes._add(describe(*args))
        return original(*args, **kwargs)

    return call


def _entries() -> Iterator[tuple[Any, str, Callable[..., str]]]:
    """Every way into a scheduler: where it is, and how to describe a call of it.

    Not by `dask.callbacks`, which miss what is computed while another thread computes.
    """
    for name in ("dask.local", "dask.threaded", "dask.multiprocessing"):
        yield importlib.import_module(name), "get_async", lambda submit, workers, graph, *_: _describe(graph)
    from mmdask.dataset import run

    # What is ours alone runs without dask, by the scheduler that it would use.
    yield run, "run_serially", lambda tasks, *_: f"a cut ({_count(len(tasks))})"
    yield run, "_on_threads", lambda n, tasks, *_: f"a cut ({_count(len(tasks))})"
    if "distributed" not in sys.modules:
        return
    from dask.core import flatten
    from distributed import Client

    def of_collections(client: Any, collections: Any, *_: Any) -> str:
        several = collections if isinstance(collections, list | tuple | set) else [collections]
        return ", ".join(type(c).__name__ for c in several)

    yield Client, "get", lambda client, graph, keys, *_: _names(flatten([keys]))
    yield Client, "compute", of_collections
    yield Client, "persist", of_collections
    # It gives a client its tasks one by one.
    yield run, "_on_cluster", lambda client, tasks, *_: f"a cut ({_count(len(tasks))})"


def _describe(graph: Any) -> str:
    """What a graph computes, and how many tasks it has."""
    keys = list(graph if isinstance(graph, Mapping) else graph.__dask_graph__())
    return f"{_names(keys)} ({_count(len(keys))})"


def _count(n: int) -> str:
    return "1 task" if n == 1 else f"{n} tasks"


def _names(keys: Iterable[Any]) -> str:
    from dask.utils import key_split

    names = [key_split(key).removesuffix("finalize-hlgfinalizecompute").rstrip("-") for key in keys]
    different = list(dict.fromkeys(filter(None, names))) or ["a graph"]
    return ", ".join(different[:3]) + (", ..." if len(different) > 3 else "")


def _caller() -> str:
    """The line of code outside of dask and mmdask that led here; of mmdask's own tests, too."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _OURS:
            file, line = frame.f_code.co_filename, frame.f_lineno
            text = linecache.getline(file, line).strip()
            return f"{os.path.basename(file)}:{line}" + (f": {text}" if text else "")
        frame = frame.f_back
    return "a thread of its own"
