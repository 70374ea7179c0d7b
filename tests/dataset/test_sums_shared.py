"""Sums over a store by many small tasks and by one, here and where results travel: the same to the last bit."""

from __future__ import annotations

import pickle
import shutil

import awkward as ak
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from mmdask.rows.sums import counting, describing, filling, reducing
from mmdask.rows.sums.adding import FAN, Later
from mmdask.rows.sums.binning import Listed, Regular

LENGTHS = (700, 3, 1, 64, 2000, 8, 500)
CUTS = ("x > 0.2", "sum(pt) > 0.4", "k != 1 | x < 0")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "s.mm"
    rng = np.random.default_rng(8)
    with mm.create(path, fields=[mm.Field.category("process", ["a", "b"])]) as w:
        for n in LENGTHS:
            counts = rng.integers(0, 4, n)
            pt = ak.unflatten(rng.random(counts.sum()).astype("f4"), counts)
            x, weight = rng.normal(size=(2, n)) * 1e3 ** rng.normal(size=n)
            more = {"process": ["ab"[i % 2] for i in range(n)], "k": rng.integers(0, 5, n)}
            w.extend({"x": x, "w": weight, "pt": pt, **more})
            w.checkpoint()
    return path


@pytest.fixture
def path(stored, tmp_path):
    masks.LOADED.clear()
    RESOLVED.clear()
    return shutil.copytree(stored, tmp_path / "s.mm", ignore=shutil.ignore_patterns("cache"))


class Cluster:
    """Runs tasks in another order than they are given, and pickles what would travel."""

    def __init__(self, *, travels=False):
        self.travels = travels
        self.n_tasks = self.received = self.sent = 0
        self.functions = set()

    def __call__(self, tasks, done):
        assert not self.travels or len(tasks) <= FAN or not any(isinstance(a, Later) for t in tasks for a in t[1])
        for i, task in reversed(list(enumerate(tasks))):
            data = pickle.dumps(self.one(task))
            self.received += len(data)
            done(i, pickle.loads(data))

    def one(self, task):
        function, args = task
        self.n_tasks += 1
        self.functions.add(getattr(function, "__name__", "add"))
        below = [self.one(arg.task) if isinstance(arg, Later) else arg for arg in args]
        data = pickle.dumps((function, below))
        self.sent += len(data)
        function, below = pickle.loads(data)
        return function(*below)


def flow(ds, run, cuts=CUTS, **options):
    rows = ds._rows
    cuts = [rows.check(cut) for cut in cuts]
    return counting.count_passing(rows, cuts, weight=rows.check("w * 1.1"), by="process", run=run)


def hist(ds, run):
    rows = ds._rows
    x, pt, w = (rows.check(text) for text in ("x", "pt", "w * 0.7"))
    fine = filling.Histogram((pt,), (Regular(1 << 15, 0, 1),), w)
    each = [filling.Histogram((x, "process"), (Regular(9, -3, 3), Listed((0, 1))), w), fine]
    return filling.fill(rows, each, run), filling.ends(rows, [x, rows.check("k")], run)


def describe(ds, run):
    return describing.describe(ds._rows, ["x", "pt", "k"], run), describing.weighted(
        ds._rows, ["x"], ds._rows.check("abs(w)"), run
    )


