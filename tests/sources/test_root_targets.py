"""Conversions into zarr arrays, on disk and behind URLs: the rows, resuming, and kills are as those of plain files."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import awkward as ak
import fsspec
import numpy as np
import pytest
from root_tools import A, B, C, events, labelled, rewrite, write_tree

import mmdask as mm
from mmdask.rows.reading.reader import read
from mmdask.sources.converting import conversion, work
from mmdask.store.layer import read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.snapshot import open_snapshot
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import fits, form_of
from tests.store.s3_server import s3_server

FINE = mm.Zarr(chunk_rows=16, shards=2)
NUMBERS = itertools.count()
PLACES = ["zarr", "memory", "s3"]


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    """Where a new store of zarr arrays may be."""
    if request.param == "zarr":
        return str(tmp_path / f"zarr-{next(NUMBERS)}.mm")
    above = request.getfixturevalue("bucket") if request.param == "s3" else "memory://targets"
    return f"{above}/target-{next(NUMBERS)}.mm"


def convert(sources, path, **options):
    return mm.from_root(sources, path, progress=False, **options)


def same_rows(path, other):
    """Both stores have the same fields, and their bytes are equal; the first one has zarr arrays."""
    mine, theirs = open_snapshot(path), open_snapshot(other)
    assert all(spec.zarr for i in mine.manifest.layers for spec in read_layer(str(path), i).arrays)
    assert mine.manifest.zarr
    assert list(mine.schema.values()) == list(theirs.schema.values())
    assert [p.rows for p in mine.manifest.parts] == [p.rows for p in theirs.manifest.parts]
    for name in mine.schema:
        a, b = read(mine, name, 0, mine.rows), read(theirs, name, 0, theirs.rows)
        assert a.labels == b.labels
        for x, y in zip(arrays(a), arrays(b), strict=True):
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name
    assert mm.verify(path).ok


def arrays(data):
    shapes = [] if data.shapes is None else [data.shapes]
    return [data.values, *data.offsets, *shapes, *(v for v in data.valid if v is not None)]


def more_rows():
    """Rows that are appended by other means; a list of a TTree has a counter beside it."""
    rows = events(3, 9)
    return {**rows, "npt": ak.to_numpy(ak.num(rows["pt"])).astype("i4")}


def folders(path):
    """The layers that are complete, and the arrays in the folder of each that none of them is."""
    storage = storage_of(str(path))
    complete, left = set(), []
    for entry in storage.entries("parts"):
        names = {e.name for e in storage.entries("parts", entry.name)}
        if "part.json" not in names or ".tmp-" in entry.name:
            left += sorted(names)
            continue
        complete.add(entry.name)
        layer = read_layer(path, entry.name)
        left += sorted(names - {"part.json", "zarr.json"} - {spec.file for spec in layer.arrays})
    return complete, left


# Rows -----------------------------------------------------------------------------------------------------------------


def test_all_kinds_are_those_of_plain_files(tmp_path, place):
    rng = np.random.default_rng(1)
    n = 100
    counts = rng.integers(0, 4, n)
    deep = ak.Array([[list(range(i % 3)) for _ in range(i % 4)] for i in range(n)])
    chunk = {
        "met": np.where(np.arange(n) % 7 == 0, np.float32(np.nan), rng.normal(size=n).astype("f4")),
        "number": np.arange(n) + (1 << 53) + 1,
        "flag": np.arange(n) % 3 == 0,
        "p": rng.normal(size=(n, 2, 3)),
        "pt": ak.unflatten(rng.random(int(counts.sum()), np.float32), counts),
        "name": ak.Array([f"ä{i}" * (i % 3) for i in range(n)]),
    }
    trees = [tmp_path / f"{i}.root" for i in range(2)]
    import uproot

    for i, tree in enumerate(trees):
        data = {**chunk, "deep": deep, **({"extra": np.arange(n, dtype="i2")} if i else {})}
        with uproot.recreate(tree) as file:
            file.mkrntuple("events", data)
    options = {
        "cut": "number % 5 != 0",
        "aliases": {"ht": "sum(pt)", "lead": "max(pt)"},
        "weights": ["number % 7"],
        "pad": {"pt": (3, -1.0)},
        "rename": {"met": "missing"},
        "on_mismatch": "promote",
    }
    sources = labelled(list(map(str, trees)), process=["a", "b"], year=[2016, 2017])
    plain = convert(sources, tmp_path / "plain.mm", **options)
    ds = convert(sources, place, backend=FINE, **options)
    same_rows(place, tmp_path / "plain.mm")
    assert {f.kind for f in ds.schema.values()} == {"dense", "ragged", "string", "category"}
    assert ds.schema["extra"].optional
    assert [(s.weights, s.rows) for s in ds.sources] == [(s.weights, s.rows) for s in plain.sources]
    assert len(ds[ds.cut("lead > 0.5")]) == len(plain[plain.cut("lead > 0.5")])


def test_zarr_itself_reads_what_was_converted(tmp_path, files):
    zarr = pytest.importorskip("zarr")
    out = tmp_path / "o.mm"
    convert(files[0], out, backend=FINE)
    [met] = out.glob("parts/*/*-met")
    found = np.asarray(zarr.open(met, mode="r")[...])
    assert found.tobytes() == np.concatenate([c["met"] for c in A]).tobytes()


def test_what_changes_is_converted_and_nothing_else(tmp_path, files, place, opened):
    """New, changed, removed files; rows, fields and labels that came otherwise; plans."""
    plain = str(tmp_path / "plain.mm")
    both = [(plain, {}), (place, {"backend": FINE})]

    def step(sources, expected, plan="", **options):
        for path, backend in both:
            if plan:
                assert plan in repr(convert(sources, path, plan=True, **backend, **options))
            opened.clear()
            convert(sources, path, **backend, **options)
            assert set(opened) == set(expected)
        same_rows(place, plain)

    sources = labelled(files, process=["a", "b", "a"])
    step(dict(list(sources.items())[:2]), ["a.root", "b.root"])
    step(dict(list(sources.items())[:2]), [], plan="2 to keep: nothing to do")
    step(sources, ["c.root"], plan="2 to keep, 1 to convert")
    for path, _ in both:
        with mm.append(path, labels={"process": "other"}) as w:
            w.extend(more_rows())
        mm.assign(path, progress=False, ht="sum(pt)")
    rewrite(files[1], [events(7, 8)])
    step(sources, ["b.root"], plan="1 to replace")
    for path, _ in both:
        mm.compact(path, progress=False)
    step(sources, [])
    del sources[files[0]]
    step(sources, [], missing="drop", plan="1 to drop")
    step({f: {"process": "z"} for f in sources}, [], plan="label")
    # without backend= the store goes on as it was made
    convert({f: {"process": "z"} for f in [*sources, files[0]]}, place)
    mm.vacuum(place, keep=1, grace=0)
    assert mm.verify(place).ok
    assert not mm.verify(place).notes
    assert all(spec.zarr for i in open_snapshot(place).manifest.layers for spec in read_layer(place, i).arrays)


def test_options_that_change(files, place):
    convert(files, place, backend=FINE)
    with pytest.raises(mm.OptionError, match=r"fields was None and is \['met'\]"):
        convert(files, place, fields=["met"])
    ds = convert(files, place, fields=["met"], update=True)
    assert list(ds) == ["met"]
    assert ds.generation == 2


# Backends -------------------------------------------------------------------------------------------------------------


def test_a_store_keeps_its_backend(tmp_path, files, place):
    zstd = mm.Zarr(codec="zstd", keepbits=9)
    convert(files[:2], place, backend=zstd)
    for other in ("zarr", mm.Zarr(codec="zstd"), mm.Zarr(codec="zstd", keepbits=9, chunk_rows=2)):
        for update in (False, True):
            with pytest.raises(mm.OptionError, match=r"made with backend=mm\.Zarr\(codec='zstd', keepbits=9\), and"):
                convert(files, place, backend=other, update=update)
    assert len(convert(files, place, backend=zstd)) == 60
    plain = tmp_path / "plain.mm"
    convert(files, plain)
    with pytest.raises(mm.OptionError, match="made with backend='memmap', and 'zarr' is asked for"):
        convert(files, plain, backend="zarr")
    with pytest.raises(mm.OptionError, match="backend is 'memmap', 'zarr'"):
        convert(files, tmp_path / "new.mm", backend="hdf5")
    assert not (tmp_path / "new.mm").exists()


@pytest.mark.parametrize(("first", "then"), [(None, FINE), (FINE, None), (FINE, mm.Zarr("none"))])
def test_a_conversion_that_was_begun_otherwise(files, tmp_path, monkeypatch, first, then):
    """What a dead call left in another form is never taken for what is asked for now."""
    out = tmp_path / "o.mm"
    interrupt(monkeypatch, files, out, 2, backend=first)
    before, _ = folders(out)
    assert len(before) == 2
    with pytest.raises(mm.OptionError, match="begun to be converted with backend="):
        convert(files, out, backend=then or "memmap")
    convert(files, out, backend=then or "memmap", update=True)
    check_rows(out, A, B, C)
    layers = open_snapshot(out).manifest.layers
    assert not layers & before
    assert all((spec.zarr is not None) == (then is not None) for i in layers for spec in read_layer(out, i).arrays)
    assert mm.verify(out).ok
    with mm.append(out) as w:
        w.extend(more_rows())
    assert mm.verify(out).ok


def test_two_calls_that_begin_with_other_backends(files, tmp_path, monkeypatch):
    out, original = str(tmp_path / "o.mm"), conversion._make_layers

    def meanwhile(*args):
        made = original(*args)
        monkeypatch.setattr(conversion, "_make_layers", original)
        with pytest.raises(RuntimeError), monkeypatch.context() as m:
            m.setattr(conversion, "_make_layers", lambda *a: (_ for _ in ()).throw(RuntimeError))
            convert(files, out, backend=FINE, update=True)
        return made

    monkeypatch.setattr(conversion, "_make_layers", meanwhile)
    with pytest.raises(mm.ConflictError, match="another backend"):
        convert(files, out, backend="memmap")
    convert(files, out)
    check_rows(out, A, B, C)
    assert mm.verify(out).ok


@pytest.mark.parametrize("ends", [False, True], ids=["begins", "ends"])
@pytest.mark.parametrize("when", ["begin", "_make_layers"])
@pytest.mark.parametrize(("mine", "others"), [("memmap", FINE), (FINE, "memmap"), (FINE, mm.Zarr(keepbits=3))])
def test_another_call_never_decides_how_arrays_are_stored(files, tmp_path, monkeypatch, mine, others, when, ends):
    """Neither do arrays become others than those asked for, nor does the other call's store."""
    out, original = str(tmp_path / "o.mm"), {name: getattr(conversion, name) for name in (when, "_make_layers")}

    def meanwhile(*args):
        for name, function in original.items():
            monkeypatch.setattr(conversion, name, function)
        with contextlib.nullcontext() if ends else pytest.raises(ZeroDivisionError), monkeypatch.context() as m:
            if not ends:
                m.setattr(conversion, "_make_layers", lambda *a: 1 / 0)
            convert(files, out, backend=others, update=True)
        return original[when](*args)

    monkeypatch.setattr(conversion, when, meanwhile)
    if when == "begin" and not ends:
        made = mine
        convert(files, out, backend=mine)
    else:
        made = others
        with pytest.raises(mm.ConflictError, match="with another backend"):
            convert(files, out, backend=mine)
        convert(files, out)
    form = open_snapshot(out).manifest.zarr
    assert fits(None if made == "memmap" else made, form)
    assert form_of(out) == form
    assert len(mm.open(out)) == 60
    assert mm.verify(out).ok


