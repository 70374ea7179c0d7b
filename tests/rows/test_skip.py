"""What is skipped is what the data would give, and nothing of the data is read for it."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.errors import ExpressionError
from mmdask.expr import check_cut, evaluate_three_valued
from mmdask.rows.cuts import skip
from mmdask.rows.cuts.skip import FALSE, GRAIN, NONE, TRUE, UNKNOWN, Skipped, settled, settled_parts, skipped
from mmdask.rows.reading.part import read_part
from mmdask.store import document
from mmdask.store.arrays.npy import checksum
from mmdask.store.snapshot import open_snapshot

N = 3 * GRAIN + 1000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two parts: one of four grains, and a small one of another year and process."""
    path = tmp_path_factory.mktemp("skip") / "a.mm"
    rng = np.random.default_rng(0)
    run = np.sort(rng.integers(1000, 1100, N)).astype("i4")
    counts = rng.integers(0, 4, N)
    counts[:GRAIN] += 1
    pt = ak.unflatten(rng.uniform(20, 200, counts.sum()).astype("f4"), counts)
    met = np.ma.array(rng.uniform(0, 300, N).astype("f4"), mask=np.arange(N) >= 3 * GRAIN)
    met[GRAIN : GRAIN + 5] = np.nan
    fields = {
        "run": run,
        "event": np.arange(N, dtype="u8") + 2**63,
        "pt": pt,
        "eta": pt * 0,
        "met": met,
        "big": np.arange(N) * 2**45,
    }
    sample = mm.Field.category("sample", ("a", "b"))
    with mm.create(path, fields=[sample], labels={"process": "ttbb", "year": 2016}) as w:
        w.extend({**fields, "sample": np.where(np.arange(N) < 2 * GRAIN, "a", "b")})
    small = {name: values[:100] for name, values in fields.items()}
    with mm.append(path, labels={"process": "ttH", "year": 2017}) as w:
        w.extend({**small, "run": np.full(100, 5000, "i4"), "sample": ["b"] * 100})
    return path


def outcomes_of(store, text):
    snapshot = open_snapshot(store)
    cut = check_cut(text, snapshot.schema)
    with mt.count_reads() as reads:
        found = settled_parts(snapshot, [0, 1], cut)
    assert not reads.log, "data were read"
    assert [settled(snapshot, p, cut).tolist() for p in (0, 1)] == [o.tolist() for o in found]
    return [o.tolist() for o in found]


