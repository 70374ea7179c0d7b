"""Drawn rows found and read together are those that are found and read one by one."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.batches.collate import Packed
from mmdask.batches.loading.releasing import Releasing
from mmdask.batches.mix import Mix
from mmdask.batches.ordering import order
from mmdask.batches.ordering.sequence import WindowSequence
from mmdask.errors import CorruptStoreError, OptionError
from mmdask.kernels.dense import Located
from mmdask.rows.draws.weighing import Drawn, weigh
from mmdask.rows.sums.counting import check_weight
from mmdask.store.arrays import paging

rng = np.random.default_rng(5)
WEIGHTS = {
    "even": np.ones(3000),
    "random": rng.exponential(size=3001),
    "few": np.where(np.arange(3000) % 700 == 3, 1.0, 0.0),
    "one has nearly all": np.append(np.full(2999, 1e-6), 100.0),
}


@pytest.mark.parametrize("what", WEIGHTS)
@pytest.mark.parametrize("cut", [None, "i % 3 != 1"])
def test_copies_in_any_order(tmp_path, what, cut):
    w = WEIGHTS[what]
    ds = mm.from_arrays({"w": w, "i": np.arange(len(w))}, tmp_path / "s.mm")
    rows = (ds if cut is None else ds[ds.cut(cut)]).batches(10, weights="w").rows
    weighed = weigh(rows, check_weight("w", rows))
    drawn = Drawn(weighed, 0.3)
    expected = weighed.copies(0.3, np.arange(weighed.n))
    for size in (1, 50, weighed.n):
        numbers = rng.permutation(weighed.n)[:size]
        np.testing.assert_array_equal(drawn.copies(numbers), expected[numbers])
    assert len(drawn.copies(np.zeros(0, np.int64))) == 0


def test_rows_of_more_copies_than_two_bytes_tell(tmp_path):
    w = np.append(np.full(70_000, 1e-12), 1.0)
    ds = mm.from_arrays({"w": w, "i": np.arange(len(w))}, tmp_path / "s.mm")
    loader = ds.batches(5000, weights="w", shuffle="exact", fields=["i"])
    counts = np.bincount(np.concatenate([b.rows for b in loader]), minlength=len(w))
    assert abs(counts[-1] - len(w)) <= 2


def test_exact_order_is_the_same_with_counts_kept_and_without(tmp_path):
    ds = mm.from_arrays({"w": WEIGHTS["random"]}, tmp_path / "s.mm")

    def two_epochs(**options):
        loader = ds.batches(100, weights="w", shuffle="exact", **options)
        assert loader.sequence._keeps == (not options)
        return [[b.rows.tolist() for b in loader] for _ in range(2)]

    kept = two_epochs()
    assert two_epochs(memory="16KiB") == kept
    assert kept[0] != kept[1]


# Mixtures -------------------------------------------------------------------------------------------------------------


def fields(n, seed=0, longest=9):
    g = np.random.default_rng(seed)
    lists = [g.random(k).astype("f4").tolist() for k in g.integers(0, longest, n)]
    return {
        "x": g.random((n, 3)).astype("f4"),
        "i": np.arange(n),
        "jets": lists,
        "eta": lists,
        "name": [f"r{k}" for k in range(n)],
        "odd": np.arange(n) % 5 == 0,
    }


def same(a, b):
    if isinstance(a, Packed):
        assert (a.valid is None) == (b.valid is None)
        return np.array_equal(a.offsets, b.offsets) and same(a.values, b.values)
    if isinstance(a, list):
        return a == b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_alike(a, b):
    assert list(a) == list(b)
    assert all(same(a[name], b[name]) for name in a)
    for name in ("rows", "source", "streams"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    about = ("epoch", "index", "position", "seed", "valid")
    assert [getattr(a, k) for k in about] == [getattr(b, k) for k in about]


COLLATES = {
    "packed": None,
    "max": {"jets": mm.pad("max", multiple=2)},
    "number": {"jets": mm.pad(4, side="left"), "eta": [mm.crop(2), mm.pad(2)]},
    "window": {"jets": [mm.window(3), mm.pad(3)]},
    "stack": {"both": mm.stack("jets", "eta", step=mm.pad("max"))},
}


@pytest.mark.parametrize("collate", COLLATES)
@pytest.mark.parametrize("world", [1, 3])
def test_loaders_of_one_store_are_read_as_one(tmp_path, collate, world, monkeypatch):
    ds = mm.from_arrays(fields(500), tmp_path / "s.mm")

    def mixed(rank):
        options = {"collate": COLLATES[collate], "rank": rank, "world_size": world, "last": "keep"}
        cuts = {"odd": "odd", "even": "not odd"}
        loaders = {k: ds[ds.cut(cut)].batches(20, seed=3, **options) for k, cut in cuts.items()}
        return mm.mix(loaders, {"odd": 1, "even": 2}, stop="all")

    for rank in range(world):
        together = list(mixed(rank))
        assert mixed(rank)._as_one is not None
        with monkeypatch.context() as patch:
            patch.setattr(Mix, "_as_one", None)
            apart = list(mixed(rank))
        assert len(together) == len(apart) > 20
        for a, b in zip(together, apart, strict=True):
            assert_alike(a, b)


@pytest.mark.parametrize("collate", COLLATES)
@pytest.mark.parametrize("world", [1, 3])
def test_loaders_of_several_stores_are_read_as_one(tmp_path, collate, world, monkeypatch):
    stores = [mm.from_arrays(fields(n, seed), tmp_path / f"{n}.mm") for n, seed in ((500, 1), (130, 2))]
    stores = [ds.assign(twice="2 * i", longest="max(jets)") for ds in stores]

    def mixed(rank):
        options = {"collate": COLLATES[collate], "rank": rank, "world_size": world, "last": "keep", "seed": 3}
        first, second = stores
        # One of the stores comes twice.
        some = {"a": first[first.cut("odd")], "b": second, "c": first[first.cut("not odd")]}
        return mm.mix({k: ds.batches(20, **options) for k, ds in some.items()}, {"a": 1, "b": 2, "c": 1}, stop="all")

    for rank in range(world):
        together = list(mixed(rank))
        assert mixed(rank)._as_one.renumbered
        assert mixed(rank)._as_one.firsts.tolist() == [0, 500, 0]
        with monkeypatch.context() as patch:
            patch.setattr(Mix, "_as_one", None)
            apart = list(mixed(rank))
        assert len(together) == len(apart) > 20
        for a, b in zip(together, apart, strict=True):
            assert_alike(a, b)


def test_stores_that_are_mixed_are_asked_once_for_all_rows_of_a_run(tmp_path, monkeypatch):
    stores = [mm.from_arrays({"x": np.arange(n)}, tmp_path / f"{n}.mm") for n in (60, 40)]
    mixed = mm.mix({str(len(ds)): ds.batches(10, seed=1) for ds in stores}, {"60": 1, "40": 1}, stop="first")
    taken = []
    take = Located.take
    monkeypatch.setattr(Located, "take", lambda self, *args: taken.append(len(self.rows)) or take(self, *args))
    batch = mixed[0]
    assert taken == [10]
    assert (batch["x"] == batch.rows).all()


@pytest.mark.parametrize("step", [mm.pad(4, strict=True), [mm.crop(3)]], ids=str)
def test_an_error_names_the_row_as_its_store_does(tmp_path, step):
    first = mm.from_arrays({"x": [[1.0, 2.0, 3.0]] * 10}, tmp_path / "first.mm")
    lengths = np.full(10, 3)
    lengths[7] = 9 if "pad" in str(step) else 1
    second = mm.from_arrays({"x": [[0.5] * n for n in lengths]}, tmp_path / "second.mm")
    loaders = {k: ds.batches(4, collate={"x": step}, shuffle=False) for k, ds in (("a", first), ("b", second))}
    with pytest.raises(OptionError, match="row 7 "):
        list(mm.mix(loaders, {"a": 1, "b": 1}, stop="all"))


def test_damage_is_of_the_row_of_its_store(tmp_path):
    first, second = (mm.from_arrays({"x": [[1.0, 2.0]] * 10}, tmp_path / f"{k}.mm") for k in "ab")
    loaders = {"a": first.batches(4, shuffle=False), "b": second.batches(4, shuffle=False)}
    (file,) = [p for p in (tmp_path / "b.mm").rglob("*.npy") if "offsets" in p.name]
    data = bytearray(file.read_bytes())
    data[-8 * 6 : -8 * 5] = np.int64(-5).tobytes()  # the end of row 4
    file.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="row 4:"):
        list(mm.mix(loaders, {"a": 1, "b": 1}, stop="all"))


def test_loaders_that_differ_are_not_read_as_one(tmp_path):
    ds = mm.from_arrays(fields(100), tmp_path / "s.mm")
    other = mm.from_arrays({**fields(100), "i": np.arange(100, dtype="f4")}, tmp_path / "o.mm")
    one = ds.batches(10, seed=3)
    unlike = {
        "a field of another type": other.batches(10, seed=3),
        "a function": ds.batches(10, seed=3, transform=lambda b: b),
        "other steps": ds.batches(10, seed=3, collate={"jets": mm.pad(3)}, fields=["jets"]),
        "plain reads": mm.open(tmp_path / "s.mm", io="pread").batches(10, seed=3),
    }
    for what, loader in unlike.items():
        assert Mix({"a": one, "b": loader}, {"a": 1, "b": 1}, 10, "all")._as_one is None, what
    a, b = (ds.assign(y=text).batches(10, fields=["y"]) for text in ("i + 1", "i + 2"))
    assert Mix({"a": a, "b": b}, {"a": 1, "b": 1}, 10, "all")._as_one is None
    same = mm.from_arrays(fields(100), tmp_path / "p.mm")
    a, b = (ds.assign(y=text).batches(10, fields=["y"]) for ds, text in ((ds, "i + 1"), (same, "i + 2")))
    assert Mix({"a": a, "b": b}, {"a": 1, "b": 1}, 10, "all")._as_one is None
    window = {"jets": [mm.window(3), mm.pad(3)]}
    a, b = (ds.batches(10, seed=s, collate=window) for s in (1, 2))
    assert mm.mix({"a": a, "b": b}, {"a": 1, "b": 1})._as_one is None


@pytest.mark.parametrize("steps", [mm.pad("max", multiple=2), [mm.crop(5), mm.pad("max")]], ids=str)
@pytest.mark.parametrize("world", [1, 4])
def test_the_longest_of_all_loaders_on_all_ranks(tmp_path, steps, world):
    short = mm.from_arrays(fields(60, 1, 3), tmp_path / "short.mm")
    long = mm.from_arrays(fields(60, 2, 12), tmp_path / "long.mm")

    def mixed(rank, size):
        options = {
            "fields": ["jets", "i"],
            "collate": {"jets": steps},
            "rank": rank,
            "world_size": size,
            "last": "keep",
        }
        loaders = {"s": short.batches(9, seed=1, **options), "l": long.batches(9, seed=2, **options)}
        return list(mm.mix(loaders, {"s": 5, "l": 1}, stop="all"))

    stores = [fields(60, 1, 3)["jets"], fields(60, 2, 12)["jets"]]
    whole = mixed(0, 1)
    for batch in whole:
        rows = [stores[s][r] for s, r in zip(batch.source.tolist(), batch.rows.tolist(), strict=True)]
        longest = max(map(len, rows))
        longest = min(longest, 5) if isinstance(steps, list) else -(-longest // 2) * 2
        assert batch["jets"].shape == (len(rows), longest)
        for row, values, mask in zip(rows, batch["jets"], batch["jets_mask"], strict=True):
            np.testing.assert_array_equal(values[mask], np.array(row[:longest], "f4"))
    each = [mixed(rank, world) for rank in range(world)]
    for k, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([e[k]["jets"] for e in each]), batch["jets"])


def test_the_longest_of_lists_of_lists(tmp_path):
    a = mm.from_arrays({"l": [[[1.0], [2.0, 3.0]], [[4.0]]]}, tmp_path / "a.mm")
    b = mm.from_arrays({"l": [[[1.0, 2.0, 3.0]], []]}, tmp_path / "b.mm")
    loaders = {k: s.batches(4, collate={"l": mm.pad("max")}) for k, s in {"a": a, "b": b}.items()}
    assert mm.mix(loaders, {"a": 1, "b": 1})[0]["l"].shape == (4, 2, 3)


def test_the_longest_of_one_and_a_number_of_another_do_not_fit(tmp_path):
    ds = mm.from_arrays(fields(40), tmp_path / "s.mm")
    a, b = (ds.batches(8, fields=["jets"], collate={"jets": mm.pad(n)}) for n in ("max", 4))
    with pytest.raises(OptionError, match="or all of them"):
        mm.mix({"a": a, "b": b}, {"a": 1, "b": 1})


# Pages ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_gaps_are_all_but_what_is_kept(seed):
    g, page = np.random.default_rng(seed), paging._PAGE
    begin, pages = 7 * page, 400
    end = begin + pages * page - 100
    starts = begin + g.integers(0, pages * page - 200, 5)
    kept = np.stack([starts, np.minimum(starts + g.integers(1, 30 * page, 5), end)], axis=1)
    given = np.zeros(pages, bool)
    for a, b in paging.gaps(kept, begin, end):
        assert a % page == 0
        given[(a - begin) // page : -(-(b - begin) // page)] = True
    needed = np.zeros(pages, bool)
    for a, b in kept - begin:
        needed[a // page : -(-b // page)] = True
    assert not (given & needed).any()
    runs = np.flatnonzero(np.diff(np.concatenate([[0], ~(given | needed), [0]]).astype(int))).reshape(-1, 2)
    assert all(b - a < 16 for a, b in runs)


def test_everything_is_given_back_where_nothing_is_kept():
    nothing = np.empty((0, 2), np.int64)
    assert paging.gaps(nothing, 4096, 4096 + 10) == [(4096, 4106)]


class Noting:
    """Rows that note what is given back."""

    n_store, row_nbytes = 30_000, 92.0

    def __init__(self):
        self.log = []

    def __len__(self):
        return self.n_store

    def release(self, names, but=None):
        self.log.append(but)


def test_pages_are_given_back_between_windows_but_for_those_of_the_next():
    rows = Noting()
    sequence = WindowSequence(rows, 1, order.Grain(10, 300))
    releasing = Releasing(rows, ["x"], sequence, 3000 * 100)
    starts = sequence.starts(0)[1].tolist()
    assert len(starts) == 11
    released = []
    for start in range(0, 30_000, 700):
        before = len(rows.log)
        releasing.before(0, start, min(start + 700, 30_000))
        released += [start] * (len(rows.log) - before)
    expected = [-(-edge // 700) * 700 for edge in starts[1:-1]]
    assert released == expected
    for start, but in zip(released, rows.log, strict=True):
        window = int(np.searchsorted(starts, start, side="right")) - 1
        needed = np.sort(sequence.rows_at(0, starts[window], starts[window + 1]))
        if start == starts[window]:
            assert but is None
        else:
            kept = np.concatenate([np.arange(a, b) for a, b in zip(*but, strict=True)])
            np.testing.assert_array_equal(np.sort(kept), needed)


def test_small_windows_are_given_back_together():
    rows = Noting()
    releasing = Releasing(rows, ["x"], WindowSequence(rows, 1, order.Grain(10, 300)), 9000 * 100)
    for start in range(0, 30_000, 100):
        releasing.before(0, start, start + 100)
    assert len(rows.log) == 3


def test_bounded_batches_are_the_same(tmp_path):
    x = np.arange(200_000 * 8, dtype="f4").reshape(-1, 8)
    ds = mm.from_arrays({"x": x}, tmp_path / "s.mm")
    loader = ds.batches(3000, memory="8MiB", window="1MiB", seed=4)
    for _ in range(2):
        for batch in loader:
            np.testing.assert_array_equal(batch["x"], x[batch.rows])


def test_a_mixture_gives_pages_back_as_its_loaders_do(tmp_path, monkeypatch):
    ds = mm.from_arrays({"x": np.zeros((100_000, 8), "f4"), "a": np.arange(100_000) % 2 == 0}, tmp_path / "s.mm")
    options = {"memory": "8MiB", "window": "256KiB", "fields": ["x"]}
    released = []
    monkeypatch.setattr(Releasing, "before", lambda self, epoch, start, stop: released.append((epoch, start, stop)))
    loaders = {k: ds[ds.cut(c)].batches(1000, **options) for k, c in {"a": "a", "b": "not a"}.items()}
    list(mm.mix(loaders, {"a": 1, "b": 1}))
    assert sum(stop - start for _, start, stop in released) == 100_000