def test_a_form_that_was_lost_is_there_again_before_rows_are_converted(files, tmp_path):
    """Else these rows would be of another form, and found finished by each call after that."""
    out = tmp_path / "o.mm"
    convert(files[:2], out, backend=FINE)
    (out / "zarr.json").unlink()
    convert(files, out)
    check_rows(out, A, B, C)
    assert mm.verify(out).ok


def check_rows(path, *chunks):
    ds = mm.open(path)
    expected = [c for of in chunks for c in of]
    assert ds["met"].compute().tobytes() == np.concatenate([c["met"] for c in expected]).tobytes()
    assert ds["pt"].to_list() == ak.to_list(ak.concatenate([c["pt"] for c in expected]))


def test_what_is_in_the_way(tmp_path, files, place, monkeypatch):
    mm.from_arrays({"x": [1]}, place, backend="zarr")
    with pytest.raises(mm.StoreExistsError, match="not converted from ROOT files"):
        convert(files, place)
    other = f"{place}-other"
    if place.startswith("/"):
        os.mkdir(other)
        Path(other, "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    else:
        storage_of(other).write(b"", "something")
    with pytest.raises(mm.StoreExistsError, match="exists and is not a store"):
        convert(files, other)


def test_nothing_is_converted_to_what_cannot_be_written(files):
    with pytest.raises(mm.OptionError, match="read, and not written"):
        convert(files, "https://127.0.0.1:9/o.mm")


def test_memory_has_no_other_processes(files):
    with pytest.raises(mm.OptionError, match=r"in the memory of this process.*workers=1"):
        convert(files, "memory://targets/never.mm", workers=2)
    with pytest.raises(mm.StoreNotFoundError):
        mm.open("memory://targets/never.mm")


def test_credentials_are_nowhere(files, bucket, capfd):
    url = f"{bucket}/secrets.mm"
    with pytest.raises(mm.OptionError, match="password") as refused:
        convert(files, url.replace("s3://", "s3://me:hunter2@"))
    assert "hunter2" not in str(refused.value)
    ds = mm.from_root(files, url, workers=2, progress=True)
    fs = fsspec.filesystem("s3")
    stored = b"".join(fs.cat_file(key) for key in fs.find(url))
    shown = capfd.readouterr()
    for text in (stored, repr(ds).encode(), (shown.out + shown.err).encode()):
        assert b"never-shown" not in text
        assert b"127.0.0.1" not in text
    assert b"s3://" not in stored
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    os.environ["AWS_ENDPOINT_URL"], before = "http://127.0.0.1:9", os.environ["AWS_ENDPOINT_URL"]
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with pytest.raises((OSError, mm.MmdaskError)) as caught:
            convert(files, f"{bucket}/unreachable.mm")
    finally:
        os.environ["AWS_ENDPOINT_URL"] = before
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert secret not in f"{caught.value!r} {caught.value} {getattr(caught.value, '__notes__', '')}"


def test_in_the_shell(files, bucket, tmp_path):
    url = f"{bucket}/shell.mm"
    command = [sys.executable, "-m", "mmdask", "convert", *files, "--quiet", "-o"]
    subprocess.run([*command, url], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "z.mm"), "--backend", "zarr"], check=True, capture_output=True)
    convert(files, tmp_path / "plain.mm")
    same_rows(url, tmp_path / "plain.mm")
    same_rows(tmp_path / "z.mm", tmp_path / "plain.mm")
    assert list(tmp_path.glob("z.mm/parts/*/zarr.json"))
    wrong = subprocess.run([*command, url, "--backend", "memmap"], check=False, capture_output=True, text=True)
    assert wrong.returncode
    assert "nothing can be mapped" in wrong.stderr


