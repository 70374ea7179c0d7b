"""Conversions of several files: what is read again, what stays, what raises. Counts, not times."""

from __future__ import annotations

import os
import re
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import uproot
from root_tools import (
    A,
    B,
    C,
    check,
    columns,
    events,
    manifest,
    read_store,
    rewrite,
    run,
    sources,
    write_tree,
)

from mmdask.errors import (
    OptionError,
    SchemaError,
    SkippedFieldsWarning,
    SourceError,
    SourceNotFoundError,
)
from mmdask.sources.converting import conversion, pieces, survey
from mmdask.sources.root.file import brief
from mmdask.sources.root.ttree import Branch

# ---- nothing, one and all that changed ------------------------------------------------------------------------------


def test_second_call_opens_nothing(files, out, opened, baskets):
    run(files, out)
    check(out, *A, *B, *C)
    assert opened == ["a.root", "b.root", "c.root"], "what is checked stays open to be read"
    assert len(baskets) == len(set(baskets)) == 4 * 2 * 3
    before = Path(out, "manifest.json").read_bytes()
    opened.clear()
    baskets.clear()
    run(files, out)
    run([files[2], files[0], files[1]], out)
    run(f"{Path(files[0]).parent}/*.root", out)
    assert opened == baskets == []
    assert Path(out, "manifest.json").read_bytes() == before
    assert len(list(Path(out, "history").iterdir())) == 1


def test_nothing_to_do_for_many_sources_reads_only_the_manifest(tmp_path, out, opened, monkeypatch):
    path = write_tree(tmp_path / "0.root", [events(2)])
    for i in range(1, 30):
        shutil.copy(path, tmp_path / f"{i}.root")
    run({f"{tmp_path}/*.root": {"year": 2016}}, out)
    opened.clear()
    for module in (conversion, survey, pieces):
        monkeypatch.setattr(module, "read_layer", None)
    run({f"{tmp_path}/*.root": {"year": 2016}}, out)
    assert opened == []


def test_one_changed_file_of_three_is_read_again_in_place(files, out, opened, baskets):
    run(files, out)
    ids = manifest(out)["parts"]["layers"]
    new_b = [events(4, 9), events(3, 8), events(2, 7)]
    rewrite(files[1], new_b)
    opened.clear()
    baskets.clear()
    run(files, out)
    assert set(opened) == {name for name, _, _ in baskets} == {"b.root"}
    assert len(baskets) == len(set(baskets)) == 4 * 3
    check(out, *A, *new_b, *C)
    after = manifest(out)["parts"]["layers"]
    assert [after[0], after[2]] == [ids[0], ids[2]]
    assert after[1] != ids[1]


def test_a_changed_file_may_have_another_number_of_parts(files, out):
    size = 200
    run(files, out, part_nbytes=size)
    n = [s[0] for s in sources(out)]
    assert n.count("c.root") > n.count("b.root") > 1
    new_b = [events(40, 9), events(30, 8)]
    rewrite(files[1], new_b)
    run(files, out, part_nbytes=size)
    check(out, *A, *new_b, *C)
    names = [s[0] for s in sources(out)]
    assert names == sorted(names)
    assert names.count("b.root") > n.count("b.root")


def test_touched_file_is_read_again(files, out, opened):
    run(files, out)
    os.utime(files[0], ns=(1, 1))
    opened.clear()
    run(files, out)
    assert set(opened) == {"a.root"}
    check(out, *A, *B, *C)


def test_new_files_are_appended(files, out, opened):
    run([files[2]], out)
    opened.clear()
    run(files, out)
    assert set(opened) == {"a.root", "b.root"}
    check(out, *C, *A, *B)


