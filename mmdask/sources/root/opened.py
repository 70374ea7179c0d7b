"""Trees that stay open between their inspection and the reading of their rows, so that each is parsed once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from mmdask.sources.converting.inputs import Input
from mmdask.sources.root.column import Tree
from mmdask.sources.root.file import open_tree
from mmdask.sources.root.rntuple import TopFields
from mmdask.sources.root.ttree import Branches

__all__ = ["OpenTrees", "tree_of"]

#: bytes that trees which wait to be read may take
_KEPT_NBYTES = 32 << 20
_Key = tuple[str, str, int, int]


class OpenTrees:
    """The trees that are open; while `keeping`, some of them stay so after they were used.

    First those that are used first, as long as they take little memory, and that which was used last: a file of several
    parts is read part by part. Each is handed out to one user at a time. Where it is pickled to, nothing is open.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, _Opened] = {}
        self._last: _Key | None = None
        self._lock = threading.Lock()
        self._keeping = False

    def __reduce__(self) -> tuple[type[OpenTrees], tuple[()]]:
        return OpenTrees, ()

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep trees open, until this ends."""
        self._keeping = True
        try:
            yield
        finally:
            self._keeping, self._last = False, None
            while self._kept:
                self._kept.popitem()[1].close()

    @contextlib.contextmanager
    def inspect(self, source: Input) -> Iterator[Tree]:
        """Open a tree, of which rows may be read later."""
        opened, key = _Opened(source), _key(source)
        kept = False
        try:
            yield opened.tree
            with self._lock:
                taken = sum(o.tree.metadata_nbytes for o in self._kept.values())
                fits = not taken or taken + opened.tree.metadata_nbytes <= _KEPT_NBYTES
                if kept := self._keeping and key not in self._kept and fits:
                    self._kept[key] = opened
        finally:
            if not kept:
                opened.close()

    @contextlib.contextmanager
    def read(self, source: Input) -> Iterator[Tree]:
        """A tree that was kept, or else one that is opened now."""
        key = _key(source)
        with self._lock:
            opened = self._kept.pop(key, None)
        opened = opened or _Opened(source)
        done: _Opened | None = opened
        try:
            yield opened.tree
            with self._lock:
                if self._keeping and key not in self._kept:
                    done = None if self._last is None else self._kept.pop(self._last, None)
                    self._kept[key], self._last = opened, key
        finally:
            if done is not None:
                done.close()


class _Opened:
    """A tree, and what closes its file."""

    def __init__(self, source: Input) -> None:
        with contextlib.ExitStack() as stack:
            tree, name = stack.enter_context(open_tree(source))
            self.tree = tree_of(tree, name)
            self.close = stack.pop_all().close


def _key(source: Input) -> _Key:
    return source.location, source.tree, source.size, source.mtime_ns


def tree_of(tree: Any, name: str) -> Tree:
    """The columns of a TTree or RNTuple of uproot."""
    return TopFields(tree, name) if tree.classname == "ROOT::RNTuple" else Branches(tree, name)
