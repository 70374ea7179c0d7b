"""The bounded cache against its rules."""

from __future__ import annotations

import os
import signal
import threading

from hypothesis import given
from hypothesis import strategies as st

from mmdask.store.arrays.cache import Cache


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=40))
def test_the_least_used_go_first_and_the_last_one_stays(puts):
    cache = Cache(100)
    model = []  # keys and costs, the least used first
    for key, cost in puts:
        assert cache.get(key) == next((f"{k} {c}" for k, c in model if k == key), None)
        assert cache.put(key, f"{key} {cost}", cost) == f"{key} {cost}"
        model = [(k, c) for k, c in model if k != key] + [(key, cost)]
        while sum(c for _, c in model) > 100 and len(model) > 1:
            del model[0]
        if model[0][0] != key:
            assert cache.get(model[0][0]) is not None
            model.append(model.pop(0))
    cache.clear()
    assert cache.get(0) is None


def test_one_that_is_too_large_is_kept_until_the_next():
    cache = Cache(10)
    cache.put("a", "A", 1000)
    assert cache.get("a") == "A"
    cache.put("b", "B", 1)
    assert (cache.get("a"), cache.get("b")) == (None, "B")


def test_what_is_discarded_costs_nothing_any_more():
    cache = Cache(10)
    for key in "ab":
        cache.put(key, key, 5)
    cache.discard("a")
    cache.discard("nothing")
    cache.put("c", "c", 5)
    assert [cache.get(k) for k in "abc"] == [None, "b", "c"]


def test_one_thread_clears_while_another_puts():
    """What the cache believes that its values cost would else stay too much for good."""
    cache = Cache(100)
    clearing = threading.Thread(target=cache.clear)

    class Late(int):
        def __sub__(self, other):
            clearing.start()
            clearing.join(0.2)  # it waits for the lock
            return int(self) - other

    cache.put("a", "A", 90)
    cache.put("b", "B", Late(5))
    clearing.join()
    assert cache.cost == 0
    for key in range(10):
        cache.put(key, key, 10)
    assert [cache.get(key) for key in range(10)] == [*range(10)]


def test_a_child_that_is_forked_while_the_cache_is_locked_can_use_it():
    cache = Cache(10)
    cache.put("a", "A", 1)
    with cache._lock:
        pid = os.fork()
        if not pid:
            signal.alarm(300)
            os._exit(0 if cache.get("a") == "A" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
