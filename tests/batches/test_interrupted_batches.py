"""Ctrl-C at moments of an epoch of batches; ``python -m tests.faults batching`` takes every one."""

from __future__ import annotations

import pytest

from tests.faults.batching import Run, run_way, ways
from tests.faults.interrupting import count_moments
from tests.faults.reading import interrupt, make_store

#: where the loader's account is kept, and where batches are read ahead and ordered
ACCOUNT, NEXT = "/batches/epochs.py", "/batches/epochs.py:__next__:"
AHEAD, ORDER = "/batches/loading/", "/batches/ordering/sequence.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("uproot")
    return make_store(tmp_path_factory.mktemp("interrupted"))


@pytest.mark.parametrize("name", dict.fromkeys([*ways(), "torch"]))
def test_some_moments_of_each_way(store, name):
    if name == "torch":
        pytest.importorskip("torch")
    result = run_way(ways()[name], store, every=500, offset=sum(map(ord, name)) % 500)
    assert not result.failures


@pytest.mark.parametrize(
    ("name", "files", "every"),
    [
        ("windows", NEXT, 1),
        ("windows", ACCOUNT, 5),
        ("tokens", ACCOUNT, 7),
        ("windows", AHEAD, 8),
        ("windows", ORDER, 2),
    ],
)
def test_where_the_account_is_kept_and_batches_are_ordered_and_read_ahead(store, name, files, every):
    result = run_way(ways()[name], store, [files], every, each=files == NEXT)
    assert not result.failures
    assert result.counts["interrupts"] >= 5


@pytest.mark.parametrize(("name", "every"), [("windows", 7), ("tokens", 23)])
def test_a_state_is_loaded_or_not(store, name, every):
    run = Run(ways()[name], store)
    run.begin()
    next(iter(run.loader))
    state, position = run.loader.state_dict(), run.epochs[0][0][2]

    def load():
        run.loader.load_state_dict(state)

    def check():
        stands = run.loader.state_dict()
        assert (stands["epoch"], stands["position"]) in [(0, 0), (0, position)]
        assert [batch.index for batch in run.loader] == [seen[1] for seen in run.epochs[0]][stands["position"] > 0 :]

    run.begin()
    n = count_moments(load)
    assert n > every
    for at in range(0, n, every):
        run.begin()
        assert interrupt(load, at, check)
