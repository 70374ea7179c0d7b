"""`ds.cuts`: what is kept of a store, whatever else lies in the folder."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.demo import make_files
from mmdask.rows.cuts import kept as kept_module
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED

X = np.arange(100) % 10


def forget():
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture
def path(tmp_path):
    forget()
    store = tmp_path / "s.mm"
    mm.from_arrays({"x": X[:60], "y": -X[:60]}, store)
    with mm.append(store) as w:
        w.extend({"x": X[60:], "y": -X[60:]})
    return store


def files(path):
    return sorted(f for f in (path / "cache").rglob("*.*") if f.is_file())


def test_what_is_kept_is_listed(path):
    ds = mm.open(path)
    assert len(ds.cuts) == 0
    assert repr(ds.cuts).startswith("0 kept cuts")
    ds.cut("x > 3 & y > -7").keep()
    ds.cut("not (x > 5)").keep()
    listed = {c.expression: (c.kept, c.rows, c.parts, c.n_parts) for c in ds.cuts}
    assert listed == {
        "(x > 3)": (60, 100, 2, 2),
        "(y > (-7))": (70, 100, 2, 2),
        "(x > 3) and (y > (-7))": (30, 100, 2, 2),
        "(x > 5)": (40, 100, 2, 2),
        "(not (x > 5))": (60, 100, 2, 2),
    }
    assert [c.expression for c in ds.cuts] == sorted(listed)
    assert ds.cuts.nbytes == sum(f.stat().st_size for f in files(path))
    assert sum(c.n_files for c in ds.cuts) == len(files(path))
    assert all(0 <= time.time() - c.time < 3600 for c in ds.cuts)
    assert ds.cuts[0] == next(iter(ds.cuts))
    assert len(ds[ds.cut("x > 3")].cuts) == 5, "of the store, whatever the rows"


def test_it_prints_as_a_table(path):
    ds = mm.open(path)
    ds.cut("x > 3").keep()
    lines = repr(ds.cuts).split("\n")
    assert lines[0].startswith("1 kept cut, ")
    assert lines[1].split() == ["cut", "kept", "of", "rows", "parts", "size", "computed"]
    assert lines[3].split()[:8] == ["x", ">", "3", "60", "100", "2", "of", "2"]
    html = ds.cuts._repr_html_()
    assert "x &gt; 3" in html
    assert "<script" not in html


def test_long_lists_end_with_a_count(path):
    ds = mm.open(path)
    for k in range(45):
        ds.cut(f"x == {k % 9} and y != {-k}").keep()
    n = len(ds.cuts)
    assert n > 45
    assert repr(ds.cuts).endswith(f"... and {n - 40} more")
    assert f"... and {n - 40} more" in ds.cuts._repr_html_()


def test_after_an_append_a_part_is_lacking(path):
    mm.open(path).cut("x > 3").keep()
    with mm.append(path) as w:
        w.extend({"x": [9, 1], "y": [0, 0]})
    ds = mm.open(path)
    [cut] = ds.cuts
    assert (cut.kept, cut.rows, cut.parts, cut.n_parts) == (60, 100, 2, 3)
    assert [c.rows for c in mm.open(path, generation=2).cuts] == [100], "what an older generation has"
    ds.cut("x > 3").keep()
    assert [(c.kept, c.rows, c.parts) for c in ds.cuts] == [(61, 102, 3)]
    mm.assign(path, {"x": ds["x"] + 1}, replace=True)
    assert len(mm.open(path).cuts) == 0, "of a field that is another now"
    with pytest.raises(mm.ExpressionError) as caught:
        ds.cuts.clear("pair v1")
    assert caught.value.__notes__ == ["nor is there a kept cut with the key 'pair v1'"]


def test_one_cut_is_cleared_and_what_was_made_of_it(path):
    ds = mm.open(path)
    ds.cut("x > 3 & y > -7").keep()
    ds.cut("x > 5").keep()
    n = len(files(path))
    assert ds.cuts.clear("x>3") == 3
    assert [c.expression for c in ds.cuts] == ["(x > 5)", "(y > (-7))"]
    with mt.count_reads() as reads:
        assert ds.cut("x > 5").count() == 40
        assert ds.cut("y > -7").count() == 70
    assert not reads.n_rows
    assert ds.cut("x > 3 & y > -7").count() == 30
    assert len(files(path)) == n + 1, "y > -7 was counted alone since"
    assert ds.cuts.clear(ds.cut("x > 3") | ds.cut("y > -7")) == 6
    assert [c.expression for c in ds.cuts] == ["(x > 5)"]
    assert ds.cuts.clear() == 3
    assert files(path) == []
    assert ds.cuts.clear() == 0


def test_the_text_that_is_listed_clears(path):
    ds = mm.open(path)
    ds.cut("x > 3 & y > -7").keep()
    ds.cuts.clear("(x > 3) and (y > (-7))")
    assert not files(path)
    ds.cut(lambda b: b["x"] > 3, key='k, "2" \\', fields="x").keep()
    with pytest.raises(mm.ExpressionError, match="no field 'k'"):
        ds.cuts.clear("k")
    assert ds.cuts.clear('k, "2" \\') == 3


def test_a_text_that_is_no_cut_is_an_error(path):
    ds = mm.open(path)
    with pytest.raises(mm.ExpressionError, match="no field 'xx'"):
        ds.cuts.clear("xx > 3")
    with pytest.raises(mm.OptionError, match="int"):
        ds.cuts.clear(3)
    with pytest.raises(mm.OptionError, match="older_than is a duration"):
        ds.cuts.clear(older_than="soon")


def test_only_what_is_old_is_cleared(path):
    ds = mm.open(path)
    ds.cut("x > 3").keep()
    old = files(path)
    for file in old:
        os.utime(file, (time.time() - 3 * 86400,) * 2)
    ds.cut("x > 5").keep()
    assert "3 d ago" in repr(ds.cuts)
    assert ds.cuts.clear(older_than="4d") == 0
    assert ds.cuts.clear(older_than="2d") == len(old)
    assert [c.expression for c in ds.cuts] == ["(x > 5)"]


def test_of_a_store_that_cannot_be_written(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(masks.os, "access", lambda *_: False)
    ds = mm.open(path)
    ds.cut("x > 3").keep()
    assert [(c.expression, c.kept) for c in ds.cuts] == [("(x > 3)", 60)]
    assert ds.cuts.path.startswith(str(tmp_path / "home"))
    assert not (path / "cache").exists()
    assert ds.cuts.clear() == 3
    assert len(ds.cuts) == 0


def test_hostile_files(path, tmp_path):
    ds = mm.open(path)
    ds.cut("x > 3").keep()
    good = files(path)
    folder = good[0].parent
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(good[0], outside / "precious.mask")
    (folder / ("0" * 32 + ".mask")).symlink_to(outside / "precious.mask")
    (folder / ("1" * 32 + ".mask")).write_bytes(b"garbage")
    (folder / ("2" * 32 + ".mask")).mkdir()
    (folder / ("3" * 32 + ".rows")).write_bytes(b"mmdask-rows 1\n" + b"0" * 16 + b"\n" + b"[" * 100_000 + b"\n")
    (folder / ("4" * 32 + ".rows")).write_bytes(b"mmdask-mask 2\n" + b"0" * 16 + b"\n{}\n")
    text = json.dumps({"semantics": masks.SEMANTICS, "cut": "\x1b[2J<b>", "layers": {}})
    head = json.dumps({"rows": 60, "kept": 1.5, "text": text}).encode() + b"\n"
    (folder / ("5" * 32 + ".mask")).write_bytes(b"mmdask-mask 2\n" + b"0" * 16 + b"\n" + head)
    (folder / ("6" * 32 + ".mask")).write_bytes(b"mmdask-mask 2\n" + b"0" * 16 + b"\n" + head.replace(b"1.5", b"1"))
    os.mkfifo(folder / ("7" * 32 + ".mask"))
    with open(folder / ("8" * 32 + ".mask"), "wb") as huge:
        huge.truncate(1 << 40)
    (folder / "readme").write_text("mine")
    (path / "cache" / "masks" / "zz").mkdir()
    shutil.move(path / "cache" / "masks" / "zz", path / "cache" / "masks" / "ff")
    cuts = ds.cuts
    assert [c.expression for c in cuts if c.kept] == ["(x > 3)"]
    assert ", 6 other files" in repr(cuts)
    assert "\x1b" not in repr(cuts)
    assert "<b>" not in cuts._repr_html_()
    assert mm.open(path).cut("x > 3").count() == 60
    cuts.clear()
    assert sorted(os.listdir(outside)) == ["precious.mask"]
    left = sorted(os.listdir(folder))
    assert [name[0] for name in left] == ["0", "2", "7", "r"], "links, folders, pipes, and what is not ours"


def test_a_link_in_place_of_a_folder_is_not_followed(path, tmp_path):
    ds = mm.open(path)
    ds.cut("x > 3").keep()
    good = files(path)
    away = shutil.move(good[0].parent, tmp_path / "away")
    os.symlink(away, good[0].parent)
    assert sum(c.n_files for c in ds.cuts) < len(good)
    ds.cuts.clear()
    assert os.listdir(away)


def test_files_that_come_and_go_meanwhile(path, monkeypatch):
    ds = mm.open(path)
    ds.cut("x > 3 & y > -7").keep()
    original = kept_module.read_kept

    def read(file):
        for other in files(path)[:2]:
            other.unlink()
        return original(file)

    monkeypatch.setattr(kept_module, "read_kept", read)
    assert "other file" not in repr(ds.cuts), "what is gone is not damaged"
    ds.cuts.clear()
    monkeypatch.undo()
    assert ds.cut("x > 3 & y > -7").count() == 30


def test_after_a_conversion_only_what_changed_is_read(tmp_path):
    labels = make_files(tmp_path / "root", 400, progress=False)
    sources = {f"{file}:nominal": of_file for file, of_file in labels.items()}
    store, text = tmp_path / "events.mm", "nJets >= 6 and not (any(jet_pt > 80e3) or met < 20e3)"

    def convert(**options):
        forget()
        return mm.from_root(sources, store, update=True, progress=False, **options)

    def names():
        return {f.name for f in files(store) if f.suffix == ".mask"}

    ds = convert()
    n = ds.cut(text).count()
    before = names()
    with mt.count_reads() as reads:
        assert convert().cut(text).count() == n, "nothing changed"
    assert not reads.n_rows
    file = next(iter(labels))
    os.rename(file, tmp_path / "aside.root")
    other = make_files(tmp_path / "other", 600, seed=2, progress=False)
    os.rename(next(iter(other)), file)
    new = convert()
    with mt.count_reads() as reads:
        count = new.cut(text).count()
    rows = sum(len(new[new.cut(f"process == '{k['process']}' and year == {k['year']}")]) for k in [labels[file]])
    assert set(reads.rows) <= {"nJets", "jet_pt", "met"}
    assert max(reads.rows.values()) == rows < len(new), "the rows of the file that changed"
    shutil.rmtree(store / "cache")
    forget()
    assert new.cut(text).count() == count
    now = names()
    assert 0 < len(before & now) < len(now)
    convert(exclude=["jet_phi"]).cut(text).count()
    assert len(names() - now) == len(now), "other options, other layers"