def check_rows(store, text, outcomes):
    """Each grain that is settled, against all of its rows."""
    snapshot = open_snapshot(store)
    cut = check_cut(text, snapshot.schema)
    for part, grains in enumerate(outcomes):
        for g, outcome in enumerate(grains):
            a, b = g * GRAIN, min((g + 1) * GRAIN, snapshot.parts[part].rows)
            if outcome == UNKNOWN:
                continue
            [(true, known)] = evaluate_three_valued(
                [cut], lambda name, part=part, a=a, b=b: read_part(snapshot, part, name, a, b), b - a
            )
            passing = int(np.bitwise_count(true).sum())
            assert passing == (b - a if outcome == TRUE else 0)
            assert known is None or outcome == NONE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year == 2016", [[TRUE] * 4, [FALSE]]),
        ("year > 2000 and process in ('ttbb', 'ttH')", [[TRUE] * 4, [TRUE]]),
        ("year % 2 == 0", [[TRUE] * 4, [FALSE]]),
        ("process == 'ttH' and any(pt > 0)", [[FALSE] * 4, [TRUE]]),
        ("run > 1e9", [[FALSE] * 4, [FALSE]]),
        ("run < 1020", [[UNKNOWN, FALSE, FALSE, FALSE], [FALSE]]),
        ("1050 <= run < 2000", [[FALSE, UNKNOWN, TRUE, TRUE], [FALSE]]),
        ("run == 5000", [[FALSE] * 4, [TRUE]]),
        ("event < 9223372036854841344", [[TRUE, FALSE, FALSE, FALSE], [TRUE]]),
        ("event == 9223372036854775808", [[UNKNOWN, FALSE, FALSE, FALSE], [UNKNOWN]]),
        ("sample == 'b'", [[FALSE, FALSE, TRUE, TRUE], [TRUE]]),
        ("any(pt > 10)", [[TRUE, UNKNOWN, UNKNOWN, UNKNOWN], [TRUE]]),
        ("all(pt > 10)", [[TRUE] * 4, [TRUE]]),
        ("pt[0] > 1000", [[NONE] * 4, [FALSE]]),
        ("any(pt > 1000 + eta)", [[FALSE] * 4, [FALSE]]),
        ("met > 1000", [[NONE] * 4, [FALSE]]),
        ("not (met > 1000)", [[TRUE, TRUE, TRUE, NONE], [TRUE]]),
        ("met < 1000", [[TRUE, UNKNOWN, TRUE, NONE], [TRUE]]),
        ("ismissing(met)", [[FALSE, FALSE, FALSE, TRUE], [FALSE]]),
        ("isnan(met)", [[FALSE, UNKNOWN, FALSE, NONE], [FALSE]]),
        ("met > 1000 or run >= 1000", [[TRUE] * 4, [TRUE]]),
        # would raise for rows of some grains: so they are read
        ("big * 4 < 0", [[FALSE, UNKNOWN, UNKNOWN, UNKNOWN], [FALSE]]),
    ],
)
def test_grains_of_a_store(store, text, expected):
    found = outcomes_of(store, text)
    assert found == expected
    check_rows(store, text, outcomes_of(store, text))


def test_an_error_is_not_skipped(store):
    ds = mm.open(store)
    with pytest.raises(ExpressionError, match="does not fit int64"):
        ds.cut("big * 4 < 0 and big >= 0").count()


def test_cuts_count_as_if_nothing_were_skipped(store):
    ds = mm.open(store)
    run = ds["run"].compute()
    for text, expected in [
        ("run == 1033", run == 1033),
        ("1010 < run <= 1060", (run > 1010) & (run <= 1060)),
        ("run > 1050 and year == 2016", (run > 1050) & (run < 2000)),
        ("not (run > 1050)", run <= 1050),
    ]:
        assert ds.cut(text).count() == int(expected.sum())
        assert (ds[ds.cut(text)]["run"].compute() == run[expected]).all()


def test_what_is_skipped(store):
    snapshot = open_snapshot(store)
    counted = skipped(snapshot, check_cut("run >= 5000 or sample == 'b'", snapshot.schema))
    assert counted == Skipped(2, N + 100, 2, N + 100)
    counted = skipped(snapshot, check_cut("1050 <= run < 2000", snapshot.schema))
    assert counted == Skipped(1, N + 100 - GRAIN, 2, N + 100)
    assert skipped(snapshot, check_cut("sqrt(met) > 5", snapshot.schema)).rows == 0


def test_stores_without_statistics(tmp_path):
    path = tmp_path / "a.mm"
    mm.from_arrays({"x": np.arange(2 * GRAIN), "pt": [[1.0]] * 2 * GRAIN}, path)
    for file in path.glob("parts/*/part.json"):
        part = json.loads(file.read_text())
        for key in ("checksum", "grains"):
            del part[key]
        for field in part["fields"].values():
            del field["bounds"]
        file.write_bytes(document.dump(part))
    snapshot = open_snapshot(path)
    for text, expected in [("x > 1e9", UNKNOWN), ("x < 2e19", TRUE), ("any(pt > 5)", UNKNOWN)]:
        assert settled(snapshot, 0, check_cut(text, snapshot.schema)).tolist() == [expected] * 2
    assert mm.open(path).cut("x > 1e9").count() == 0


