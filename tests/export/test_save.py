"""Any view saved as a new store: the same rows, and all that is known of them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.export import save
from mmdask.rows.reading import reader
from mmdask.schema import Field
from mmdask.store.layer import read_layer
from mmdask.store.manifest import history, read_manifest
from mmdask.store.system import SYSTEM


def put(view, path, **kwargs):
    return view.save(path, progress=False, **kwargs)


def rows_of(ds, name):
    return mt.to_python(ds.schema[name], reader.read(ds._rows.snapshot, name, 0, ds._rows.n_store))


@pytest.fixture
def store(tmp_path):
    path = str(tmp_path / "s.mm")
    fields = [
        Field.dense("x", "i8", unit="GeV", doc="the x", attrs={"bins": [1, 2]}),
        Field.ragged("r", "f4"),
        Field.category("c", ["z"], optional=(0,)),
    ]
    for k, process in enumerate("abba"):
        how = {"labels": {"process": process, "year": 2016}}
        with mm.append(path, **how) if k else mm.create(path, fields=fields, **how) as w:
            rows = range(10 * k, 10 * k + 10)
            w.extend(
                {
                    "x": list(rows),
                    "r": [[float(i)] * (i % 3) for i in rows],
                    "c": [[None, "q", "z"][i % 3] for i in rows],
                }
            )
    mm.assign(path, ht="sum(r)", both="ht + x", progress=False)
    mm.annotate(path, attrs={"lumi": 139.0}, aux={"edges": [0.0, 1.0], "names": ["a", "b"]})
    return path


@given(st.data())
@settings(max_examples=25)
def test_any_view_comes_back(tmp_path_factory, data):
    """Every kind of field, in parts, sliced and cut at random, against plain Python lists."""
    table = data.draw(mt.tables(max_fields=3, max_rows=8))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=3))), len(table)]
    folder = tmp_path_factory.mktemp("any")
    path = str(folder / "s.mm")
    for k, (a, b) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        with mm.append(path) if k else mm.create(path, fields=table.fields) as w:
            w.extend({name: mt.to_arrays(f, table.rows[name][a:b]) for name, f in table.schema.items()})
    mm.assign(path, {"the number": np.arange(len(table))}, progress=False)
    view, numbers = mm.open(path), list(range(len(table)))
    if data.draw(st.booleans()):
        low, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
        view, numbers = view[low::step], numbers[low::step]
    if data.draw(st.booleans()):
        view, numbers = view[view.cut("`the number` % 2 == 0")], [i for i in numbers if i % 2 == 0]
    out = put(view, folder / "out.mm", part_nbytes=data.draw(st.sampled_from(["1 GiB", 1, 40])))
    assert out.schema == view.schema
    for name, rows in table.rows.items():
        assert not mt.difference([rows[i] for i in numbers], rows_of(out, name))
    assert out["the number"].compute().tolist() == numbers
    report = mm.verify(folder / "out.mm")
    assert report.ok, report


@pytest.mark.parametrize("part_nbytes", ["1 GiB", 400, 1])
def test_everything_known_is_kept(store, tmp_path, part_nbytes):
    ds = mm.open(store)
    out = put(ds, tmp_path / "out.mm", part_nbytes=part_nbytes)
    assert out.schema == ds.schema
    assert out.attrs == ds.attrs
    assert {name: list(value) for name, value in out.aux.items()} == {"edges": [0.0, 1.0], "names": ["a", "b"]}
    for name in ds.fields:
        assert not mt.difference(rows_of(ds, name), rows_of(out, name))
    manifest = read_manifest(tmp_path / "out.mm")
    assert manifest.uuid != read_manifest(store).uuid
    assert manifest.generation == 1
    assert history(out.path)[0].action == f"save 40 rows of {store}, generation 6"
    assert {s.uri for s in out.sources} == {store}
    assert (out.sources[0].start, out.sources[-1].stop) == (0, 40)
    if part_nbytes == 1:
        assert len(manifest.parts) == 40
    with mm.append(tmp_path / "out.mm", labels={"process": "c", "year": 2017}) as w:
        w.append({"x": 40, "r": [1.0, 2.0], "c": "new"})
    assert mm.open(tmp_path / "out.mm")["both"].compute()[-1] == 43.0, "still computed"


def test_parts_end_at_the_size_and_rather_where_constants_change(store, tmp_path):
    one = read_manifest(store).parts[0].nbytes
    put(mm.open(store), tmp_path / "out.mm", part_nbytes=int(1.5 * one))
    layers = [read_layer(str(tmp_path / "out.mm"), p.layers[0]) for p in read_manifest(tmp_path / "out.mm").parts]
    assert layers[0].rows == 10
    assert layers[0].fields["process"].constant == "a"
    assert all(x.fields["year"].constant == 2016 for x in layers)
    whole = put(mm.open(store), tmp_path / "whole.mm")
    [layer] = [read_layer(whole.path, p.layers[0]) for p in read_manifest(whole.path).parts]
    assert layer.fields["process"].constant is None
    assert layer.fields["year"].constant == 2016


def test_constants_of_the_rows_that_are_saved(store, tmp_path):
    ds = mm.open(store)
    out = put(ds[ds.cut("process == 'b'")], tmp_path / "out.mm")
    [part] = read_manifest(out.path).parts
    assert read_layer(out.path, part.layers[0]).fields["process"].constant == "b"
    assert out["x"].compute().tolist() == list(range(10, 30))
    assert out.schema["process"].labels == ("a", "b")


def test_chosen_fields_and_their_expressions(store, tmp_path):
    ds = mm.open(store)
    out = put(ds[["both", "x", "ht"]], tmp_path / "1.mm")
    assert out.fields == ("both", "x", "ht")
    assert [f.expression for f in out.schema.values()] == ["ht + x", "", ""], "r, which ht reads, is not saved"
    out = put(ds, tmp_path / "2.mm", fields=["r", "ht", "proc*"])
    assert out.fields == ("r", "ht", "process")
    assert out.schema["ht"].expression == "sum(r)"
    assert put(ds[["x", "ht"]], tmp_path / "3.mm", fields="x").fields == ("x",)
    with pytest.raises(mm.FieldNotFoundError, match="'r'"):
        put(ds[["x", "ht"]], tmp_path / "4.mm", fields="r")
    assert not os.path.exists(tmp_path / "4.mm")


def test_splits_and_cuts_and_no_rows(store, tmp_path):
    ds = mm.open(store)
    folds = ds.split({"a": 0.5, "b": 0.5}, by="x", seed=3)
    saved = {name: put(part, tmp_path / f"{name}.mm") for name, part in folds.items()}
    assert sorted(np.concatenate([s["x"].compute() for s in saved.values()]).tolist()) == list(range(40))
    for name, part in folds.items():
        assert saved[name]["x"].compute().tolist() == part["x"].compute().tolist()
    none = put(ds[ds.cut("x > 1000")], tmp_path / "none.mm")
    assert (len(none), none.schema, none.sources) == (0, ds.schema, [])
    with mm.append(tmp_path / "none.mm", labels={"process": "a", "year": 1}) as w:
        w.append({"x": 1, "r": [2.0], "c": None})
    assert mm.open(tmp_path / "none.mm")["both"].compute().tolist() == [3.0]


def test_block_rows_are_those_of_the_saved_fields(tmp_path):
    path = tmp_path / "s.mm"
    ds = mm.from_arrays({"x": np.arange(100, dtype="u1"), "wide": np.zeros((100, 4096))}, path)
    assert read_manifest(path).block_rows == 2
    put(ds[["x"]], tmp_path / "out.mm")
    assert read_manifest(tmp_path / "out.mm").block_rows == 1 << 16


def test_paths_that_are_taken(store, tmp_path):
    ds = mm.open(store)
    with pytest.raises(mm.StoreExistsError):
        put(ds, store)
    for inside in (os.path.join(store, "x"), os.path.join(store, "parts", "0" * 16)):
        with pytest.raises(mm.OptionError, match="lies in the store"):
            put(ds, inside)
    os.symlink(store, tmp_path / "link.mm")
    with pytest.raises(mm.OptionError, match="lies in the store"):
        put(ds, tmp_path / "link.mm" / "x")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(mm.StoreExistsError):
        put(ds, tmp_path / "file")
    with pytest.raises(mm.OptionError, match="no folder"):
        put(ds, tmp_path / "none" / "x.mm")
    for size in (0, "x"):
        with pytest.raises(mm.OptionError):
            put(ds, tmp_path / "out.mm", part_nbytes=size)
    assert sorted(os.listdir(tmp_path)) == ["file", "link.mm", "s.mm"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_stops_it_leaves_nothing(store, tmp_path, monkeypatch, error):
    for which in ("finish", "commit"):
        calls = []

        def stop(*args, calls=calls, **kwargs):
            calls.append(1)
            raise error

        with monkeypatch.context() as patch:
            if which == "finish":
                patch.setattr(save.LayerWriter, "finish", stop)
            else:
                patch.setattr(save, "commit", stop)
            with pytest.raises(error):
                put(mm.open(store), tmp_path / "out.mm")
        assert calls
        assert not os.path.exists(tmp_path / "out.mm")
    assert len(put(mm.open(store), tmp_path / "out.mm")) == 40


def test_two_who_save_to_one_path(store, tmp_path, monkeypatch):
    original = save.commit

    def commit(*args, **kwargs):
        monkeypatch.setattr(save, "commit", original)
        put(mm.open(store)[:3], tmp_path / "out.mm")
        return original(*args, **kwargs)

    monkeypatch.setattr(save, "commit", commit)
    with pytest.raises(mm.StoreExistsError, match="another process"):
        put(mm.open(store), tmp_path / "out.mm")
    assert len(mm.open(tmp_path / "out.mm")) == 3
    assert mm.verify(tmp_path / "out.mm").ok
    assert set(os.listdir(tmp_path / "out.mm" / "parts")) == read_manifest(tmp_path / "out.mm").layers


def test_small_blocks_give_the_same(store, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "BLOCK_NBYTES", 16)
    ds = mm.open(store)
    out = put(ds[::3], tmp_path / "out.mm")
    assert out["r"].compute().to_list() == [[float(i)] * (i % 3) for i in range(0, 40, 3)]


def test_it_imports_no_dask():
    code = "import mmdask.export.save, sys; assert 'dask' not in sys.modules"
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_memory_is_bounded(tmp_path):
    """A skim of 160 MB is written block by block; a few of them, of a smaller size here, are in memory at once."""
    code = f"""
        import dask.array as da, numpy as np
        import mmdask as mm
        from mmdask.export import save
        save.BLOCK_NBYTES >>= 3
        x = da.random.random((200_000, 100), chunks=(20_000, 100))
        ds = mm.from_arrays({{"x": x}}, {str(tmp_path / "s.mm")!r})
        ds = mm.open({str(tmp_path / "s.mm")!r}, io="pread")
        sel = ds[ds.cut("any(x > 0.5)")]
        assert len(sel) == 200_000
        small = ds[:100].save({str(tmp_path / "small.mm")!r}, progress=False)
        def peak():  # ru_maxrss would begin with what the parent process had
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        before = peak()
        assert len(sel.save({str(tmp_path / "out.mm")!r}, progress=False)) == 200_000
        grown = peak() - before
        assert grown < 150_000, grown  # numba alone takes 80; with one block for all 420
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("call", ["create", "write", "fsync", "mkdir"])
def test_an_error_of_the_disk_names_the_new_store(store, tmp_path, monkeypatch, call):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SYSTEM, call, fail)
    out = tmp_path / "out.mm"
    with pytest.raises(OSError, match="No space") as caught:
        put(mm.open(store), out)
    assert caught.value.__notes__ == [f"while {out} was written: nothing was saved"]
    monkeypatch.undo()
    assert not out.exists()
