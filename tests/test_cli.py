"""The command: what it prints, its exit status, and what it says about mistakes."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mmdask as mm
from mmdask import demo, display
from mmdask.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    demo.make_files(folder, 2000, progress=False)
    return folder


def test_convert_info_verify(files, tmp_path, capsys):
    store = str(tmp_path / "events.mm")
    command = ["convert", "-o", store, "--quiet", f"{files}/ttbb_*.root:nominal", "process=ttbb", "year=2016"]
    command += [f"{files}/ttH_*.root:nominal", "process=ttH", "year=2017", "--fields", "nJets", "jet_*"]
    assert main(command) == 0
    assert "2,000 rows" in capsys.readouterr().out
    ds = mm.open(store)
    assert ds.fields == ("nJets", "jet_pt", "jet_eta", "jet_phi", "jet_e", "jet_btag", "process", "year")
    assert ds["year"].compute().tolist() == [2016] * 1200 + [2017] * 800
    assert main(command) == 0
    assert mm.open(store).generation == ds.generation, "nothing to do"
    capsys.readouterr()

    assert main(["info", store]) == 0
    out = capsys.readouterr().out
    for words in ("jet_pt", "ragged float32", "ttbb, ttH", "ttH_mc16a.root", "generation"):
        assert words in out

    assert main(["verify", store, "--quiet"]) == 0
    assert "no problem" in capsys.readouterr().out
    broken = next(Path(store).glob("parts/*/*jet_pt.npy"))
    with open(broken, "r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    assert main(["verify", store, "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "jet_pt" in out
    assert broken.name in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "nothing.mm"], "no store at"),
        (["convert", "-o", "x.mm", "no_such.root"], "no_such.root"),
        (["convert", "-o", "x.mm", "process=ttbb"], "before any source"),
        (["convert", "-o", "x.mm", __file__], "ROOT"),
        (["verify", "."], "manifest.json"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.startswith("mmdask: ")
    assert message in err
    assert "Traceback" not in err
    assert not os.listdir(tmp_path)


def test_wrong_usage_shows_the_usage(capsys):
    for words in ([], ["convert"], ["no-such-command"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "usage: mmdask" in capsys.readouterr().err


def test_interrupting_says_that_nothing_is_lost(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmdask.cli.mm.open", interrupted)
    assert main(["info", "x.mm"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_demo_runs_from_start_to_end(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mmdask", "demo", str(tmp_path / "demo"), "--events", "5000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "4 ROOT files",
        "jet_pt       ragged float32",
        "computed, and kept beside the store: ",
        "read from there: ",
        "ttbb",
        "train ",
        "every row exactly once",
        "times the time of copying",
        "peak memory",
        "mm.open(",
    ):
        assert words in done.stdout
    ds = mm.open(tmp_path / "demo" / "events.mm")
    assert len(ds) == 5000
    # What it prints about the cut is what numpy counts.
    jets = ds["jet_pt"].max(default=0).compute()
    expected = (ds["nJets"].compute() >= 6) & (ds["nBTags_77"].compute() >= 2) & (jets > 100e3)
    assert f"kept beside the store: {expected.sum():,} of 5,000 rows" in done.stdout
    train = ds[ds.cut(demo.CUT)].split({"train": 0.8, "val": 0.1, "test": 0.1}, by="eventNumber", seed=7)["train"]
    assert f"train {len(train):,} rows" in done.stdout
    # The last line can be pasted into a shell.
    last = done.stdout.splitlines()[-1]
    assert last.startswith("python -c ")
    last = last.replace("python", shlex.quote(sys.executable), 1)  # which may have another name here
    shown = subprocess.run(last, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert "5,000 rows" in shown.stdout, shown.stderr
    # Again, with files and store in place, and with other numbers of events.
    for events in (5000, 300, 0):
        again = subprocess.run(
            [sys.executable, "-m", "mmdask", "demo", str(tmp_path / "demo"), "--events", str(events)],
            capture_output=True,
            text=True,
        )
        assert again.returncode == 0, again.stderr
        assert len(mm.open(tmp_path / "demo" / "events.mm")) == events


def test_quickstart_runs(tmp_path, capsys):
    names = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    names["main"](tmp_path, 3000)
    out = capsys.readouterr().out
    assert "rows pass" in out
    assert "'jet_pt_mask'" in out
    ds = mm.open(tmp_path / "events.mm")
    good = (ds["nJets"].compute() >= 6) & (ds["nBTags_77"].compute() >= 2)
    n = (good & (ds["process"].compute() == "ttH")).sum()
    assert f"ttH: {n:,} of 1,200 rows pass" in out


def test_what_the_system_refuses_is_one_line(files, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("mmdask.store.system.System.write", full)
    assert main(["convert", "-o", str(tmp_path / "s.mm"), "--quiet", f"{files}/ttbb_mc16a.root"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("mmdask: ")
    assert "No space left" in err
    assert "Traceback" not in err


# Stores that change --------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(tmp_path):
    """A store of three parts, with all that `info` shows."""
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"x": [1, 2], "jet_pt": [[1.0], []]}, path)
    for k in (3, 4):
        with mm.append(path) as w:
            w.append({"x": k, "jet_pt": [float(k)]})
    mm.assign(path, ht="sum(jet_pt)", lead="max(jet_pt)", progress=False)
    notes = {"x": {"unit": "GeV", "doc": "the x\x1b[31m"}}
    mm.annotate(path, attrs={"lumi": 139.0}, fields=notes, aux={"edges": [0.0, 1.0, 2.0]})
    return path


def test_info_of_a_store_that_changed(changed, capsys):
    assert main(["info", changed]) == 0
    out = capsys.readouterr().out
    for words in (
        "5: annotate lumi, x, edges",
        "5 generations can be opened",
        "optional float64",
        "max(jet_pt)",
        "GeV",
    ):
        assert words in out
    for words in ("edges  float64 (3,)", "lumi  139.0", "fields      4", "committed   20"):
        assert words in out
    assert "\x1b" not in out


def test_info_says_how_arrays_are_stored(changed, tmp_path, capsys):
    assert main(["info", changed]) == 0
    assert "stored" not in capsys.readouterr().out
    path = str(tmp_path / "z.mm")
    mm.from_arrays({"x": [1.0] * 100_000}, path, backend=mm.Zarr(codec="zstd", keepbits=8))
    nbytes = sum(c.stat().st_size for c in (tmp_path / "z.mm").glob("parts/*/*/c/**/*") if c.is_file())
    assert main(["info", path]) == 0
    out = capsys.readouterr().out
    assert "size        781 KiB\n" in out
    assert f"stored      {display.nbytes_text(nbytes)} of zarr, zstd, 8 bits of mantissas kept\n" in out


def test_cuts(tmp_path, capsys):
    path = str(tmp_path / "s.mm")
    ds = mm.from_arrays({"x": [1, 5, 7, 3]}, path)
    ds.cut("x > 2 & x < 6").count()
    assert main(["cuts", path]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].startswith("3 kept cuts, ")
    assert [line.split()[:3] for line in lines[3:6]] == [["x", "<", "6"], ["(x", "<", "6)"], ["x", ">", "2"]]
    assert main(["cuts", path, "--clear", "x > 2", "--older-than", "1d"]) == 0
    assert capsys.readouterr().out.startswith("0 files removed")
    assert main(["cuts", path, "--clear", "x > 2"]) == 0
    assert capsys.readouterr().out.startswith("2 files removed")
    assert main(["cuts", path, "--clear", "y > 2"]) == 1
    assert "no field 'y'" in capsys.readouterr().err
    assert main(["vacuum", path, "--cuts"]) == 0
    assert "1 file in all" in capsys.readouterr().out
    assert main(["cuts", path]) == 0
    assert capsys.readouterr().out.startswith("0 kept cuts")


def test_history(changed, capsys):
    assert main(["history", changed]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["5", "4", "3", "2", "1"]
    assert lines[3].endswith("assign ht, lead to 3 parts")
    assert main(["history", changed, "-n", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["history", changed, "-n", "0"]) == 1
    assert "-n is a number of generations" in capsys.readouterr().err


def test_compact(changed, capsys):
    assert main(["compact", changed, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "3 parts became 1;" in out
    assert "mmdask vacuum" in out
    assert mm.open(changed)["x"].compute().tolist() == [1, 2, 3, 4]
    assert main(["compact", changed, "--quiet"]) == 0
    assert capsys.readouterr().out == "nothing to merge in 1 part\n"
    assert main(["compact", changed, "--part-nbytes", "many"]) == 1
    assert "a size is a number of bytes" in capsys.readouterr().err


def test_vacuum(changed, capsys):
    mm.compact(changed, progress=False)
    assert main(["vacuum", changed, "--keep", "1"]) == 0
    assert "removed 0 layers, 0 old generations" in capsys.readouterr().out
    assert main(["vacuum", changed, "--keep", "1", "--grace", "0", "--dry-run"]) == 0
    assert "would remove 6 layers, 5 old generations" in capsys.readouterr().out
    assert main(["vacuum", changed, "--keep", "1", "--grace", "0"]) == 0
    assert "removed 6 layers, 5 old generations" in capsys.readouterr().out
    assert main(["info", changed]) == 0
    assert "1 generation can be opened" in capsys.readouterr().out
    for words, message in [(["--keep", "0"], "1 or more, got 0"), (["--grace", "soon"], "a duration as in '7d'")]:
        assert main(["vacuum", changed, *words]) == 1
        assert message in capsys.readouterr().err


def test_ways_to_verify(changed, capsys):
    array = next(Path(changed).glob("parts/*/*-x.npy"))
    with open(array, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff")
    assert main(["verify", changed, "--quick", "--quiet"]) == 0
    assert main(["verify", changed, "--sample", "1.0", "--threads", "1", "--quiet"]) == 1
    assert main(["verify", changed, "--sample", "5", "--quiet"]) == 1
    capsys.readouterr()
    assert main(["verify", changed, "--sample", "5", "--seed", "17", "--quiet"]) == 1
    assert "sample of 5 extents of each array, seed=17" in capsys.readouterr().out
    assert main(["verify", changed, "--seed", "17", "--quiet"]) == 1
    assert "seed is an integer, and for a sample" in capsys.readouterr().err
    assert main(["verify", changed, "--generation", "1", "--quiet"]) in (0, 1)
    capsys.readouterr()
    assert main(["verify", changed, "--generation", "77", "--quiet"]) == 1
    assert "no generation 77" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["verify", changed, "--quick", "--sample", "0.5"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        main(["verify", changed, "--sample", "half"])


@pytest.mark.parametrize("command", ["info", "cuts", "history", "verify", "compact", "vacuum"])
def test_no_store_is_an_error_in_words(command, tmp_path, capsys):
    assert main([command, str(tmp_path / "none.mm")]) == 1
    assert "no store at" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