def test_vanished_sources(files, out, opened):
    run(files, out)
    before = Path(out, "manifest.json").read_bytes()
    with pytest.raises(SourceNotFoundError, match=r"a\.root:events.* is no longer among the sources.*missing='drop'"):
        run(files[1:], out)
    os.unlink(files[0])
    with pytest.raises(SourceNotFoundError, match=r"a\.root:events.* is no longer there"):
        run(f"{Path(files[0]).parent}/*.root", out)
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.root"):
        run(files, out)
    assert Path(out, "manifest.json").read_bytes() == before
    opened.clear()
    run(files, out, missing="drop")
    assert opened == []
    check(out, *B, *C)
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.root"):
        run(files, out, missing="drop")  # now the store does not know it either
    run([files[2]], out, missing="drop")
    check(out, *C)
    with pytest.raises(SourceNotFoundError, match="no file"):
        run([files[2], f"{files[2]}x"], out, missing="drop")


def test_a_glob_of_which_all_files_vanished(files, out, tmp_path):
    (tmp_path / "d").mkdir()
    write_tree(tmp_path / "d" / "x.root", A)
    names = [*files, f"{tmp_path}/d/*.root"]
    run(names, out)
    os.unlink(tmp_path / "d" / "x.root")
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        run(names, out)
    run(names, out, missing="drop")
    check(out, *A, *B, *C)
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        run(names, tmp_path / "other.mm", missing="drop")


def test_dropped_and_changed_and_new_at_once(files, out, tmp_path):
    run(files, out)
    new = write_tree(tmp_path / "0.root", A)
    rewrite(files[2], B)
    run([new, files[1], files[2]], out, missing="drop")
    check(out, *B, *B, *A)


# ---- trees ----------------------------------------------------------------------------------------------------------


def test_trees_of_one_file(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="nominal")
    write_tree(path, B, name="syst/up", mode=uproot.update)
    with pytest.raises(SourceError, match=r"its trees are: syst/up, nominal; name one, as in 'a\.root:syst/up'"):
        run(path, out)
    with pytest.raises(SourceError, match=r"no tree 'nominl'; did you mean 'nominal'\? \(its trees are: nominal, sy"):
        run(f"{path}:nominl", out)
    assert not out.exists()
    run([f"{path}:nominal", f"{path}:syst/up"], out)
    check(out, *A, *B)
    assert [s[1] for s in sources(out)] == ["nominal", "syst/up"]
    run(path, tmp_path / "p.mm", tree="syst/up")
    check(tmp_path / "p.mm", *B)


def test_the_only_tree_is_found_in_folders(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="deep/er/t")
    run(path, out)
    check(out, *A)
    assert sources(out) == [("a.root", "deep/er/t", 0, 10)]


def test_highest_cycle(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="t")
    write_tree(path, B, name="t", mode=uproot.update)
    with uproot.open(path) as file:
        assert set(file.keys()) == {"t;1", "t;2"}
    run(path, out)
    check(out, *B)
    run(f"{path}:t;1", tmp_path / "p.mm")
    check(tmp_path / "p.mm", *A)


def test_a_tree_named_in_two_ways_is_the_same(tmp_path, files, out):
    with pytest.raises(OptionError, match="named twice"):
        run([files[0], f"{files[0]}:events"], out)
    run([files[0]], out)
    with pytest.raises(OptionError, match="named twice"):
        run([files[0], f"{files[0]}:events"], out)
    run([f"{files[0]}:events"], out)
    check(out, *A)


# ---- inputs that cannot be converted --------------------------------------------------------------------------------


