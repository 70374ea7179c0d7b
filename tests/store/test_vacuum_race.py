"""`vacuum` behind a URL beside a slow writer: between any two of its requests, and between any two of its own."""

from __future__ import annotations

import itertools

import pytest

import mmdask as mm
from mmdask.store.storage import storage_of

SMALL = mm.Zarr(chunk_rows=4)
NUMBERS = itertools.count()
CALLS = ("cat_file", "cat_ranges", "info", "ls", "find", "pipe_file", "rm", "rm_file", "created", "cat")
HOUR = 3600


def make():
    url = f"memory://vacuum-race-{next(NUMBERS)}.mm"
    mm.from_arrays({"x": [0, 1, 2]}, url, backend=SMALL)
    return url


def append(url):
    with mm.append(url, part_nbytes=16) as w:
        for i in range(2):
            w.extend({"x": [10 + i] * 4})


WRITERS = {
    "append": (append, [0, 1, 2] + [10] * 4 + [11] * 4),
    "assign": (lambda url: mm.assign(url, progress=False, y="x + 1"), [0, 1, 2]),
    "compact": (lambda url: mm.compact(url, progress=False), [0, 1, 2]),
}
#: requests from one moment to the next: a compaction has many
STEPS = {"append": 1, "assign": 1, "compact": 9}


class Between:
    """A file system before whose k-th request something else happens, once."""

    def __init__(self, fs, k, other):
        self.fs, self.k, self.other, self.numbers = fs, k, other, itertools.count(1)

    def __getattr__(self, name):
        method = getattr(self.fs, name)
        if name not in CALLS:
            return method

        def call(*args, **options):
            if next(self.numbers) == self.k:  # in one step: threads put objects
                self.k = -1
                self.other()
            return method(*args, **options)

        return call


def meet(work, k, other):
    """Do `work`, and `other` before its k-th request; returns the error of `work`, and whether it had so many."""
    url = make()
    if work is WRITERS["compact"][0] or other is WRITERS["compact"][0]:
        append(url)
    storage = storage_of(url)
    real = storage.fs
    happened = []

    def once():
        storage.fs = real
        other(url)
        happened.append(True)
        storage.fs = between

    between = Between(real, k, once)
    storage.fs = between
    error = None
    try:
        work(url)
    except (mm.MmdaskError, OSError) as found:
        error = found
    finally:
        storage.fs = real
    return url, error, bool(happened)


def broken(url):
    """Whether a commit names what is gone."""
    return not mm.verify(url).ok


@pytest.mark.parametrize("name", list(WRITERS))
def test_within_the_grace_period_nothing_of_a_writer_goes(name):
    """§10.2: whatever a vacuum meets of it."""
    write, expected = WRITERS[name]
    for k in itertools.count(1, STEPS[name]):
        url, error, happened = meet(write, k, lambda url: mm.vacuum(url, keep=1, grace=HOUR))
        assert error is None
        assert not broken(url)
        found = mm.open(url)["x"].compute().tolist()
        assert found[: len(expected)] == expected
        if not happened:
            break
    assert k > 6


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_commit_while_a_vacuum_with_a_grace_period_runs(name):
    """The other way round: all of a writer happens between two requests of the vacuum."""
    write, expected = WRITERS[name]
    for k in itertools.count(1, 2 if name == "compact" else 1):
        url, error, happened = meet(lambda url: mm.vacuum(url, keep=1, grace=HOUR), k, write)
        if not happened:
            break
        assert error is None
        assert not broken(url)
        assert mm.open(url)["x"].compute().tolist()[: len(expected)] == expected
    assert k > 3


def test_without_a_grace_period_a_writer_may_not_notice():
    """As docs/store.md says: mostly it does; not if a layer that was begun loses its arrays, nor at the very end."""
    write, _ = WRITERS["append"]
    told = untold = 0
    for k in itertools.count(1):
        url, error, happened = meet(write, k, lambda url: mm.vacuum(url, keep=1, grace=0))
        told += error is not None
        if broken(url):
            untold += 1
            assert error is None, "what is told was not committed"
        if not happened:
            break
    assert told > untold > 0