# What breaks in the middle --------------------------------------------------------------------------------------------


def interrupt(monkeypatch, files, path, n, **options):
    """Convert, and fail while the layer after `n` is written."""
    original, done = LayerWriter.finish, itertools.count()

    def finish(self, *args, **kwargs):
        if next(done) == n:
            raise RuntimeError("interrupted")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as m, pytest.raises(RuntimeError, match="interrupted"):
        m.setattr(LayerWriter, "finish", finish)
        convert(files, path, **options)


def test_what_was_finished_stays(tmp_path, files, place, opened, monkeypatch):
    interrupt(monkeypatch, files, place, 1, backend=FINE)
    complete, left = folders(place)
    assert len(complete) == 1
    assert left == [], "an error leaves no arrays"
    with pytest.raises(mm.UnfinishedError, match="did not finish"):
        mm.open(place)
    opened.clear()
    convert(files, place)
    assert "a.root" not in opened
    assert {"b.root", "c.root"} == set(opened)
    convert(files, tmp_path / "plain.mm")
    same_rows(place, tmp_path / "plain.mm")
    assert complete < open_snapshot(place).manifest.layers


def failing(original, calls, k):
    def call(*args, **options):
        if next(calls) == k:
            raise OSError("the network is down")
        return original(*args, **options)

    return call


