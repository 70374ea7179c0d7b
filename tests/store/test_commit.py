"""The commit: what it refuses, what it records, and what it says when the system fails it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
from dataclasses import replace

import pytest

import mmdask as mm
from mmdask.schema import Field, Schema
from mmdask.store.commit import add_parts, amount, commit, discard_layers, merge_schemas, same_store
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import (
    Manifest,
    Part,
    dump_manifest,
    generations,
    history,
    history_path,
    parse_manifest,
    read_manifest,
)
from mmdask.store.storage import local
from mmdask.store.system import SYSTEM


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1, 2]}, path)
    return str(path)


def layer_of(root, values, name="x", layer_id="f" * 16):
    """A finished layer that no manifest names."""
    import numpy as np

    from mmdask.schema import FieldData

    with LayerWriter(root, layer_id) as w:
        w.field(Field.dense(name, "i8")).write(FieldData(np.array(values, "i8")))
        return w.finish()


def appending(layer):
    return lambda m: replace(m, parts=(*m.parts, Part(layer.rows, (layer.id,), layer.nbytes)))


# The manifest --------------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_with_aux_time_and_action():
    m = Manifest(
        "a" * 32,
        7,
        1024,
        Schema([Field.dense("x", "f4", unit="GeV")]),
        (Part(3, ("a1", "b2"), 12),),
        {"lumi": 139.0},
        Schema([Field.dense("edges", "f8", (5,)), Field.string("names", levels=1), Field.shaped("image", "u1", 2)]),
        ("c3", "d4"),
        "2026-01-02T03:04:05Z",
        "append 1 part, 3 rows",
    )
    back = parse_manifest(dump_manifest(m), "here")
    assert back == m
    assert (back.time, back.action) == (m.time, m.action)
    assert b'"requires": ["shaped"]' in dump_manifest(m), "aux may need what fields do not"
    assert back.layers == {"a1", "b2", "c3", "d4"}


def test_time_and_action_are_no_part_of_what_a_manifest_holds():
    m = Manifest("a" * 32, 1, 16, Schema([Field.dense("x", "i8")]), ())
    assert replace(m, time="2026-01-02T03:04:05Z", action="create") == m
    assert replace(m, aux=m.schema) != m
    assert replace(m, aux_layers=("a",)) != m


def test_old_manifests_have_neither_time_nor_aux():
    m = Manifest("a" * 32, 1, 16, Schema([Field.dense("x", "i8")]), ())
    text = dump_manifest(m).decode()
    assert '"aux"' not in text, "only where there is some"
    lines = [line for line in text.splitlines()[1:] if not re.match(r'"(time|action)"', line)]
    from mmdask.store.arrays.npy import checksum

    rest = ("\n".join(lines) + "\n").encode()
    back = parse_manifest(b'{"checksum": "xxh3_64:' + checksum(rest).encode() + b'",\n' + rest, "old")
    assert back == m
    assert (back.time, back.action, back.aux_layers) == ("", "", ())


@pytest.mark.parametrize("time", ["yesterday", "2026-01-02", "2026-01-02T03:04:05", 5])
def test_a_time_that_is_none_breaks_the_format(time):
    m = Manifest("a" * 32, 1, 16, Schema([Field.dense("x", "i8")]), ())
    with pytest.raises(mm.FormatError, match="time"):
        parse_manifest(dump_manifest(replace(m, time=time)), "here")


# The history ---------------------------------------------------------------------------------------------------------


def test_history_says_when_what_was_done(store):
    with mm.append(store) as w:
        w.extend({"x": [3, 4, 5]})
    mm.annotate(store, attrs={"a": 1})
    entries = history(store)
    assert [(e.generation, e.n_rows, e.n_parts, e.n_fields) for e in entries] == [
        (1, 2, 1, 1),
        (2, 5, 2, 1),
        (3, 5, 2, 1),
    ]
    assert [e.action for e in entries] == ["create 1 part, 2 rows", "append 1 part, 3 rows", "annotate a"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", e.time) for e in entries)
    assert mm.open(store).history() == entries
    os.unlink(history_path(store, 2))
    assert [e.generation for e in history(store)] == [1, 3]
    with pytest.raises(mm.StoreNotFoundError, match="no generation 2; the newest is 3"):
        mm.open(store, generation=2)


def test_history_beyond_the_manifest_was_never_committed(store):
    shutil.copy(history_path(store, 1), history_path(store, 2))
    assert [e.generation for e in history(store)] == [1]
    assert generations(store, 5) == [1, 2]
    with pytest.raises(mm.StoreNotFoundError, match="no generation 2"):
        mm.open(store, generation=2)
    mm.annotate(store, attrs={"a": 1})
    assert mm.open(store, generation=2).attrs == {"a": 1}, "one that a dead writer left is replaced"


def test_a_change_that_changes_nothing_commits_nothing(store):
    before = sorted(os.listdir(os.path.join(store, "history")))
    assert commit(store, lambda m: replace(m, action="?"), action="nothing").generation == 1
    assert sorted(os.listdir(os.path.join(store, "history"))) == before


# What a commit refuses -----------------------------------------------------------------------------------------------


def too_many_rows(m):
    return replace(m, parts=(*m.parts, *[Part(1 << 32, m.parts[0].layers, 0)] * 256))


def too_long_a_text(m):
    return replace(m, schema=Schema([replace(m.schema["x"], doc="a" * ((1 << 20) + 1))]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_many_rows, "'rows' must be at most 1099511627776 together"),
        (too_long_a_text, "field 0: 'doc' must be text"),
    ],
)
def test_what_no_reader_would_take_is_not_committed(store, change, message):
    with pytest.raises(mm.SchemaError, match=message) as error:
        commit(store, change, action="x")
    assert "nothing was changed" in str(error.value)
    assert len(mm.open(store)) == 2
    assert generations(store, 9) == [1]


def test_a_new_store_that_no_reader_would_take_is_not_made(tmp_path):
    path = tmp_path / "s.mm"
    with pytest.raises(mm.SchemaError, match="'doc' must be text"):
        mm.from_arrays({"x": [1]}, path, fields=[Field.dense("x", "i8", doc="a" * ((1 << 20) + 1))])
    mm.from_arrays({"x": [1]}, path)
    assert len(mm.open(path)) == 1


def test_a_store_that_was_removed_or_replaced(store):
    base = read_manifest(store)
    assert same_store(store, replace(base, generation=7), base).generation == 7
    with pytest.raises(mm.ConflictError, match="removed meanwhile"):
        same_store(store, None, base)
    with pytest.raises(mm.ConflictError, match="replaced by another one meanwhile"):
        same_store(store, replace(base, uuid="f" * 32), base)


def test_layers_that_are_gone_are_not_committed(store):
    layer = layer_of(store, [3])
    shutil.rmtree(layer.path)
    before = read_manifest(store)
    with pytest.raises(mm.ConflictError, match=r"ffff.*vacuum"):
        commit(store, appending(layer), action="append")
    assert read_manifest(store) == before
    aux = replace(before, aux=Schema([Field.dense("e", "i8")]), aux_layers=("e" * 16,))
    with pytest.raises(mm.ConflictError, match="eeee"):
        commit(store, lambda m: aux, action="annotate")


def test_layers_that_were_named_before_are_not_looked_at(store):
    """Damage that is there already is for `verify`; it must not keep others from committing."""
    [part] = read_manifest(store).parts
    os.unlink(os.path.join(store, "parts", part.layers[0], "part.json"))
    commit(store, appending(layer_of(store, [3])), action="append")
    assert read_manifest(store).rows == 3


def test_names_of_new_layers_are_durable_before_the_manifest_names_them(store, monkeypatch):
    """They may be those of a process that died before it could sync them."""
    calls = []
    original = type(SYSTEM).fsync_folder
    monkeypatch.setattr(type(SYSTEM), "fsync_folder", lambda self, path: (calls.append(path), original(self, path)))
    layer = layer_of(store, [3])
    calls.clear()
    commit(store, appending(layer), action="append")
    assert calls[0] == os.path.join(store, "parts")
    calls.clear()
    commit(store, lambda m: replace(m, attrs={"a": 1}), action="annotate")
    assert os.path.join(store, "parts") not in calls


def F(*fields):
    return Schema(fields)


X, Y = Field.dense("x", "i8"), Field.dense("y", "f4")


@pytest.mark.parametrize(
    ("old", "new", "base", "error", "message"),
    [
        (F(X), F(X, Y), None, mm.SchemaError, "no field 'y' in the store"),
        (F(X), F(X, Y), F(X), mm.SchemaError, "no field 'y' in the store"),
        (F(X, Y), F(X), None, mm.SchemaError, "'y' .* is missing"),
        (F(X, Y), F(X), F(X, Y), mm.SchemaError, "'y' .* is missing"),
        (F(X, Y), F(X), F(X), mm.ConflictError, "added the field 'y'"),
        (F(X, Field.dense("y", "f8")), F(X, Y), F(X, Y), mm.ConflictError, "replaced the field 'y'"),
        (F(X, replace(Y, expression="x")), F(X, Y), F(X, Y), mm.ConflictError, "replaced the field 'y'"),
        (F(X, Y), F(X), F(X, replace(Y, expression="x")), mm.ConflictError, "replaced the field 'y'"),
        (F(X, Y), F(X, Field.dense("y", "f8")), F(X, Y), mm.SchemaError, "'y' is float64, the store has float32"),
        (F(X, Y), F(X, replace(Y, optional=(0,))), F(X, Y), mm.ConflictError, "replaced the field 'y'"),
    ],
)
def test_rows_that_do_not_fit(old, new, base, error, message):
    with pytest.raises(error, match=message):
        merge_schemas(old, new, base=base)


def test_rows_that_fit_what_others_made_of_the_store():
    assert merge_schemas(F(X), F(X, Y), base=F(X, Y)) == F(X), "a field that was dropped meanwhile is left out"
    wider = replace(Y, optional=(0,))
    assert merge_schemas(F(wider), F(Y), base=F(Y)) == F(wider), "missing values that rows do not have"
    labelled = merge_schemas(
        F(Field.category("c", "ab")), F(Field.category("c", "bd")), base=F(Field.category("c", "b"))
    )
    assert labelled["c"].labels == ("a", "b", "d")
    noted = replace(Y, unit="GeV", doc="d")
    assert merge_schemas(F(noted), F(Y), base=F(Y)) == F(noted)
    m = Manifest("a" * 32, 3, 16, F(X), (Part(1, ("a",), 8),))
    assert add_parts(m, F(X, Y), [Part(2, ("b",), 24)], block_rows=99, base=F(X, Y)).rows == 3


def test_an_append_that_began_before_a_drop_and_one_before_an_array(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1], "y": [2]}, path)
    with mm.append(path) as w:
        w.append({"x": 3, "y": 4})
        mm.drop(path, "y")
    assert mm.open(path).fields == ("x",)
    assert mm.open(path)["x"].compute().tolist() == [1, 3]
    with pytest.raises(mm.ConflictError, match="added the field 'z'"), mm.append(path) as w:
        w.append({"x": 5})
        mm.assign(path, z=[1, 2])
    assert mm.open(path)["x"].compute().tolist() == [1, 3]
    assert set(os.listdir(path / "parts")) == read_manifest(path).layers, "the layer of the lost rows is gone"


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_sync_that_fails_behind_the_rename_says_that_readers_see_the_commit(store, monkeypatch):
    original = type(SYSTEM).fsync_folder

    def fails(self, path):
        if path == store and read_manifest(store).generation == 2:
            raise OSError(errno.EIO, "Input/output error")
        original(self, path)

    monkeypatch.setattr(type(SYSTEM), "fsync_folder", fails)
    with pytest.raises(OSError, match="Input/output") as caught:
        commit(store, lambda m: replace(m, attrs={"a": 1}), action="annotate")
    [note] = caught.value.__notes__
    assert "may have happened" in note
    assert "mm.open(path).generation tells: 2" in note
    assert mm.open(store).generation == 2


@pytest.mark.parametrize("name", ["rename", "create", "fsync"])
def test_a_call_that_fails_before_the_rename_has_no_note(store, monkeypatch, name):
    original = getattr(type(SYSTEM), name)

    def fails(self, *args):
        if any(isinstance(a, str) and "manifest.json" in a for a in args) or name == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *args)

    monkeypatch.setattr(type(SYSTEM), name, fails)
    with pytest.raises(OSError, match="No space") as caught:
        commit(store, lambda m: replace(m, attrs={"a": 1}), action="annotate")
    assert not hasattr(caught.value, "__notes__")
    assert read_manifest(store).generation == 1


def test_discarded_layers_are_those_that_no_commit_names(store):
    layer = layer_of(store, [3])
    discard_layers(store, [layer.id, *read_manifest(store).layers, "0" * 16])
    assert os.listdir(os.path.join(store, "parts")) == list(read_manifest(store).parts[0].layers)
    assert mm.verify(store).ok


# The lock ------------------------------------------------------------------------------------------------------------


def test_who_holds_the_lock_is_named(store, monkeypatch):
    mm.annotate(store, attrs={"a": 1})
    lock = os.path.join(store, ".lock")
    assert os.path.getsize(lock) == 128
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.05)
    fd = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(mm.ConflictError, match=f"process {os.getpid()} on {re.escape(socket.gethostname())}"):
            mm.annotate(store, attrs={"a": 2})
    finally:
        os.close(fd)
    mm.annotate(store, attrs={"a": 2})
    assert os.path.getsize(lock) == 128, "never longer, never cut"


def test_a_lock_that_cannot_be_signed_still_locks(store, monkeypatch):
    original = type(SYSTEM).write

    def fails(self, fd, data, offset):
        if len(data) == 128:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, fd, data, offset)

    monkeypatch.setattr(type(SYSTEM), "write", fails)
    mm.annotate(store, attrs={"a": 1})
    assert mm.open(store).attrs == {"a": 1}


def test_the_lock_is_no_link(store, tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    os.unlink(os.path.join(store, ".lock"))
    os.symlink(other, os.path.join(store, ".lock"))
    with pytest.raises(mm.FormatError, match="is a link"):
        mm.annotate(store, attrs={"a": 1})
    assert other.read_text() == "precious"


def test_the_action_is_one_short_line(store):
    mm.annotate(store, attrs={"a\nb": 1, **{f"name {i}": i for i in range(100)}})
    action = history(store)[-1].action
    assert action.startswith("annotate a b, name 0, name 1")
    assert len(action) == 200
    assert action.endswith("...")
    commit(store, lambda m: replace(m, attrs={}), action="save of \udcff.mm")
    assert history(store)[-1].action == "save of \\udcff.mm"


def test_amounts():
    assert [amount(n, "row") for n in (0, 1, 2, 12345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]


def test_a_store_that_lost_its_manifest_is_not_made_anew(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.extend({"x": [1]})
        w.checkpoint()
        w.extend({"x": [2]})
    (path / "manifest.json").unlink()
    copy = r"copy history/00000002\.json to manifest\.json"
    with pytest.raises(mm.StoreNotFoundError, match=copy):
        mm.open(path)
    with pytest.raises(mm.StoreExistsError, match=copy):
        mm.create(path)
    (path / "manifest.json").write_bytes((path / "history" / "00000002.json").read_bytes())
    assert mm.open(path)["x"].compute().tolist() == [1, 2]
    assert mm.verify(path).ok
