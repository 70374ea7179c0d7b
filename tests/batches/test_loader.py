"""The loader: exactly once, the same for every world, resumed anywhere, and mixed as well as a true shuffle."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_rows import MemoryRows, numbered

from mmdask.batches.collate import pad
from mmdask.batches.loader import Loader
from mmdask.batches.ordering import order
from mmdask.errors import CorruptStoreError, FieldNotFoundError, OptionError, RowNotFoundError, StateError
from mmdask.kernels import jit, permute
from mmdask.schema import Schema


@pytest.fixture(scope="module", autouse=True)
def kernels_are_ready():
    for shuffle in (True, "exact"):
        list(Loader(numbered(3000), 1000, shuffle=shuffle))
    jit.wait()


def rows_of(batches):
    return np.concatenate([np.empty(0, np.int64), *(b.rows for b in batches)]).tolist()


SIZES = st.one_of(st.integers(0, 50), st.sampled_from([127, 128, 129, 499, 1009, 4095, 4096, 4097, 65537]))
SHUFFLES = st.sampled_from([True, True, "exact", False])


@st.composite
def loaders(draw, **fixed):
    """A function that makes equal loaders, given batch size, rank and so on."""
    n = draw(SIZES)
    chosen = draw(st.sampled_from(["all", "none", "one", "some", "one block"]))
    block = draw(st.sampled_from([None, 1, 2, 7, 16, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if chosen == "all" or n == 0:
        selected = None
    elif chosen == "none":
        selected = []
    elif chosen == "one":
        selected = [int(rng.integers(n))]
    elif chosen == "some":
        selected = np.flatnonzero(rng.random(n) < 0.3)
    else:
        b = block or 16
        first = int(rng.integers(n)) // b * b
        selected = np.arange(first, min(first + b, n))
    shuffle = draw(SHUFFLES)
    options = {"shuffle": shuffle, "seed": draw(st.integers(0, 3)), **fixed}
    if shuffle is True:
        options |= {"block": block, "window": draw(st.sampled_from([None, 1, "4kB"]))}
    rows = numbered(n, selected=selected, block_rows=draw(st.sampled_from([1, 4, 16])))

    def make(batch_size, **more):
        return Loader(rows, batch_size, **options, **more)

    return make, rows.selected.tolist(), shuffle


BATCH = st.sampled_from([1, 2, 3, 16, 100, 1000, 10**6])


def feasible(n, batch_size):
    """A batch size that does not make thousands of batches."""
    return max(batch_size, n // 50, 1)


@settings(max_examples=150, deadline=None)
@given(loaders(), BATCH, st.integers(0, 2))
def test_every_selected_row_comes_once_in_an_epoch(made, batch_size, epoch):
    make, selected, shuffle = made
    loader = make(feasible(len(selected), batch_size))
    loader.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert [len(b.rows) for b in batches[:-1]] == [loader.batch_size] * (len(batches) - 1)
    assert sorted(rows_of(batches)) == selected
    if shuffle is False:
        assert rows_of(batches) == selected
    assert all(b["row"].tolist() == b.rows.tolist() for b in batches)
    assert [(b.epoch, b.index) for b in batches] == [(epoch, i) for i in range(len(batches))]
    assert loader.epoch == epoch + 1


@settings(max_examples=100, deadline=None)
@given(loaders(), BATCH, st.integers(1, 7), st.sampled_from(["keep", "drop", "pad"]))
def test_ranks_together_are_the_single_process(made, batch_size, world_size, last):
    make, selected, _ = made
    batch_size = max(feasible(len(selected), batch_size), world_size)
    single = list(make(batch_size, last=last))
    ranks = [list(make(batch_size, last=last, rank=r, world_size=world_size)) for r in range(world_size)]
    for batch, parts in itertools.zip_longest(single, zip(*ranks, strict=True)):
        assert np.concatenate([p.rows for p in parts]).tolist() == batch.rows.tolist()
        assert np.concatenate([p["row"] for p in parts]).tobytes() == batch["row"].tobytes()
        if last == "pad":
            assert np.concatenate([p.valid for p in parts]).tolist() == batch.valid.tolist()
        sizes = [len(p.rows) for p in parts]
        assert max(sizes) - min(sizes) <= 1
        assert {p.position for p in parts} == {batch.position}


@settings(max_examples=100, deadline=None)
@given(loaders(), BATCH, BATCH, st.integers(0, 60), st.sampled_from(["keep", "pad"]))
def test_resumed_with_another_batch_size_nothing_is_lost(made, first_size, second_size, steps, last):
    make, selected, _ = made
    first = make(feasible(len(selected), first_size))
    first.set_epoch(1)
    done = list(itertools.islice(first, steps))
    state = json.loads(json.dumps(first.state_dict()))
    second = make(feasible(len(selected), second_size), last=last)
    second.load_state_dict(state)
    rest = list(second)
    whole = make(feasible(len(selected), 100))
    whole.set_epoch(1)
    expected = rows_of(whole)
    if len(done) == len(first) and done:  # the end of an epoch is the start of the next
        assert (state["epoch"], state["position"]) == (2, 0)
        assert sorted(rows_of(rest)[: len(selected)]) == selected
    else:
        assert (rows_of(done) + rows_of(rest))[: len(selected)] == expected
    assert rows_of(second)[: len(selected)] != [] or not selected
    assert second.epoch == rest[-1].epoch + 2 if rest else True


@settings(max_examples=60, deadline=None)
@given(loaders(), BATCH, st.sampled_from(["keep", "drop", "pad"]))
def test_any_batch_by_number_is_the_one_that_iteration_gives(made, batch_size, last):
    make, selected, _ = made
    loader = make(feasible(len(selected), batch_size), last=last)
    n = len(loader)
    expected = [b.rows.tolist() for b in make(loader.batch_size, last=last)]
    assert [loader[i].rows.tolist() for i in reversed(range(n))] == expected[::-1]
    assert [loader[i - n].rows.tolist() for i in range(n)] == expected
    assert loader.epoch == 0
    for i in (n, -n - 1):
        with pytest.raises(RowNotFoundError, match=f"no batch {i}: an epoch has {n}"):
            loader[i]


@pytest.mark.parametrize("shuffle", [True, "exact"])
@pytest.mark.parametrize("selected", [None, range(5, 3000, 3)])
def test_the_order_is_the_same_before_the_kernels_are_compiled_and_after(monkeypatch, shuffle, selected):
    options = {"block": 2, "window": 1} if shuffle is True else {}
    seen = []
    for form in ("twin", "compiled"):
        call = (lambda k, *a: k.twin(*a)) if form == "twin" else (lambda k, *a: k.compiled(*a)(*a))
        monkeypatch.setattr(jit.Kernel, "__call__", call)
        seen.append(rows_of(Loader(numbered(3000, selected=selected), 100, shuffle=shuffle, **options)))
    assert seen[0] == seen[1]


# Epochs, seeds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, "exact"])
def test_no_two_pairs_of_seed_and_epoch_give_one_order(shuffle):
    seen = set()
    for seed in range(4):
        loader = Loader(numbered(100), 100, seed=seed, shuffle=shuffle)
        for epoch in range(4):
            loader.set_epoch(epoch)
            seen.add(tuple(loader[0].rows.tolist()))
    assert len(seen) == 16


def test_epochs_are_uncorrelated():
    loader = Loader(numbered(20000), 20000, block=1, window=1)
    places = [np.argsort(batch.rows) for _ in range(3) for batch in loader]
    for a, b in itertools.combinations(places, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(20000)


def test_a_finished_for_moves_on_and_one_left_early_does_not():
    loader = Loader(numbered(10), 3)
    for batch in loader:
        if batch.index == 1:
            break
    assert (loader.epoch, loader.state_dict()["position"]) == (0, 6)
    again = [b.rows.tolist() for b in loader]
    assert again[0] == Loader(numbered(10), 3)[0].rows.tolist()
    assert loader.epoch == 1
    assert [b.epoch for b in loader] == [1] * 4
    assert loader.epoch == 2


def test_an_iteration_keeps_its_epoch_whatever_is_set_meanwhile():
    loader = Loader(numbered(10), 3)
    running = iter(loader)
    next(running)
    loader.set_epoch(5)
    assert [b.epoch for b in running] == [0, 0, 0]
    assert loader.epoch == 5
    first, second = iter(loader), iter(loader)
    assert len(list(first)) == 4
    assert loader.epoch == 5  # the later iteration is the one that counts
    list(second)
    assert loader.epoch == 6
    assert next(second, None) is None
    assert loader.epoch == 6


def test_a_loaded_state_counts_once_and_survives_setting_its_own_epoch():
    loader = Loader(numbered(10), 2)
    loader.set_epoch(3)
    list(itertools.islice(loader, 2))
    state = loader.state_dict()
    resumed = Loader(numbered(10), 2)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert [b.index for b in resumed] == [2, 3, 4]
    assert [b.index for b in resumed] == [0, 1, 2, 3, 4]
    resumed.load_state_dict(state)
    resumed.set_epoch(4)
    assert next((b.epoch, b.index) for b in resumed) == (4, 0)


def test_state_counts_what_was_handed_out():
    loader = Loader(numbered(10), 3)
    running = iter(loader)
    assert loader.state_dict()["position"] == 0
    batch = next(running)
    assert loader.state_dict()["position"] == batch.position == 3
    loader[2]
    assert loader.state_dict()["position"] == 3
    assert loader.state_dict(after=loader[2])["position"] == 9
    assert loader.state_dict(after=loader[3]) == {**loader.state_dict(), "epoch": 1, "position": 0}
    list(running)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


def test_the_rows_that_drop_leaves_over_do_not_make_an_empty_epoch():
    loader = Loader(numbered(10), 4, last="drop")
    batches = list(itertools.islice(loader, 2))
    assert len(batches) == len(loader) == 2
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    keep = Loader(numbered(10), 4)
    list(itertools.islice(keep, 2))
    loader.load_state_dict(keep.state_dict())
    assert [b.epoch for b in loader] == [1, 1]


def test_a_state_is_small_and_plain():
    loader = Loader(numbered(10), 3, seed=2**64 - 1)
    text = json.dumps(loader.state_dict())
    assert len(text) < 1000
    assert json.loads(text) == loader.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "another seed: 0 there and 1 here"),
        ({"shuffle": "exact"}, "another order of rows: shuffle True there and 'exact' here"),
        ({"block": 2}, "another order of rows: block 16 there and 2 here, window_blocks"),
        ({"window": "32MiB"}, "another order of rows: window_blocks"),
    ],
)
def test_a_state_of_another_order_is_refused(options, message):
    state = Loader(numbered(10), 3).state_dict()
    with pytest.raises(StateError, match=message):
        Loader(numbered(10), 3, **options).load_state_dict(state)


def test_a_state_of_other_data_is_refused():
    state = Loader(numbered(10), 3).state_dict()
    for other in (numbered(10, name="other"), numbered(10, selected=[1, 2])):
        with pytest.raises(StateError, match="another data or selection"):
            Loader(other, 3).load_state_dict(state)
    with pytest.raises(StateError, match="rows of the store 10 there and 12 here"):
        Loader(numbered(12), 3).load_state_dict(state)
    for broken in (None, {}, {**state, "format": 2}, {**state, "position": 11}, {**state, "position": -1},
                   {**state, "epoch": "1"}, {**state, "epoch": True}):  # fmt: skip
        with pytest.raises(StateError):
            Loader(numbered(10), 3).load_state_dict(broken)


# Last batches, arguments ---------------------------------------------------------------------------------------


def test_a_padded_last_batch_repeats_rows_and_says_so():
    loader = Loader(numbered(7), 5, last="pad", shuffle=False)
    first, last = loader
    assert (first.rows.tolist(), first.valid.tolist()) == ([0, 1, 2, 3, 4], [True] * 5)
    assert (last.rows.tolist(), last.valid.tolist()) == ([5, 6, 5, 6, 5], [True, True, False, False, False])
    assert last["row"].tolist() == [5, 6, 5, 6, 5]
    assert last.position == 7
    assert Loader(numbered(7), 5)[0].valid is None


def test_several_ranks_drop_by_default():
    assert Loader(numbered(7), 5).last == "keep"
    assert Loader(numbered(7), 5, rank=1, world_size=2).last == "drop"
    assert len(Loader(numbered(7), 5, rank=1, world_size=2)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is an integer, at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size is an integer, at least 1; got 2.5"),
        ({"batch_size": True}, "batch_size"),
        ({"shuffle": "window"}, "shuffle is True, False or 'exact', got 'window'"),
        ({"shuffle": 1}, "shuffle is True, False or 'exact', got 1"),
        ({"seed": -1}, "seed is an integer, at least 0 and below 18446744073709551616; got -1"),
        ({"seed": 2**64}, "seed"),
        ({"last": "wrap"}, "last is 'keep', 'drop' or 'pad'"),
        ({"rank": 2, "world_size": 2}, "rank is an integer, at least 0 and below world_size = 2; got 2"),
        ({"world_size": 0}, "world_size"),
        ({"rank": 0, "world_size": 5}, "batch_size is 4, and it counts the rows of all 5 ranks together"),
        ({"window": "lots"}, "'lots'"),
        ({"window": 0}, "window"),
        ({"block": 0}, "block"),
        ({"block": 16, "shuffle": False}, "block= are for shuffle=True"),
        ({"collate": {"row": 3}}, "collate\\['row'\\] is a step like"),
        ({"collate": pad(8)}, "as {'jet_pt': mm.pad"),
        ({"fields": 3}, "names or patterns"),
        ({"fields": ["row", 3]}, "names or patterns"),
        ({"collate": {"rwo": 3}}, "step for 'rwo', which is not among .* did you mean 'row'"),
    ],
)
def test_arguments_that_cannot_be_used(options, message):
    options = {"batch_size": 4, **options}
    with pytest.raises(OptionError, match=message):
        Loader(numbered(10), **options)


@pytest.mark.parametrize("index", [slice(0, 2), 1.5, "1", None])
def test_batches_are_asked_for_by_number(index):
    with pytest.raises(OptionError, match="number of a batch"):
        Loader(numbered(10), 4)[index]


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(FieldNotFoundError, match="did you mean 'row'"):
        Loader(numbered(10), 4, fields=["roww"])


def test_only_the_fields_asked_for_are_read():
    rows = MemoryRows({"a": np.arange(9), "b": np.arange(9), "b2": np.arange(9)})
    assert list(Loader(rows, 4, fields=["b"])[0]) == ["b"]
    assert {name for name, _ in rows.taken} == {"b"}
    assert list(Loader(rows, 4, fields="b*")[0]) == ["b", "b2"]
    assert Loader(rows, 4, fields=[])[0] == {}


def test_a_rank_reads_its_rows_only():
    rows = MemoryRows({"a": np.arange(100)})
    list(Loader(rows, 50, rank=1, world_size=5))
    assert rows.taken == [("a", 10), ("a", 10)]


def test_batches_may_be_kept():
    batches = list(Loader(numbered(100), 10))
    assert sorted(np.concatenate([b["row"] for b in batches]).tolist()) == list(range(100))
    arrays = [a for b in batches for a in (b.rows, b["row"])]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))
    assert all(a.flags.writeable for a in arrays)


def test_a_selection_that_changes_under_the_loader_is_noticed():
    for shuffle in (True, "exact"):
        rows = numbered(100, selected=np.arange(0, 100, 3))
        loader = Loader(rows, 10, shuffle=shuffle)
        _ = loader[0]
        loader.sequence._window = None
        rows.selected = np.arange(0, 100, 4)
        with pytest.raises(CorruptStoreError, match="a selection gave"):
            _ = loader[1]


def test_a_loader_pickles_with_its_place_and_without_what_it_computed():
    loader = Loader(numbered(1000), 100)
    for _ in itertools.islice(loader, 3):
        pass
    other = pickle.loads(pickle.dumps(loader))
    assert other.state_dict() == loader.state_dict()
    assert other[7].rows.tolist() == loader[7].rows.tolist()
    vars(loader)["rows"] = None
    assert len(pickle.dumps(loader)) < 1000


def test_the_rows_of_a_window_are_found_once_and_shuffled_as_far_as_needed(monkeypatch):
    found, steps = [], []
    blocks, shuffle = order.Windows.blocks, permute.shuffle
    monkeypatch.setattr(order.Windows, "blocks", lambda self, key, w: found.append(w) or blocks(self, key, w))
    monkeypatch.setattr(permute, "shuffle", lambda *a: steps.append(a[2:]) or shuffle(*a))
    loader = Loader(numbered(2000), 100, block=1, window=1)
    _ = loader[1]
    assert steps == [(0, 200)]
    _ = loader[0]
    assert steps == [(0, 200)]
    found.clear()
    steps.clear()
    list(loader)  # by a reader of its own
    assert set(found) == set(range(7))
    assert max(map(found.count, found)) == 2  # to be asked for, and to be read
    assert sum(b - a for a, b in steps) == 2000


def test_rows_past_the_reach_of_32_bits_are_numbered():
    class Large:
        """A store of many rows, of which nothing is read."""

        n_store = 3 * 10**9
        block_rows, row_nbytes, identity, schema = 4096, 16.0, "large", Schema()
        snapshot = MemoryRows.snapshot

        def __len__(self):
            return self.n_store

    loader = Loader(Large(), 1000)
    rows = np.concatenate([loader[i].rows for i in (0, 1000, 2_999_999)])
    assert rows.max() > 2**31
    assert rows.min() >= 0
    assert rows.max() < Large.n_store
    assert len(np.unique(rows)) == 3000
    assert abs(rows.mean() / Large.n_store - 0.5) < 5 * np.sqrt(1 / 12 / 3000)


# Mixing ---------------------------------------------------------------------------------------------------------


def variance_ratio(batches, label):
    """Variance of the number of rows of class 1 in a batch, over that of drawing without replacement."""
    counts = np.array([label[rows].sum() for rows in batches])
    n, size, p = len(label), len(batches[0]), label.mean()
    return counts.var() / (size * p * (1 - p) * (n - size) / (n - 1))


N_MIXED = 400_000


@pytest.fixture(scope="module")
def sorted_store():
    """Rows of 16 kB, of which a window is made of 256 blocks of 64 rows out of 6250."""
    return numbered(N_MIXED, block_rows=64, row_nbytes=16376.0)


@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_batches_of_sorted_data_vary_like_those_of_a_true_shuffle(sorted_store, classes, seed):
    label = np.arange(N_MIXED) * (classes + 1) // N_MIXED % 2
    loader = Loader(sorted_store, 200, seed=seed, fields=[], block=64)
    assert loader.grain == order.Grain(64, 256)
    ratio = variance_ratio([b.rows for b in loader], label)
    assert 0.9 < ratio < 1.1, ratio


def test_classes_that_change_from_block_to_block_cost_what_the_blocks_of_a_window_say(sorted_store):
    # The worst case: a window of k blocks holds a fraction of each class that varies like k draws.
    label = np.arange(N_MIXED) // 64 % 2
    loaders = [Loader(sorted_store, 200, seed=s, fields=[], block=64) for s in range(8)]
    ratio = np.mean([variance_ratio([b.rows for b in loader], label) for loader in loaders])
    assert abs(ratio - (1 + 199 / 260)) < 5 * 0.1


def test_a_shuffle_of_chunks_alone_would_be_found_out(sorted_store):
    label = np.arange(N_MIXED) >= N_MIXED // 2
    rng = np.random.default_rng(0)
    chunks = rng.permutation(N_MIXED // 64)[:, None] * 64 + rng.permuted(
        np.tile(np.arange(64), (N_MIXED // 64, 1)), axis=1
    )
    assert variance_ratio(list(chunks.reshape(-1, 200)), label) > 10
    windows = chunks.reshape(-1, 10 * 64)  # ten chunks mixed
    assert variance_ratio(list(rng.permuted(windows, axis=1).reshape(-1, 200)), label) > 5


def test_the_parity_and_a_period_of_row_numbers_are_mixed_too(sorted_store):
    loader = Loader(sorted_store, 200, fields=[])
    batches = [b.rows for b in loader]
    for label in (np.arange(N_MIXED) % 2, np.arange(N_MIXED) % 10 == 0):
        assert 0.85 < variance_ratio(batches, label) < 1.15


def test_a_sparse_selection_in_one_place_is_mixed_as_well():
    selected = np.arange(100_000, 140_000)
    rows = numbered(N_MIXED, selected=selected, block_rows=64, row_nbytes=16376.0)
    label = np.zeros(N_MIXED, bool)
    label[120_000:] = True
    batches = [b.rows for b in Loader(rows, 200, fields=[])]
    counts = np.array([label[r].sum() for r in batches])
    assert counts.var() / (200 * 0.25 * (40_000 - 200) / 39_999) < 1.3
