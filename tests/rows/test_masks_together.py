"""Masks of many small parts, which stand together in few files: found, combined, listed, cleared, damaged as others."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows.cuts import masks, partcuts
from mmdask.rows.rows import RESOLVED

PARTS = 14
LENGTH = 21
RNG = np.random.default_rng(1)
X = RNG.integers(0, 100, PARTS * LENGTH)
Y = [None if y < 20 else y for y in RNG.integers(0, 100, PARTS * LENGTH).tolist()]


def forget():
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    forget()
    monkeypatch.setattr(masks, "_MANY", 4)
    monkeypatch.setattr(masks, "_BUNDLED", 5)
    monkeypatch.setattr(partcuts, "MANY_TASKS", 4)
    monkeypatch.setattr(partcuts, "_TOGETHER", 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("together") / "s.mm"
    with mm.create(path, fields=[mm.Field.dense("x", "i8"), mm.Field.dense("y", "i8", optional=True)]) as w:
        for p in range(PARTS):
            here = slice(p * LENGTH, (p + 1) * LENGTH)
            w.extend({"x": X[here], "y": Y[here]})
            w.checkpoint()
    return path


@pytest.fixture
def path(store, tmp_path):
    return shutil.copytree(store, tmp_path / "s.mm")


def files(path, ending=".masks"):
    return sorted((path / "cache").rglob(f"*{ending}"))


CUTS = {
    "x > 50": [x > 50 for x in X],
    "y > 50": [y is not None and y > 50 for y in Y],
    "not (y > 50)": [y is not None and y <= 50 for y in Y],
    "x > 50 & not (y > 50)": [x > 50 and y is not None and y <= 50 for x, y in zip(X, Y, strict=True)],
    "x > 70 or y > 50": [x > 70 or (y is not None and y > 50) for x, y in zip(X, Y, strict=True)],
    "not (x > 70 or y > 50)": [y is not None and y <= 50 and x <= 70 for x, y in zip(X, Y, strict=True)],
}


def check(path, text):
    ds = mm.open(path)
    cut = ds.cut(text)
    assert cut.count() == sum(CUTS[text])
    np.testing.assert_array_equal(cut.mask.compute(scheduler="sync"), CUTS[text])
    np.testing.assert_array_equal(ds[cut]["x"].compute(scheduler="sync"), X[CUTS[text]])


@pytest.mark.parametrize("text", CUTS)
def test_few_files_and_nothing_is_read_again(path, text):
    check(path, text)
    assert not files(path, ".mask")
    n = 1 + text.count("&")
    assert n <= len(files(path)) <= 3 * n
    for again in CUTS:
        forget()
        check(path, again)
    forget()
    for whole in files(path, ".rows"):
        whole.unlink()  # which would answer alone
    with mt.count_reads() as reads:
        for again in CUTS:
            assert mm.open(path).cut(again).count() == sum(CUTS[again])
    assert not reads.n_rows


def test_after_an_append_only_that_is_read(path):
    check(path, "x > 50")
    with mm.append(path) as w:
        w.extend({"x": [1, 99, 98], "y": [1, 2, None]})
    forget()
    with mt.count_reads() as reads:
        assert mm.open(path).cut("x > 50").count() == sum(CUTS["x > 50"]) + 2
    assert reads.rows == {"x": 3}
    assert [c.parts for c in mm.open(path).cuts if c.expression == "(x > 50)"] == [PARTS + 1]


def test_they_are_listed_and_cleared(path):
    ds = mm.open(path)
    ds.cut("x > 50 & y > 50").keep()
    listed = {c.expression: (c.kept, c.rows, c.parts) for c in ds.cuts}
    both = sum(a and b for a, b in zip(CUTS["x > 50"], CUTS["y > 50"], strict=True))
    assert listed == {
        "(x > 50)": (sum(CUTS["x > 50"]), len(X), PARTS),
        "(y > 50)": (sum(CUTS["y > 50"]), len(X), PARTS),
        "(x > 50) and (y > 50)": (both, len(X), PARTS),
    }
    every = [*files(path), *files(path, ".rows")]
    assert sum(c.n_files for c in ds.cuts) == len(every)
    assert ds.cuts.nbytes == sum(f.stat().st_size for f in every)
    ds.cuts.clear("x > 50")
    assert {c.expression for c in ds.cuts} == {"(y > 50)"}
    check(path, "y > 50")
    ds.cuts.clear()
    assert not files(path)
    check(path, "x > 50")


def test_vacuum_removes_them_with_the_last_of_their_layers(path):
    check(path, "x > 50")
    before = files(path)
    mm.vacuum(path, grace=0, keep=1)
    assert files(path) == before
    mm.compact(path)
    mm.vacuum(path, grace=0)
    assert files(path) == before, "an older generation has these parts"
    mm.vacuum(path, grace=0, keep=1)
    assert not files(path)
    check(path, "x > 50")
    assert mm.vacuum(path, cuts=True).n_files
    assert not files(path, ".mask")


def test_damage_of_any_byte_is_found(path):
    check(path, "y > 50")
    good = files(path)[0]
    data = good.read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, 14, 20, len(data) - 1, *rng.integers(0, len(data), 12)]:
        good.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        for whole in files(path, ".rows"):
            whole.unlink()
        forget()
        check(path, "y > 50")
    good.write_bytes(data[: len(data) // 2])
    forget()
    check(path, "not (y > 50)")


def test_hostile_files(path, tmp_path):
    """Whole by their checksum, and wrong in what they say."""
    check(path, "x > 50")
    good = files(path)
    data = good[0].read_bytes()
    start = len(masks._BUNDLE) + masks.SUM
    line, _, bits = data[start:].partition(b"\n")

    def write(head, body, file=good[0]):
        pieces = masks.sealed(masks._BUNDLE, [json.dumps(head).encode() + b"\n", body])
        file.write_bytes(b"".join(bytes(p) for p in pieces))

    def heads():
        return json.loads(line)

    for change in (
        lambda h: h["masks"][0].update(nbytes=1 << 40),
        lambda h: h["masks"][0].update(nbytes=-1),
        lambda h: h["masks"][0].update(rows=7),
        lambda h: h["masks"][0].update(kept=1),
        lambda h: h["masks"][0].update(true=True),
        lambda h: h["masks"][0].update(true=[1]),
        lambda h: h["masks"][0].update(text=3),
        lambda h: h.update(masks={"a": 1}),
        lambda h: h.update(masks=[1, 2]),
        lambda h: h.update(text="[]"),
        lambda h: h["masks"].pop(),
        lambda h: h.pop("masks"),
    ):
        head = heads()
        change(head)
        write(head, bits)
        for whole in files(path, ".rows"):
            whole.unlink()
        forget()
        check(path, "x > 50")
        repr(mm.open(path).cuts)
        mm.vacuum(path, dry_run=True)
    write(heads(), bits)
    outside = shutil.copy(good[0], tmp_path / "precious")
    link = good[0].with_name(good[0].name.replace("-", "-0"))
    link.symlink_to(outside)
    os.mkfifo(good[0].with_name(good[0].name.replace("-", "-1")))
    forget()
    check(path, "x > 50")
    mm.open(path).cuts.clear()
    assert os.path.exists(outside)
    assert link.is_symlink()


def test_what_was_finished_before_an_interruption_is_kept(path, monkeypatch):
    original = partcuts.evaluate_rows
    done = []

    def evaluate(snapshot, part, start, stop, cuts):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(part)
        return original(snapshot, part, start, stop, cuts)

    import dask

    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"), pytest.raises(KeyboardInterrupt):
        patch.setattr(partcuts, "evaluate_rows", evaluate)
        mm.open(path).cut("x > 50").count()
    assert [c.parts for c in mm.open(path).cuts] == [9]
    forget()
    with mt.count_reads() as reads:
        assert mm.open(path).cut("x > 50").count() == sum(CUTS["x > 50"])
    assert reads.rows == {"x": (PARTS - 9) * LENGTH}


def test_a_cut_from_python_is_found_by_its_key_alone(path):
    import pickle

    ds = mm.open(path)
    cut = ds.cut(lambda block: block["x"] > 50, key="hard", fields="x")
    assert cut.count() == sum(CUTS["x > 50"])
    assert files(path)
    forget()
    again = pickle.loads(pickle.dumps(ds[cut]))
    np.testing.assert_array_equal(again["x"].compute(), X[CUTS["x > 50"]])
    with pytest.raises(mm.OptionError, match="is not kept"):
        pickle.dumps(ds[ds.cut(lambda block: block["x"] > 5, key="soft", fields="x")])


def test_large_parts_have_files_of_their_own(path, monkeypatch):
    monkeypatch.setattr(masks, "_SMALL_ROWS", LENGTH - 1)
    check(path, "x > 50")
    assert not files(path)
    assert len(files(path, ".mask")) == PARTS


def test_a_view_of_two_stores_keeps_them_with_each(path, tmp_path):
    other = shutil.copytree(path, tmp_path / "other.mm")
    with mm.append(other) as w:
        w.extend({"x": [99], "y": [99]})
    both = mm.concat([mm.open(path).rename(x="z"), mm.open(other).rename(x="z")])
    assert both.cut("z > 50").count() == 2 * sum(CUTS["x > 50"]) + 1
    assert files(path)
    forget()
    with mt.count_reads() as reads:
        assert mm.open(path).cut("x > 50").count() == sum(CUTS["x > 50"])
    assert not reads.n_rows


def test_a_full_disk_is_one_warning(path, monkeypatch):
    from mmdask.store.system import System

    class Full(System):
        def write(self, fd, data, offset):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmdask.store.system.SYSTEM", Full())
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert mm.open(path).cut("x > 50").count() == sum(CUTS["x > 50"])
    monkeypatch.undo()
    assert not files(path)