def test_no_rows(tmp_path):
    with mm.create(tmp_path / "a.mm", fields=[mm.Field.dense("x", "i4")]):
        pass
    with mm.append(tmp_path / "a.mm") as w:
        w.extend({"x": [1]})
    snapshot = open_snapshot(tmp_path / "a.mm")
    cut = check_cut("x > 5", snapshot.schema)
    assert [o.tolist() for o in settled_parts(snapshot, range(len(snapshot.parts)), cut)] == [[FALSE]]
    assert settled_parts(snapshot, [], cut) == []


@pytest.mark.parametrize("how", ["bytes", "gone", "low above high", "beyond the dtype", "nan"])
def test_damaged_statistics_are_not_used(tmp_path, how):
    path = tmp_path / "a.mm"
    mm.from_arrays({"x": np.arange(2 * GRAIN, dtype="i4"), "f": np.arange(2.0 * GRAIN)}, path)
    [file] = path.glob("parts/*/*grains.npy")
    table = np.load(file)
    if how == "gone":
        file.unlink()
    else:
        changes = {
            "bytes": (0, 1, 69_000),  # plausible, and wrong
            "low above high": (0, 0, 2**20),
            "beyond the dtype": (0, 0, -(2**40)),
            "nan": (1, 0, np.float64("nan").view("i8")),
        }
        k, column, value = changes[how]
        table[k, 1, column] = value
        with file.open("r+b") as f:
            f.seek(4096)
            f.write(table.tobytes())
        if how != "bytes":
            part_json = file.with_name("part.json")
            part = json.loads(part_json.read_text())
            part["arrays"][part["grains"]]["checksums"] = [checksum(table.tobytes())]
            del part["checksum"]
            part_json.write_bytes(document.dump(part))
    snapshot = open_snapshot(path)
    cut = check_cut("x < 70000 and f < 1e5", snapshot.schema)
    with pytest.warns(RuntimeWarning, match="damaged, so nothing is skipped there"):
        assert settled(snapshot, 0, cut).tolist() == [UNKNOWN] * 2
    assert settled(snapshot, 0, cut).tolist() == [UNKNOWN] * 2, "said once"


def test_many_parts_are_looked_at_together(tmp_path, monkeypatch):
    path = tmp_path / "a.mm"
    with mm.create(path, part_nbytes=4096) as w:
        for i in range(50):
            w.extend({"run": np.full(600, i, "i8")})
    snapshot = open_snapshot(path)
    assert len(snapshot.parts) > 20
    calls = []
    monkeypatch.setattr(skip, "settle", lambda *args, real=skip.settle: calls.append(1) or real(*args))
    cut = check_cut("run >= 10", snapshot.schema)
    found = settled_parts(snapshot, range(len(snapshot.parts)), cut)
    assert len(calls) == 1
    assert {FALSE, TRUE} <= set(np.concatenate(found).tolist())
    for part, outcome in enumerate(found):
        runs = read_part(snapshot, part, "run", 0, snapshot.parts[part].rows).values
        expected = TRUE if runs.min() >= 10 else FALSE if runs.max() < 10 else UNKNOWN
        assert outcome.tolist() == [expected]


def test_missing_rows_of_several_times_and_of_images_are_not_skipped(tmp_path):
    times = mm.Field.dense("times", "<M8[s]", (2,), optional=(0,))
    image = mm.Field.shaped("image", "u1", 2, (3,), optional=(0,))
    with mm.create(tmp_path / "a.mm", fields=[times, image]) as w:
        for i in range(4):
            pair = np.array([i, i + 1], "<M8[s]")
            w.append({"times": None if i == 1 else pair, "image": None if i < 2 else np.zeros((1, i, 3), "u1")})
    ds = mm.open(tmp_path / "a.mm")
    assert [ds.cut(f"ismissing({name})").count() for name in ("times", "image")] == [1, 2]
    assert [ds.cut(f"not ismissing({name})").count() for name in ("times", "image")] == [3, 2]