def bits_of(found):
    """Every bit of what was found."""
    if hasattr(found, "__dataclass_fields__"):
        found = {name: getattr(found, name) for name in found.__dataclass_fields__}
    if isinstance(found, dict):
        return {name: bits_of(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [bits_of(value) for value in found]
    if isinstance(found, np.ndarray):
        return found.dtype.str, found.shape, found.tobytes()
    return pickle.dumps(found)


@pytest.mark.parametrize("work", [flow, hist, describe])
@pytest.mark.parametrize("select", [None, "k != 3"])
def test_tasks_and_where_sums_are_added_change_no_bit(path, monkeypatch, work, select):
    monkeypatch.setattr(reducing, "_TASK_ROWS", 16)  # the leaves
    monkeypatch.setattr(reducing, "_PART_ROWS", 1)
    found, n_tasks = [], []
    for least in (1 << 40, 800, 64, 16):
        monkeypatch.setattr(reducing, "_MOST_TASKS", max(16, 16 * sum(LENGTHS) // least))
        for travels in (False, True):
            shutil.rmtree(path / "cache", ignore_errors=True)
            masks.LOADED.clear()
            RESOLVED.clear()
            ds = mm.open(path)
            run = Cluster(travels=travels)
            found.append(bits_of(work(ds if select is None else ds[ds.cut(select)], run)))
            n_tasks.append(run.n_tasks)
    assert all(each == found[0] for each in found)
    assert n_tasks[-1] > 2 * n_tasks[0]


def test_a_part_has_the_same_sum_in_another_store(path, monkeypatch):
    """What is kept of a part does not depend on what else there is, or is known."""
    monkeypatch.setattr(reducing, "_TASK_ROWS", 16)
    monkeypatch.setattr(reducing, "_MOST_TASKS", 32)
    ds = mm.open(path)
    describe(ds, Cluster())
    kept = {p.name: p.read_bytes() for p in (path / "cache" / "summaries").rglob("*.summary")}
    shutil.rmtree(path / "cache")
    monkeypatch.setattr(reducing, "_MOST_TASKS", 1 << 14)
    for i in (4, 0, 6, 1, 3, 5, 2):
        ends = np.cumsum([0, *LENGTHS])
        describe(ds[int(ends[i]) : int(ends[i + 1])], Cluster(travels=True))
    assert {p.name: p.read_bytes() for p in (path / "cache" / "summaries").rglob("*.summary")} == kept


@pytest.mark.parametrize("at_once", [1, 4])
def test_sums_of_parts_are_held_some_at_a_time(path, monkeypatch, at_once):
    expected = bits_of(describe(mm.open(path), Cluster()))
    shutil.rmtree(path / "cache")
    monkeypatch.setattr(describing, "_HELD", 3 * at_once)
    most = []
    original = describing._sums_of_parts

    def watched(snapshot, selected, numbers, *args):
        most.append(len(numbers))
        return original(snapshot, selected, numbers, *args)

    monkeypatch.setattr(describing, "_sums_of_parts", watched)
    assert bits_of(describe(mm.open(path), Cluster())) == expected
    assert most[0] == at_once
    assert sum(most) == 2 * len(LENGTHS)


@pytest.mark.parametrize("nbytes", [1 << 28, 1000, 100])
def test_of_very_many_rows_only_sums_travel_and_bits_are_kept(path, monkeypatch, nbytes):
    expected = bits_of(flow(mm.open(path), Cluster()))
    names = sorted(p.name for p in (path / "cache").rglob("*.mask"))
    usual = Cluster()
    shutil.rmtree(path / "cache")
    masks.LOADED.clear()
    assert bits_of(flow(mm.open(path), usual)) == expected
    assert "evaluate_rows" in usual.functions
    shutil.rmtree(path / "cache")
    masks.LOADED.clear()
    monkeypatch.setattr(counting, "_MANY_ROWS", 0)
    monkeypatch.setattr(counting, "_BITS_NBYTES", nbytes)
    monkeypatch.setattr(reducing, "_MOST_TASKS", 64)
    monkeypatch.setattr(reducing, "_TASK_ROWS", 512)
    run = Cluster(travels=True)
    found = flow(mm.open(path), run)
    if nbytes == 100:  # a part has more bits than fit
        assert "evaluate_rows" in run.functions
        return
    assert run.functions == {"_find_and_count"}
    assert run.received < 1_500 * run.n_tasks
    assert run.n_tasks <= 2 * len(LENGTHS)
    np.testing.assert_array_equal(found.tally.together.n, flow(mm.open(path), Cluster()).tally.together.n)
    assert sorted(p.name for p in (path / "cache").rglob("*.mask")) == names
    again = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_MANY_ROWS", 1 << 34)
        assert bits_of(flow(mm.open(path), again)) == bits_of(found), "kept bits give the same sums"
    assert again.functions == {"_count"}, "nothing is evaluated again"


def test_a_cut_from_python_is_no_task_that_finds_bits(path, monkeypatch):
    monkeypatch.setattr(counting, "_MANY_ROWS", 0)
    ds = mm.open(path)
    cut = ds.cut(lambda block: block["x"] > 0.2, key="python", fields="x")
    expected = [len(ds), int((ds["x"].compute() > 0.2).sum())]
    assert ds.cutflow([cut]).cumulative.rows.tolist() == expected


def test_a_missing_weight_is_the_first_one_wherever_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(reducing, "_TASK_ROWS", 8)
    w = [1.0] * 400
    w[77] = w[300] = None
    ds = mm.from_arrays({"x": np.arange(400.0), "w": w}, tmp_path / "w.mm")
    for travels in (False, True):
        run = Cluster(travels=travels)
        rows = ds._rows
        for most in (counting._MANY_ROWS, 0):
            monkeypatch.setattr(counting, "_MANY_ROWS", most)
            with pytest.raises(mm.OptionError, match="missing in row 77 "):
                counting.count_passing(rows, [rows.check("x > 1")], weight=rows.check("w"), run=run)
        monkeypatch.undo()
        monkeypatch.setattr(reducing, "_TASK_ROWS", 8)
        histogram = filling.Histogram((rows.check("x"),), (Regular(5, 0, 400),), rows.check("w"))
        with pytest.raises(mm.OptionError, match="missing in row 77 "):
            filling.fill(rows, [histogram], run)


sums = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1.0, -1.0, 0.1, np.inf, np.nan])), max_size=8)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(sums, sums, st.booleans(), st.booleans(), st.booleans())
def test_histograms_of_few_bins_are_added_as_those_of_all(a, b, few_a, few_b, weighted):
    def made(entries, few):
        places, weights = np.array([p for p, _ in entries], np.int64), np.array([w for _, w in entries])
        if not weighted:
            whole = filling._Sums(None, np.bincount(places, minlength=10), None, (len(entries), 0, 0))
        else:
            each = [np.bincount(places, w, 10).astype(float) for w in (weights, weights * weights)]
            whole = filling._Sums(None, *each, (len(entries), 0, 0))
        if not few:
            return whole
        at = np.flatnonzero(np.bincount(places, minlength=10))
        return whole._replace(at=at, sums=whole.sums[at], squares=None if whole.squares is None else whole.squares[at])

    h = filling.Histogram(("p",), (Listed(tuple(range(10))),), "w" if weighted else None)
    n = h.shape[0]
    x, y = made(a, few_a), made(b, few_b)
    before = bits_of(list(x)), bits_of(list(y))
    found = filling._added(x, y)
    assert (bits_of(list(x)), bits_of(list(y))) == before, "neither is changed"
    with np.errstate(all="ignore"):
        expected = made(a, False).sums + made(b, False).sums
    if found.at is not None:
        found = found._replace(sums=np.bincount(found.at, found.sums, 10).astype(expected.dtype))
    np.testing.assert_array_equal(found.sums, expected)
    assert found.counts[0] == len(a) + len(b)
    assert n >= 10