def test_bad_files_are_found_before_anything_is_written(tmp_path, files, out):
    good = Path(files[2]).read_bytes()
    bad = {
        "empty.root": (b"", "an empty file"),
        "text.root": (b"hello there", "begins with b'hell'"),
        "short.root": (good[: len(good) // 2], f"truncated: {len(good) // 2} bytes, its header says {len(good)}"),
        "shorter.root": (good[:60], "truncated: 60 bytes, and the header alone has 100"),
    }
    for name, (data, message) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=f"{name}: .*({message})"):
            run([*files, str(tmp_path / name)], out)
        assert not out.exists()
    os.mkfifo(tmp_path / "pipe.root")
    with pytest.raises(SourceNotFoundError):
        run(str(tmp_path / "pipe.root"), out)


def test_a_file_cut_off_anywhere(tmp_path, files, out):
    """Also where uproot would read it: the data behind the header are shorter than the header says."""
    good = Path(files[0]).read_bytes()
    bad = tmp_path / "bad.root"
    for n in [*range(1, 100, 9), 99, *range(100, len(good), 61), len(good) - 1]:
        bad.write_bytes(good[:n])
        with pytest.raises(SourceError) as error:
            run(bad, out)
        if n >= 4:
            says = f"its header says {len(good)}" if n >= 100 else "the header alone has 100"
            assert str(error.value).startswith(f"{bad}: truncated: {n} bytes, ")
            assert str(error.value).endswith(says)
    assert not out.exists()


def test_the_size_of_files_beyond_2_gib(tmp_path, out):
    """Their header has 64-bit numbers, and a version above 1,000,000."""
    header = struct.pack(">4siiq", b"root", 1_062_406, 100, 5 << 30)
    (tmp_path / "a.root").write_bytes(header.ljust(300, b"\0"))
    with pytest.raises(SourceError, match="truncated: 300 bytes, its header says 5368709120"):
        run(tmp_path / "a.root", out)


def test_damage_is_told_in_whole_sentences(tmp_path, files, out):
    """What uproot says stands in brackets behind what we say, and does not end with a comma."""
    half = brief(OSError("expected Chunk of length 120,\nreceived 3"))
    assert half == "(uproot: OSError: expected Chunk of length 120)"
    good = Path(files[0]).read_bytes()
    for at in range(100, len(good), 97):
        (tmp_path / "bad.root").write_bytes(good[:at] + b"\xff" * 24 + good[at + 24 :])
        for folder in (out, tmp_path / "no.mm"):
            shutil.rmtree(folder, ignore_errors=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                run(tmp_path / "bad.root", out)
                said = [str(w.message) for w in caught if w.category is SkippedFieldsWarning]
            except SourceError as error:
                said = [str(error)]
        for text in said:
            assert "bad.root" in text
            if "uproot:" in text:
                assert re.search(r"(damaged|cannot be told)[^(]*\(uproot: .*[^,;: ]\)", text), text


def test_a_file_that_changes_meanwhile(files, out, monkeypatch):
    original = Branch.read
    calls = []

    def read_run(column, start, stop, wanted):
        calls.append(1)
        if len(calls) == 6:
            os.utime(files[1], ns=(5, 5))
        return original(column, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", read_run)
    with pytest.raises(SourceError, match=r"b\.root: the file changed while it was converted"):
        run(files, out)
    assert len(list(Path(out, "parts").iterdir())) == 1
    monkeypatch.undo()
    run(files, out)
    check(out, *A, *B, *C)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "met": c["met"].astype("f8")}, r"field 'met' is float64, but float32 in .*a\.root"),
        (lambda c: {**c, "pt": c["met"]}, r"field 'pt' is float32, but ragged float32 in "),
        (lambda c: {k: v for k, v in c.items() if k != "met"}, r"field 'met' \(float32 in .*a\.root\) is missing"),
        (lambda c: {**c, "more": c["met"]}, r"field 'more' \(float32\) is not in .*a\.root"),
    ],
)
def test_differing_fields(tmp_path, out, change, message):
    a = write_tree(tmp_path / "a.root", A)
    b = write_tree(tmp_path / "b.root", [change(c) for c in A])
    with pytest.raises(SchemaError, match=rf"b\.root: .*{message}"):
        run([a, b], out)
    assert not out.exists()
    run(a, out)
    with pytest.raises(SchemaError, match=message.replace(r"a\.root", r"a\.root:events")):
        run([a, b], out)
    check(out, *A)
    run([a, b], tmp_path / "p.mm", fields=["number"])
    assert read_store(tmp_path / "p.mm")["number"].tolist() == columns([*A, *A])["number"]


def test_the_order_of_fields_may_differ(tmp_path, out):
    a = write_tree(tmp_path / "a.root", A)
    b = write_tree(tmp_path / "b.root", [dict(reversed(c.items())) for c in A])
    run([a, b], out)
    check(out, *A, *A)