def test_a_file_system_that_fails_at_any_call(files, monkeypatch):
    """The k-th request fails: whatever is left, the same call ends the conversion."""
    from fsspec.implementations.memory import MemoryFileSystem

    for k in itertools.count():
        url = f"memory://targets/failing-{k}.mm"
        calls = itertools.count()
        with monkeypatch.context() as m:
            for name in ("cat_file", "info", "ls", "pipe_file"):
                m.setattr(MemoryFileSystem, name, failing(getattr(MemoryFileSystem, name), calls, k))
            with contextlib.suppress(OSError, mm.MmdaskError):
                convert(files[0], url, backend=FINE)
        storage_of(url).commits.clear()
        convert(files[0], url)
        check_rows(url, A)
        mm.vacuum(url, grace=0)
        assert folders(url)[1] == [], k
        assert mm.verify(url).ok
        if next(calls) <= k:
            break
    assert k > 10


SCRIPT = """
import os, signal, sys
from mmdask.sources.converting.conversion import convert
from mmdask.sources.converting.inputs import find_inputs
from mmdask.sources.root.reader import RootFiles
import mmdask as mm

out, log, n, last, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), os.getpid()

class Mortal(RootFiles):
    # of a script, so that it reaches the workers by value; each process counts the objects that it writes
    def open(self, table):
        from mmdask.store.zarr.writer import ZarrWriter
        with open(log, "a") as f:
            f.write(f"{os.path.basename(table.source.path)}\\n")
        if not hasattr(ZarrWriter, "written"):
            ZarrWriter.written, original = 0, ZarrWriter._write_object
            def write(self):
                original(self)
                getattr(self._files, "_wait", int)()  # until it is put
                ZarrWriter.written += 1
                if ZarrWriter.written == last:
                    if os.getppid() == first:  # and not who takes its place when another killed it
                        os.kill(first, signal.SIGKILL)
                    os.kill(os.getpid(), signal.SIGKILL)
            ZarrWriter._write_object = write
        return super().open(table)

options = {"update": False, "missing": "error", "progress": False, "workers": n}
options["backend"] = mm.Zarr(chunk_rows=32, shards=1)
convert(find_inputs(sys.argv[5:], None)[0], [], out, Mortal(None, (), 1 << 30), **options)
"""


