"""create, append, extend: what was written comes back, mistakes leave nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.reading.reader import read
from mmdask.rows.reading.text import as_text
from mmdask.schema import FieldData
from mmdask.sources.writing import writer as writer_module
from mmdask.store import layer_writer as layer_module
from mmdask.store.snapshot import open_snapshot
from mmdask.store.system import System


def rows_of(path, name):
    """All rows of a field as plain Python, read through the dask-free layer."""
    snapshot = open_snapshot(path)
    field, data = snapshot.schema[name], read(snapshot, name, 0, snapshot.rows)
    if field.kind == "string":
        return as_text(data)
    if field.kind == "category":
        return [data.labels[c] for c in data.values]
    values = data.values.tolist()
    for o in reversed(data.offsets):
        values = [values[a:b] for a, b in zip(o[:-1].tolist(), o[1:].tolist(), strict=True)]
    return values


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(width=32), st.lists(st.integers(-128, 127), max_size=4), st.text("aé\n", max_size=3)),
            max_size=6,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rows_come_back_whatever_the_calls(tmp_path_factory, runs):
    path = tmp_path_factory.mktemp("w") / "s.mm"
    fields = [mm.Field.dense("x", "f4"), mm.Field.ragged("hits", "i1"), mm.Field.string("name")]
    expected = []
    for i, run in enumerate(runs):
        with mm.append(path) if i else mm.create(path, fields=fields) as w:
            if i % 2:
                for x, hits, name in run:
                    w.append({"x": x, "hits": hits, "name": name})
            else:
                w.extend({"x": [r[0] for r in run], "hits": [r[1] for r in run], "name": [r[2] for r in run]})
        expected += run
    np.testing.assert_array_equal(rows_of(path, "x"), [r[0] for r in expected])
    assert rows_of(path, "hits") == [r[1] for r in expected]
    assert rows_of(path, "name") == [r[2] for r in expected]
    assert mm.verify(path).ok
    assert len(mm.open(path)) == len(expected)


def test_plain_numpy_reads_every_array(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"t": np.array(["2020-01-01", "NaT"], "M8[s]"), "m": np.arange(12, dtype=">i2").reshape(2, 3, 2)})
    [folder] = (tmp_path / "s.mm" / "parts").iterdir()
    t, m = (np.load(folder / name, mmap_mode="r") for name in ("0-t.npy", "1-m.npy"))
    np.testing.assert_array_equal(t, np.array(["2020-01-01", "NaT"], "M8[s]"))
    np.testing.assert_array_equal(m, np.arange(12).reshape(2, 3, 2))
    assert t.offset == 4096


def test_equal_offsets_are_stored_once(tmp_path):
    jets = [[1.0, 2.0], [], [3.0]]
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"pt": jets, "eta": jets, "other": [[1.0], [2.0], [3.0]]})
    [folder] = (tmp_path / "s.mm" / "parts").iterdir()
    assert sorted(f.name for f in folder.iterdir() if "offsets" in f.name) == [
        "0-pt.offsets.npy",
        "4-other.offsets.npy",
    ]
    assert rows_of(tmp_path / "s.mm", "eta") == jets


def test_labels_are_stored_once_and_merge(tmp_path):
    with mm.create(tmp_path / "s.mm", labels={"process": "ttbb", "year": 2016}) as w:
        w.extend({"x": np.arange(1000)})
    with mm.append(tmp_path / "s.mm", labels={"process": "ttH", "year": 2017}) as w:
        w.extend({"x": np.arange(2)})
    assert rows_of(tmp_path / "s.mm", "process")[-3:] == ["ttbb", "ttH", "ttH"]
    assert rows_of(tmp_path / "s.mm", "year")[-3:] == [2016, 2017, 2017]
    assert mm.open(tmp_path / "s.mm").schema["process"].labels == ("ttbb", "ttH")
    assert not [f for _, _, files in os.walk(tmp_path) for f in files if "process" in f or "year" in f]


def test_categories_of_each_part_keep_their_labels(tmp_path):
    labels = [f"label {i}" for i in range(300)]
    with mm.create(tmp_path / "s.mm", fields=[mm.Field.category("c")]) as w:
        w.extend({"c": labels[:200]})
        w.extend({"c": labels[::-1]})
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({"c": ["new", "label 299", "label 0"]})
    assert rows_of(tmp_path / "s.mm", "c") == [*labels[:200], *labels[::-1], "new", "label 299", "label 0"]
    assert mm.verify(tmp_path / "s.mm").ok


def test_parts_are_cut_at_their_target_size(tmp_path):
    with mm.create(tmp_path / "s.mm", part_nbytes=800) as w:
        for i in range(5):
            w.extend({"x": np.full(60, i, "f8")})
    assert [p.rows for p in open_snapshot(tmp_path / "s.mm").parts] == [100, 100, 100]
    assert rows_of(tmp_path / "s.mm", "x") == np.repeat(np.arange(5.0), 60).tolist()


def test_nothing_is_visible_before_the_end_and_after_an_error(tmp_path):
    path = tmp_path / "s.mm"
    with pytest.raises(ZeroDivisionError), mm.create(path) as w:
        w.extend({"x": [1]})
        with pytest.raises(mm.StoreNotFoundError):
            mm.open(path)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []

    with mm.create(path) as w:
        w.extend({"x": [1]})
    before = mm.open(path)
    with pytest.raises(ZeroDivisionError), mm.append(path) as w:
        w.extend({"x": [2]})
        raise ZeroDivisionError
    with mm.append(path) as w:
        w.extend({"x": [3]})
        assert len(mm.open(path)) == 1
    assert rows_of(path, "x") == [1, 3]
    assert before["x"].compute().tolist() == [1]
    assert mm.open(path, generation=1)["x"].compute().tolist() == [1]
    assert len(list((path / "parts").iterdir())) == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"x": [1, 2], "hits": [[1]]}, "differ in length: x has 2 rows, hits has 1 rows"),
        ({"x": [1]}, "no value for 'hits'"),
        ({"x": [1], "hits": [[1]], "y": [1]}, "no field 'y'"),
        ({"x": [1], "hit": [[1]]}, "did you mean 'hits'"),
        ({"x": ["a"], "hits": [[1]]}, "got text"),
        ({"x": [0.5], "hits": [[1]]}, "fit exactly"),
        ({"x": [1], "hits": [1]}, "levels"),
        ({"x": [1], "hits": [[1]], "process": ["a"]}, "is a label"),
    ],
)
def test_wrong_rows_name_the_mistake(tmp_path, rows, words):
    path = tmp_path / "s.mm"
    with mm.create(path, labels={"process": "p"}) as w:
        w.extend({"x": [1], "hits": [[1, 2]]})
    with pytest.raises(mm.SchemaError, match=words), mm.append(path, labels={"process": "q"}) as w:
        w.extend(rows)
    with pytest.raises(mm.SchemaError), mm.append(path, labels={"process": "q"}) as w:
        w.append({k: v[0] for k, v in rows.items() if k != "hits"})
    assert rows_of(path, "x") == [1]


def test_taken_paths_are_refused(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"x": [1]})
    with pytest.raises(mm.StoreExistsError, match=r"mm\.append"):
        mm.create(tmp_path / "s.mm")
    (tmp_path / "file").write_text("")
    with pytest.raises(mm.StoreExistsError, match="a file"):
        mm.create(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("")
    with pytest.raises(mm.StoreExistsError, match="other things"):
        mm.create(tmp_path / "folder")
    with pytest.raises(mm.OptionError, match="no folder"), mm.create(tmp_path / "no" / "such" / "s.mm"):
        pass
    with pytest.raises(mm.StoreNotFoundError):
        mm.append(tmp_path / "nothing.mm")
    with pytest.raises(mm.OptionError, match="inside its block"):
        mm.append(tmp_path / "s.mm").extend({"x": [2]})


def test_a_dead_writers_folder_can_be_used(tmp_path):
    (tmp_path / "s.mm" / "parts" / "0123.tmp-45").mkdir(parents=True)
    with mm.create(tmp_path / "s.mm") as w:
        w.append({"x": 1})
    assert rows_of(tmp_path / "s.mm", "x") == [1]


def test_many_rows_one_by_one(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        for i in range(10_000):
            w.append({"i": i, "r": [i] * (i % 3), "t": str(i), "image": np.full((2, 2), i)})
    ds = mm.open(tmp_path / "s.mm")
    assert ds["i"].compute().tolist() == list(range(10_000))
    assert rows_of(tmp_path / "s.mm", "r") == [[i] * (i % 3) for i in range(10_000)]
    assert rows_of(tmp_path / "s.mm", "t") == [str(i) for i in range(10_000)]
    assert ds.schema["image"].shape == (2, 2)


def test_empty_stores_open(tmp_path):
    with mm.create(tmp_path / "s.mm", fields=[mm.Field.dense("x", "f4"), mm.Field.ragged("r", "i4")]) as w:
        w.extend({"x": [], "r": []})
    ds = mm.open(tmp_path / "s.mm")
    assert len(ds) == 0
    assert ds["x"].compute().tolist() == []
    assert ds["r"].compute().to_list() == []
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({"x": [1.5], "r": [[2]]})
    assert rows_of(tmp_path / "s.mm", "r") == [[2]]


def test_more_fields_than_a_process_may_open_files(tmp_path):
    names = [f"x{i}" for i in range(400)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, before[1]))
    try:
        with mm.create(tmp_path / "s.mm") as w:
            for k in range(3):
                w.extend({name: [i + k] for i, name in enumerate(names)})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for i, name in enumerate(names[::50]):
        assert rows_of(tmp_path / "s.mm", name) == [50 * i + k for k in range(3)]


def test_wide_categories_among_many_fields(tmp_path):
    """Codes are widened while the files of the layer are closed."""
    names = [f"x{i}" for i in range(201)]
    labels = [f"l{i}" for i in range(400)]
    with mm.create(tmp_path / "s.mm", fields=[mm.Field.category("c")]) as w:
        for half in (labels[:200], labels[200:]):
            w.extend({"c": half, **{name: np.arange(200) for name in names}})
    assert rows_of(tmp_path / "s.mm", "c") == labels
    assert mm.verify(tmp_path / "s.mm").ok


def test_a_layer_that_no_reader_would_take_is_not_committed(tmp_path, monkeypatch):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"j": [[1]]})
    original = layer_module.ArrayWriter.finish

    def one_too_many(self):
        spec = original(self)
        return replace(spec, shape=(spec.shape[0] + 1,)) if "offsets" in spec.file else spec

    monkeypatch.setattr(layer_module.ArrayWriter, "finish", one_too_many)
    with pytest.raises(mm.FormatError, match="offsets"), mm.append(tmp_path / "s.mm") as w:
        w.extend({"j": [[1], [2, 3]]})
    monkeypatch.undo()
    assert rows_of(tmp_path / "s.mm", "j") == [[1]]


def test_an_error_that_was_caught_still_commits_nothing(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.extend({"j": [[1]]})
    rows = {"j": [[1], [2, 3]]}
    original, calls = System.write, []

    def fail_once(self, fd, data, offset):
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(self, fd, data, offset)

    monkeypatch.setattr(System, "write", fail_once)
    with pytest.raises(mm.OptionError, match="No space left"), mm.append(path) as w:
        with pytest.raises(OSError, match="No space left"):
            w.extend(rows)
        w.extend(rows)
    with pytest.raises(mm.OptionError, match="begin the block again"), mm.append(path) as w:
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            w.extend(rows)
    monkeypatch.undo()
    assert rows_of(path, "j") == [[1]]
    assert len(list((path / "parts").iterdir())) == 1


def test_a_bad_row_does_not_take_good_ones_with_it_silently(tmp_path):
    path = tmp_path / "s.mm"
    errors = []
    with pytest.raises(mm.OptionError, match="were lost by an earlier error"), mm.create(path) as w:
        for i in range(10_000):
            try:
                w.append({"x": "five" if i == 5 else i})
            except mm.SchemaError as error:
                errors.append(error)
    assert len(errors) == 1
    assert not path.exists()


def test_rows_are_those_given_even_if_the_caller_changes_them(tmp_path):
    buffer, hits = np.zeros(2), []
    with mm.create(tmp_path / "s.mm") as w:
        for i in range(3):
            buffer[:] = i
            hits.append(i)
            w.append({"x": buffer, "hits": hits, "nested": [hits]})
    assert rows_of(tmp_path / "s.mm", "x") == [[0, 0], [1, 1], [2, 2]]
    assert rows_of(tmp_path / "s.mm", "hits") == [[0], [0, 1], [0, 1, 2]]
    assert rows_of(tmp_path / "s.mm", "nested") == [[[0]], [[0, 1]], [[0, 1, 2]]]


def test_a_writer_is_used_once(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"x": [1]})
    with pytest.raises(mm.OptionError, match="used once"), w:
        pass
    with pytest.raises(mm.OptionError, match="inside its block"):
        w.append({"x": 2})
    assert rows_of(tmp_path / "s.mm", "x") == [1]


def test_pending_rows_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "_PENDING_NBYTES", 10_000)
    values = {"image": np.zeros((10, 10)), "text": "a" * 800, "list": [0] * 800}
    for name, value in values.items():
        with mm.create(tmp_path / f"{name}.mm") as w:
            for _ in range(40):
                w.append({name: value})
                assert w._n_pending * 800 <= 10_000
        assert len(rows_of(tmp_path / f"{name}.mm", name)) == 40


def test_single_rows_that_are_records_of_numpy_and_awkward(tmp_path):
    records = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f4")])
    with mm.create(tmp_path / "s.mm") as w:
        w.append(records[0])
        w.append(ak.Array([{"a": 3, "b": 4.5}])[0])
        for wrong in ([1, 2], 3, "ab", None):
            with pytest.raises(mm.SchemaError, match="a mapping of field names"):
                w.append(wrong)
    assert rows_of(tmp_path / "s.mm", "a") == [1, 3]
    assert rows_of(tmp_path / "s.mm", "b") == [2.5, 4.5]


def test_empty_lists_settle_no_dtype(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"e": []})
        w.extend({"e": [2**53 + 1]})
    assert rows_of(tmp_path / "s.mm", "e") == [2**53 + 1]


def test_generations_that_were_not_committed_cannot_be_opened(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.extend({"x": [1]})
    (path / "history" / "00000002.json").write_bytes((path / "manifest.json").read_bytes())
    for wrong in (2, 0, -1, "1", True):
        with pytest.raises(mm.StoreNotFoundError, match="no generation"):
            mm.open(path, generation=wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(mm.StoreNotFoundError, match="a file"):
        mm.open(tmp_path / "file", generation=1)


@pytest.mark.parametrize(
    "texts", [[b"\xff", b"b"], [b"a", b"\xc3", b"\xa9"], [b"\xc3\xa9"[:1]], [b"ok", b"\xed\xa0\x80"]]
)
def test_strings_are_utf8_one_by_one(tmp_path, texts):
    data = FieldData(np.frombuffer(b"".join(texts), "u1"), (np.cumsum([0, *map(len, texts)]),))
    with mm.create(tmp_path / "s.mm", fields=[mm.Field.string("t")]) as w:
        w.extend({"t": FieldData(np.frombuffer("é".encode(), "u1"), (np.array([0, 0, 2, 2]),))})
    with pytest.raises(mm.SchemaError, match="string . of these rows is not UTF-8"), mm.append(tmp_path / "s.mm") as w:
        w.extend({"t": data})
    assert rows_of(tmp_path / "s.mm", "t") == ["", "é", ""]


def test_labels_take_the_dtype_of_their_field(tmp_path):
    fields = [mm.Field.dense("year", "i2"), mm.Field.dense("xsec", "f4")]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.extend({"year": [2016], "xsec": [0.5], "x": [1]})
    with mm.append(tmp_path / "s.mm", labels={"year": 2018, "xsec": 2}) as w:
        w.extend({"x": [1]})
    assert rows_of(tmp_path / "s.mm", "year") == [2016, 2018]
    assert rows_of(tmp_path / "s.mm", "xsec") == [0.5, 2.0]
    with pytest.raises(mm.SchemaError, match="cannot be the constant 70000"):
        mm.append(tmp_path / "s.mm", labels={"year": 70000})
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'year'"):
        mm.append(tmp_path / "s.mm", labels={"yaer": 1})


def test_a_failed_block_leaves_no_folder_and_no_parts(tmp_path):
    with pytest.raises(ZeroDivisionError), mm.create(tmp_path / "s.mm"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), mm.create(tmp_path / "s.mm", part_nbytes=100) as w:
            for _ in range(3):
                w.extend({"x": np.zeros(20)})
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"x": np.zeros(20)})
    with pytest.raises(ZeroDivisionError), mm.append(tmp_path / "s.mm", part_nbytes="100 B") as w:
        for _ in range(3):
            w.extend({"x": np.zeros(20)})
        raise ZeroDivisionError
    assert len(list((tmp_path / "s.mm" / "parts").iterdir())) == 1


def _create(path, number):
    try:
        with mm.create(path) as w:
            w.extend({"x": [number]})
    except mm.StoreExistsError:
        return
    raise SystemExit(3)


def test_one_of_several_creators_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    for k in range(5):
        path = tmp_path / f"{k}.mm"
        workers = [context.Process(target=_create, args=(path, i)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(w.exitcode for w in workers) == [0, 0, 0, 3]
        assert len(rows_of(path, "x")) == 1
        assert mm.verify(path).ok


@pytest.mark.parametrize("when", ["create", "begin"])
def test_a_creator_that_gives_up_while_another_one_looks(tmp_path, monkeypatch, when):
    """The folder that it made, and removes, is in nobody's way."""
    path, original, left = tmp_path / "s.mm", os.listdir, []
    writer = mm.create(path) if when == "begin" else None
    with mm.create(path) as other:

        def listdir(folder):
            if folder == str(path) and not left:
                left.append(original(folder))
                other.abort()
            return original(folder)

        monkeypatch.setattr(os, "listdir", listdir)
        with writer or mm.create(path) as w:
            w.extend({"x": [1]})
    assert left == [[]]
    assert rows_of(path, "x") == [1]
    assert mm.verify(path).ok


