"""A bounded cache, for what is found again from immutable files: arrays, bits, tables."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by key; the least used are given up while all together cost more than `limit`, but never the last one.

    For threads, of which two that miss at once both make the value, and for forks.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._renew_lock()
        self._cost = 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Give up everything."""
        with self._lock:
            self._cost = 0
            self._values = OrderedDict()

    @property
    def cost(self) -> int:
        """What all values cost together."""
        return self._cost

    def get(self, key: Hashable) -> V | None:
        """The value of a key; None where there is none."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def discard(self, key: Hashable) -> None:
        """Give up the value of a key, if there is one."""
        with self._lock:
            self._cost -= self._values.pop(key, (None, 0))[1]

    def put(self, key: Hashable, value: V, cost: int) -> V:
        """Keep a value, and return it."""
        with self._lock:
            self._cost += cost - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, cost
            while self._cost > self.limit and len(self._values) > 1:
                self._cost -= self._values.popitem(last=False)[1][1]
        return value
