"""Compiled loops that never make anyone wait: a numpy twin runs until its compiled form is ready.

numba takes a second to import and more to compile. A `Kernel` therefore has two forms with equal results: a twin in
numpy, and a loop that one background thread compiles (or loads from numba's cache on disk) the first time that the
kernel meets given dtypes. The loops release the interpreter lock.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  extensions of numba import it, too late where the interpreter ends
import logging  # noqa: F401  its fork hook must be registered before ours: a fork runs them in reverse
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mmdask.kernels.crew import Crew, Task

__all__ = ["Kernel", "njit", "wait"]


class _Compiler:
    """One background thread that compiles what it is asked for, in order."""

    def __init__(self) -> None:
        self._crew = Crew("mmdask-compile", 1)
        self.reset()

    def reset(self) -> None:
        self.busy = threading.Lock()  # held while numba works; a fork waits for it
        self._told: list[Task[None]] = []

    def submit(self, kernel: Kernel, key: tuple[Any, ...]) -> None:
        task = Task(lambda: self._compile(kernel, key))
        # Only what the thread was told of is waited for; an interrupt may come in between.
        if self._crew.tell([task], 1):
            self._told.append(task)

    def _compile(self, kernel: Kernel, key: tuple[Any, ...]) -> None:
        try:
            with self.busy:
                kernel._compile(key)
        except Exception as error:  # the twin goes on serving; `compiled` raises this
            kernel._failed[key] = error

    def wait(self) -> None:
        for task in list(self._told):
            task.wait()

    def after_fork_in_child(self) -> None:
        # The thread did not survive the fork; what it had still to do is asked for again when needed.
        for kernel in _KERNELS:
            kernel._requested = set(kernel._ready)
        self.reset()


_KERNELS: list[Kernel] = []
_COMPILER = _Compiler()
os.register_at_fork(
    before=lambda: _COMPILER.busy.acquire(),
    after_in_parent=lambda: _COMPILER.busy.release(),
    after_in_child=lambda: _COMPILER.after_fork_in_child(),
)
# LLVM must not be torn down under a running compilation: hold the thread between two of them.
atexit.register(lambda: _COMPILER.busy.acquire(timeout=60))


def wait() -> None:
    """Wait until every kernel that was asked for is compiled."""
    _COMPILER.wait()


class Kernel:
    """A loop over arrays in two forms with equal results.

    Parameters
    ----------
    twin : callable
        The form in numpy. Its arguments are numpy arrays and Python ints, floats and bools.
    loop : str
        ``"module.function"`` inside `mmdask.kernels`: the loop that numba compiles, with the same arguments and the
        same result.
    """

    def __init__(self, twin: Callable[..., Any], loop: str) -> None:
        self.twin = twin
        self.loop = loop
        self.__doc__ = twin.__doc__
        self._ready: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._failed: dict[tuple[Any, ...], Exception] = {}
        self._requested: set[tuple[Any, ...]] = set()
        _KERNELS.append(self)

    def __call__(self, *args: Any) -> Any:
        key = tuple([_type_key(a) for a in args])
        compiled = self._ready.get(key)
        if compiled is not None:
            return compiled(*args)
        if key not in self._requested:
            _COMPILER.submit(self, key)
            self._requested.add(key)
        return self.twin(*args)

    def compiled(self, *args: Any) -> Callable[..., Any]:
        """The compiled form for arguments like these, waiting for it."""
        key = tuple([_type_key(a) for a in args])
        if key not in self._ready:
            if key not in self._requested:
                _COMPILER.submit(self, key)
                self._requested.add(key)
            _COMPILER.wait()
        if key in self._failed:
            raise self._failed[key]
        return self._ready[key]

    def _compile(self, key: tuple[Any, ...]) -> None:
        import importlib

        import numba

        module, function = self.loop.split(".")
        dispatcher = getattr(importlib.import_module(f"mmdask.kernels.{module}"), function)
        types = tuple(_numba_type(numba, k) for k in key)
        for _ in range(2):
            dispatcher.compile(types)
            if types in dispatcher.overloads:
                self._ready[key] = dispatcher
                return
            # Where two processes compiled at one moment, numba may have kept the form of one under the name of the
            # other's: it would take arrays for what they are not.
            dispatcher._cache.flush()
        raise RuntimeError(f"numba has no form of {self.loop} for {types}")


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator of loops: that of numba, for loops that release the interpreter lock and are kept on disk.

    Where numba finds no folder to keep them in, it would compile none at all; then each process compiles its own.
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            return numba.njit(nogil=True, **options)(function)

    return decorate


def _type_key(a: Any) -> Any:
    if isinstance(a, np.ndarray):
        return (a.dtype.char, a.ndim, a.flags.c_contiguous, a.flags.writeable)
    return type(a)


def _numba_type(numba: Any, key: Any) -> Any:
    if isinstance(key, tuple):
        char, ndim, contiguous, writeable = key
        dtype = numba.from_dtype(np.dtype(char))
        return numba.types.Array(dtype, ndim, "C" if contiguous else "A", readonly=not writeable)
    return {int: numba.int64, float: numba.float64, bool: numba.boolean}[key]