def test_a_forked_child_does_not_touch_its_parents_block(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        w.extend({"x": [1]})
        child = os.fork()
        if not child:
            try:
                with contextlib.suppress(SystemExit):
                    w.__exit__(SystemExit, SystemExit(), None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        w.extend({"x": [2]})
    assert rows_of(tmp_path / "s.mm", "x") == [1, 2]


def test_home_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with mm.create("~/s.mm") as w:
        w.extend({"x": [1]})
    with mm.append("~/s.mm") as w:
        w.extend({"x": [2]})
    assert mm.open("~/s.mm")["x"].compute().tolist() == [1, 2]
    assert mm.verify("~/s.mm").ok
    with pytest.raises(mm.OptionError, match="path"):
        mm.open(b"s.mm")


def test_a_block_without_rows_changes_nothing(tmp_path):
    with mm.create(tmp_path / "s.mm", labels={"p": "a"}) as w:
        w.extend({"x": [1]})
    with mm.append(tmp_path / "s.mm", labels={"p": "b"}):
        pass
    with mm.append(tmp_path / "s.mm", labels={"p": "b"}) as w:
        w.extend({"x": np.zeros(0, "i8")})
    ds = mm.open(tmp_path / "s.mm")
    assert (ds.generation, ds.schema["p"].labels) == (1, ("a",))