def start(files, out, log, n, last=0):
    log.write_text("")
    command = [sys.executable, "-c", SCRIPT, str(out), str(log), str(n), str(last), *files]
    return subprocess.Popen(command, start_new_session=True)


def running(session):
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            found += [stat] if int(of) == session and state not in "ZX" else []
    return found


@pytest.mark.parametrize(("where", "n"), [("zarr", 1), ("zarr", 2), ("s3", 1), ("s3", 2)])
def test_kills(tmp_path, request, where, n):
    """SIGKILL in the middle of layers, twice; then the call ends it, and nothing is read twice."""
    n_files = 8 + 2 * n
    files = [write_tree(tmp_path / f"{i:02d}.root", [events(40, i)]) for i in range(n_files)]
    above = request.getfixturevalue("bucket") if where == "s3" else tmp_path
    out, log = f"{above}/killed-{n}.mm", tmp_path / "log"
    done = set()
    for last in (27, 28):  # of about 10 objects for each file
        process = start(files, out, log, n, last)
        assert process.wait(300) == -signal.SIGKILL
        # the other worker ends when it sees that nobody waits for it
        end = time.monotonic() + 300
        while running(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not set(log.read_text().split()) & {name for name, _ in done}, "what was finished is not read again"
        with pytest.raises(mm.UnfinishedError):
            mm.open(out)
        before = done
        complete, left = folders(out)
        done = {(os.path.basename(read_layer(out, i).source.uri), i) for i in complete}
        assert before < done, "some more were finished"
        assert left, "and some were not"
    assert len(done) < n_files
    assert start(files, out, log, n).wait(300) == 0
    assert sorted(log.read_text().split()) == sorted({os.path.basename(f) for f in files} - {name for name, _ in done})
    convert(files, tmp_path / "plain.mm")
    same_rows(out, tmp_path / "plain.mm")
    assert {i for _, i in done} < open_snapshot(out).manifest.layers
    assert mm.vacuum(out, grace="1h").n_layers == 0
    mm.vacuum(out, grace=0)
    complete, left = folders(out)
    assert left == []
    assert complete == open_snapshot(out).manifest.layers, "nothing is left but the layers of the store"
    assert not [e.name for e in storage_of(out).entries("parts") if ".tmp-" in e.name]
    assert mm.verify(out).ok


# Several at one layer -------------------------------------------------------------------------------------------------


FIELD = mm.Field.dense("x", "i8")


def write_layer(path, layer_id, values, meanwhile=None):
    with LayerWriter(path, layer_id) as w:
        w.field(FIELD).write(mm.schema.FieldData(np.array(values, "i8")))
        if meanwhile:
            meanwhile()
        return w.finish()


@pytest.mark.parametrize("outcome", ["ends", "fails"])
def test_two_attempts_at_a_layer(place, outcome):
    """A worker that was taken for dead ends, or fails, after another one made its layer: that stays as it is."""
    mm.from_arrays({"x": [1]}, place, backend=FINE)
    layer = []

    def other():
        layer.append(write_layer(place, "a" * 32, [7, 8, 9]))
        if outcome == "fails":
            raise RuntimeError

    try:
        assert write_layer(place, "a" * 32, [0, 0, 0], other) == layer[0]
    except RuntimeError:
        assert outcome == "fails"
    assert read_layer(place, "a" * 32) == layer[0]
    assert folders(place)[1] == [], "the slower one takes away what it wrote, and nothing else"
    from mmdask.store.commit import add_parts, commit
    from mmdask.store.manifest import Part

    schema = open_snapshot(place).schema
    commit(place, lambda m: add_parts(m, schema, [Part(3, ("a" * 32,), 24)], block_rows=1), action="add")
    assert mm.open(place)["x"].compute().tolist() == [1, 7, 8, 9]
    assert mm.verify(place).ok


def test_vacuum_removes_what_dead_attempts_left_in_a_layer(bucket):
    url = f"{bucket}/strays.mm"
    with mm.create(url, backend=FINE) as w:
        w.extend({"x": np.arange(100)})
    [layer_id] = open_snapshot(url).manifest.layers
    dead = storage_of(url).new_layer(layer_id)
    dead.write(b"1", f"0-x{dead.mark}", "c", "0")
    dead.write(b"22", f"0-x{dead.mark}", "c", "1")
    dead._wait()
    assert folders(url)[1] == [f"0-x{dead.mark}"]
    assert mm.vacuum(url, dry_run=True).n_files == 0, "it may be at work"
    assert mm.vacuum(url, grace=0, dry_run=True).n_files == 2
    assert folders(url)[1] == [f"0-x{dead.mark}"]
    report = mm.vacuum(url, grace=0)
    assert (report.n_layers, report.n_files, report.nbytes) == (0, 2, 3)
    assert folders(url)[1] == []
    assert mm.verify(url).ok
    assert mm.vacuum(url, grace=0).n_files == 0


def test_three_calls_at_once(tmp_path, files, place, monkeypatch):
    """All make every layer; one commit of each, and the same rows."""
    monkeypatch.setattr(work, "layer_exists", lambda *a: False)
    failed = []

    def call():
        try:
            convert(files, place, backend=FINE)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failed == []
    convert(files, tmp_path / "plain.mm")
    same_rows(place, tmp_path / "plain.mm")
    mm.vacuum(place, grace=0)
    assert folders(place)[1] == []
    assert mm.verify(place).ok


# Workers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["zarr", "s3"])
def test_workers(tmp_path, request, files, where):
    above = request.getfixturevalue("bucket") if where == "s3" else tmp_path
    url = f"{above}/processes.mm"
    convert(files, url, workers=2, backend=FINE)
    convert(files, tmp_path / "plain.mm")
    same_rows(url, tmp_path / "plain.mm")
    assert folders(url)[1] == []


@pytest.mark.filterwarnings("ignore")
def test_dask_workers(tmp_path, files, bucket):
    distributed = pytest.importorskip("distributed")
    convert(files, tmp_path / "plain.mm")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        for url in (f"{bucket}/dask.mm", str(tmp_path / "dask.mm")):
            convert(files, url, workers=client, backend=FINE)
            same_rows(url, tmp_path / "plain.mm")
            convert(files, url, workers=client)
        with pytest.raises(mm.OptionError, match="memory of this process"):
            convert(files, "memory://targets/dask.mm", workers=client)
