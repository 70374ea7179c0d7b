"""Stores of zarr arrays: the contract, other programs, checksums, and documents that lie."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import mmdask as mm
from mmdask.store.checking import opened
from mmdask.store.document import dump, parse
from mmdask.store.system import System
from mmdask.store.zarr import chunked as zarr_arrays
from mmdask.store.zarr.codec import decode, encode, join, split
from mmdask.store.zarr.form import rounded
from mmdask.testing import DiskBackend, StoreContract
from tests.store.few import with_few_examples

SMALL = mm.Zarr(chunk_rows=4, shards=1)
FORMS = [SMALL, mm.Zarr(codec="zstd", chunk_rows=4, shards=3), mm.Zarr(codec="none", chunk_rows=8, shards=1)]


@pytest.fixture(autouse=True)
def quick_disk(request, monkeypatch):
    """Do not wait for the disk, but where the waiting is what is tested."""
    if "real_disk" not in request.keywords.get("usefixtures", pytest.mark.usefixtures()).args:
        for name in ("fsync", "fsync_folder"):
            monkeypatch.setattr(System, name, lambda *_: None)


@pytest.fixture(autouse=True)
def nothing_is_kept():
    zarr_arrays.CHUNKS.clear()
    zarr_arrays.INDEXES.clear()


class TestZarr(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "store.mm", backend=SMALL)


class TestZarrInManyParts(with_few_examples()):
    def new_backend(self, folder):
        return DiskBackend(folder / "store.mm", backend=mm.Zarr(codec="zstd", chunk_rows=2, shards=3), part_nbytes=64)


def data(n=50):
    rng = np.random.default_rng(3)
    return {
        "x": rng.normal(size=n).astype("f4"),
        "m": rng.integers(0, 9, (n, 2, 3)),
        "hits": [rng.integers(0, 99, k).astype("i2") for k in rng.integers(0, 6, n)],
        "text": [f"row {i}" * (i % 4) for i in range(n)],
        "opt": [None if i % 3 == 0 else i for i in range(n)],
        "image": [np.full((i % 3 + 1, 2), i % 256, "u1") for i in range(n)],
    }


def make(path, form=SMALL, n=50):
    mm.from_arrays(data(n), path, backend=form)
    return str(path)


def arrays(path):
    """The arrays of the first layer, as zarr finds them, with what mmdask reads."""
    import zarr

    snapshot = mm.open(path)._rows.snapshot
    layer = snapshot.layer(snapshot.parts[0].layers[0])
    for number, spec in enumerate(layer.arrays):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that zarr calls unstable
            found = zarr.open_array(os.path.join(layer.path, spec.file), mode="r")
            yield found, spec, snapshot.read(layer, number, 0, spec.shape[0])


# Other programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_zarr_reads_every_array(tmp_path, form):
    """§9.1, §9.5"""
    n = 0
    for found, spec, values in arrays(make(tmp_path / "s.mm", form)):
        assert found.shape == spec.shape
        assert found.dtype == spec.dtype
        assert found[:].tobytes() == values.tobytes()
        n += 1
    assert n == 11


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "c8", "c16", "M8[ns]", "m8[25s]", "S3", "S300"])
@pytest.mark.parametrize("shards", [1, 2])
def test_zarr_reads_every_dtype(tmp_path, dtype, shards):
    values = np.zeros(11, dtype)
    raw = values.view("u1")
    raw[:: 2 if dtype == "?" else 3] = 1
    mm.from_arrays({"x": values}, tmp_path / "s.mm", backend=mm.Zarr(chunk_rows=4, shards=shards))
    [(found, spec, read)] = arrays(tmp_path / "s.mm")
    assert found[:].tobytes() == read.tobytes() == values.tobytes()
    assert found.dtype == spec.dtype == values.dtype


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_zarr_writes_is_decoded(tmp_path, codec):
    import zarr

    values = np.arange(40, dtype="f8").reshape(10, 4)
    a = zarr.create_array(
        tmp_path / "a",
        shape=values.shape,
        chunks=(4, 4),
        shards=(8, 4),
        dtype="f8",
        compressors=[zarr.codecs.BloscCodec(cname=codec, clevel=3, shuffle="shuffle")],
    )
    a[:] = values
    whole = Path(tmp_path, "a", "c", "0", "0").read_bytes()
    for i, (start, stop) in enumerate(split(whole[-36:], 2, len(whole))):
        out = np.empty(128, "u1")
        decode(whole[start:stop], codec, out)
        assert (out.view("f8").reshape(4, 4) == values[4 * i : 4 * i + 4]).all()


def test_reading_needs_no_document_of_zarr(tmp_path):
    """§9.2, §9.6"""
    path = make(tmp_path / "s.mm")
    expected = mm.open(path)["hits"].to_list()
    files = list(Path(path).rglob("zarr.json"))
    assert len(files) > 10
    for file in files:
        file.unlink()
    assert mm.open(path)["hits"].to_list() == expected
    assert {p.file.rsplit("/", 1)[-1] for p in mm.verify(path).problems} >= {"zarr.json"}


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(tmp_path, form):
    one = mm.from_arrays(data(), tmp_path / "m.mm", attrs={"a": 1}, aux={"edges": [0.0, 1.0]})
    two = one.save(tmp_path / "z.mm", backend=form, progress=False)
    three = two.save(tmp_path / "n.mm", progress=False, backend="memmap")
    for name in one:
        expected = str(list(one[name].compute()))
        assert str(list(two[name].compute())) == str(list(three[name].compute())) == expected
        rows = np.array([7, 0, 49, 7, 23])
        taken = [str(ds._rows.take(name, rows)) for ds in (one, two)]
        assert taken[0] == taken[1]
    assert two.aux["edges"].tolist() == [0.0, 1.0]
    for ds in (two, three):
        assert mm.verify(ds.path).ok
    with open(tmp_path / "n.mm" / "manifest.json") as file:
        assert "zarr" not in file.read()


def test_rows_that_come_later_are_stored_alike(tmp_path):
    """§9.2"""
    path = make(tmp_path / "s.mm", FORMS[1])
    with mm.append(path) as w:
        w.extend(data(9))
    mm.assign(path, progress=False, y="2 * x")
    mm.compact(path, progress=False)
    assert not list(Path(path).rglob("*.npy"))
    assert mm.verify(path).ok
    assert mm.open(path)["y"].compute().tolist() == [2 * x for x in mm.open(path)["x"].compute().tolist()]


def test_labels_beyond_a_byte(tmp_path):
    path, labels = tmp_path / "s.mm", [f"label {i}" for i in range(300)]
    with mm.create(path, fields=[mm.Field.category("c")], backend=SMALL) as w:
        for start in range(0, 300, 50):
            w.extend({"c": labels[start : start + 50]})
    assert list(mm.open(path)["c"].compute()) == labels
    assert mm.verify(path).ok


def test_equal_offsets_are_stored_once(tmp_path):
    rows = [[1, 2], [], [3]] * 5
    ds = mm.from_arrays({"a": rows, "b": [[x / 2 for x in r] for r in rows]}, tmp_path / "s.mm", backend=SMALL)
    snapshot = ds._rows.snapshot
    layer = snapshot.layer(snapshot.parts[0].layers[0])
    assert layer.fields["a"].offsets == layer.fields["b"].offsets
    assert len(list(Path(layer.path).glob("*.offsets"))) == 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_rounded_reals(tmp_path, dtype):
    """§9.7"""
    rng = np.random.default_rng(1)
    real = np.dtype(dtype).type(0).real.dtype
    values = (rng.normal(size=200) * 10.0 ** rng.integers(-3, 4, 200)).astype(dtype)
    values[:4] = [np.inf, -np.inf, np.nan, np.finfo(real).max]
    ds = mm.from_arrays({"x": values}, tmp_path / "s.mm", backend=mm.Zarr(keepbits=5))
    found = ds["x"].compute()
    assert np.array_equal(found, rounded(values, 5), equal_nan=True)
    both = np.isfinite(values.view(real)) & (np.abs(values.view(real)) > np.finfo(real).tiny)
    error = np.abs(found.view(real)[both] / values.view(real)[both].astype("f8") - 1)
    assert error.max() <= 2**-6
    assert not (found.view(real).view(f"u{real.itemsize}")[both][4:] & ((1 << np.finfo(real).nmant - 5) - 1)).any()
    assert mm.verify(ds.path).ok, "what is kept of the values is of the rounded ones"


def test_rounding_makes_files_small(tmp_path):
    values = np.random.default_rng(0).normal(size=1 << 14).astype("f4")
    sizes = []
    for keepbits in (None, 7):
        path = tmp_path / f"{keepbits}.mm"
        mm.from_arrays({"x": values}, path, backend=mm.Zarr(codec="zstd", keepbits=keepbits))
        sizes.append(sum(f.stat().st_size for f in path.rglob("c/*")))
    assert sizes[1] < 0.65 * sizes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "gzip"}, "'lz4', 'zstd', 'none'"),
        ({"chunk_rows": 1000}, "power of two"),
        ({"chunk_rows": 0}, "power of two"),
        ({"shards": 0}, "number of chunks"),
        ({"keepbits": 0}, "number of bits"),
    ],
)
def test_options_that_are_none(options, words):
    with pytest.raises(mm.OptionError, match=words):
        mm.Zarr(**options)


def test_a_backend_that_is_none(tmp_path):
    with pytest.raises(mm.OptionError, match="backend is 'memmap', 'zarr' or an mm.Zarr"):
        mm.create(tmp_path / "s.mm", backend="hdf5")


# Damage ---------------------------------------------------------------------------------------------------------------


def files_of(path):
    return sorted(f for f in Path(path).rglob("*") if f.is_file() and f.name not in (".lock",))


def damaged(path, file, how, rng):
    raw = bytearray(file.read_bytes())
    if how == "flip":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del raw[rng.randrange(len(raw)) :]
    elif how == "more":
        raw += b"\0"
    file.write_bytes(raw)
    if how == "gone":
        file.unlink()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["flip", "cut", "more", "gone"])
def test_every_damage_is_found(tmp_path, form, how):
    """§9.3, §9.4"""
    rng = random.Random(repr((form, how)))
    path = make(tmp_path / "s.mm", form, n=20)
    files = files_of(path)
    for file in rng.sample(files, 16):
        if how == "gone" and file.parent.name == "history":
            continue  # as vacuum takes them
        name = file.relative_to(path).as_posix()
        copy = tmp_path / "copy.mm"
        shutil.copytree(path, copy)
        damaged(copy, copy / name, how, rng)
        zarr_arrays.CHUNKS.clear()
        zarr_arrays.INDEXES.clear()
        try:
            report = mm.verify(copy)
        except (mm.MmdaskError, FileNotFoundError):
            assert name == "manifest.json"
        else:
            assert not report.ok, name
            named = {p.file for p in report.problems}
            assert any(name == f or name.startswith(f + "/") for f in named), (name, named)
            assert all(name == f or name.startswith(f + "/") for f in named), (name, named)
            with contextlib.suppress(mm.MmdaskError):  # an error of ours, or values of this size
                assert len(mm.open(copy)._rows.read("x", 0, 20)) == 20
        shutil.rmtree(copy)


def test_without_the_hash_of_what_is_stored_some_flips_are_not_found(tmp_path, monkeypatch):
    """A mutant: the test above has teeth."""
    path = make(tmp_path / "s.mm", mm.Zarr(chunk_rows=64, shards=1), n=300)
    [chunk] = [f for f in files_of(path) if f.parts[-3] == "0-x" and f.name == "0"]
    original = chunk.read_bytes()

    def missed():
        n = 0
        for at in range(16):
            raw = bytearray(original)
            raw[at] ^= 1
            chunk.write_bytes(raw)
            n += mm.verify(path).ok
        return n

    assert missed() == 0
    monkeypatch.setattr(opened._ZarrFiles, "extent_problem", lambda *_: "")
    assert missed() > 0


def changed(path, change):
    """Change a part.json, checksum and all."""
    [file] = Path(path).glob("parts/*/part.json")
    document = parse(file.read_bytes(), "")
    document.pop("checksum")
    change(document)
    file.write_bytes(dump(document))


def x_of(document):
    return document["arrays"][document["fields"]["x"]["values"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: x_of(d).pop("zarr"),
        lambda d: x_of(d)["zarr"].update(codec="pickle"),
        lambda d: x_of(d)["zarr"].update(chunk=2**40),
        lambda d: x_of(d)["zarr"].update(sizes=[2**50] * 13),
        lambda d: x_of(d)["zarr"].update(sizes=[1] * 13),
        lambda d: x_of(d)["zarr"].update(chunk=2),
        lambda d: x_of(d)["zarr"].update(shards=2),
        lambda d: x_of(d)["zarr"].update(codec="none"),
        lambda d: x_of(d).update(file="../../../etc/passwd"),
        lambda d: x_of(d).update(file="0-x/../../x"),
        lambda d: x_of(d).update(shape=[2**40]),
        lambda d: x_of(d).update(dtype="<f8"),
    ],
)
def test_a_part_that_lies(tmp_path, change):
    """§9.1, §9.3"""
    path = make(tmp_path / "s.mm")
    changed(path, change)
    with pytest.raises(mm.MmdaskError):
        mm.open(path)["x"].compute()
    assert not mm.verify(path).ok


def test_files_where_zarr_is_required(tmp_path):
    """§9.1"""
    path = make(tmp_path / "s.mm")
    other = mm.from_arrays({"x": data()["x"]}, tmp_path / "other.mm").path
    [here], [there] = Path(path).glob("parts/*"), Path(other).glob("parts/*")
    shutil.rmtree(here)
    shutil.copytree(there, here)
    changed(path, lambda d: d.update(id=here.name))
    with pytest.raises(mm.CorruptStoreError, match="not stored in the form"):
        mm.open(path)["x"].compute()


def bomb(nbytes):
    """What says that it is a chunk of so many bytes."""
    return bytes([2, 1, 33, 4]) + nbytes.to_bytes(4, "little") + bytes(4) + (100).to_bytes(4, "little") + bytes(84)


@pytest.mark.parametrize("data", [bomb(2**32 - 1), bomb(16), b"", bytes(16), bytes(100), encode(np.zeros(5), "lz4")])
def test_chunks_of_another_size(data):
    """§9.4"""
    with pytest.raises(OSError):
        decode(data, "lz4", np.empty(32, "u1"))


def test_indexes_that_lead_elsewhere():
    """§9.5"""
    good = join([b"abc", b"de"], 3)
    assert split(good[-52:], 3, len(good)) == [(0, 3), (3, 5), (0, 0)]
    with pytest.raises(OSError, match="damaged index"):
        split(good[-52:-1] + b"\0", 3, len(good))
    far = join([b"abc", b"de"], 3)[5:]
    with pytest.raises(OSError, match="lead out"):
        split(far[-52:], 3, 54)
    with pytest.raises(OSError, match="damaged index"):
        split(b"", 3, 0)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_no_link_is_followed(tmp_path, kind):
    path = make(tmp_path / "s.mm")
    [chunk] = Path(path).glob("parts/*/0-x/c/0")
    aside = tmp_path / "aside"
    if kind == "folder link":
        shutil.move(chunk.parent, aside)
        chunk.parent.symlink_to(aside)
    else:
        shutil.move(chunk, aside)
        chunk.symlink_to(aside) if kind == "link" else os.mkfifo(chunk)
    with pytest.raises(mm.CorruptStoreError):
        mm.open(path)["x"].compute()
    assert not mm.verify(path).ok


# The disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_disk")
def test_everything_is_durable_before_it_is_named(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", FORMS[1])
    made, synced = set(), set()
    original = {name: getattr(System, name) for name in ("create", "mkdir", "fsync", "fsync_folder", "rename")}

    def recorded(name, note):
        def call(self, *args):
            note(*args)
            return original[name](self, *args)

        monkeypatch.setattr(System, name, call)

    def rename(old, new):
        if ".tmp-" in old and os.path.isdir(old):
            inside = {m for m in made if m.startswith(old)}
            assert len(inside) > 30
            assert inside <= synced

    recorded("create", made.add)
    recorded("mkdir", made.add)
    recorded("fsync", lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")))
    recorded("fsync_folder", synced.add)
    recorded("rename", rename)
    with mm.append(path) as w:
        w.extend(data(9))


@pytest.fixture
def real_disk():
    pass


@pytest.mark.parametrize("for_good", [False, True])
def test_a_call_that_fails_leaves_the_old_state_or_the_new_one(tmp_path, monkeypatch, for_good):
    originals = {n: getattr(System, n) for n in ("create", "write", "fsync", "fsync_folder", "rename", "mkdir")}
    for k in range(1, 200):
        path = str(tmp_path / f"{k}.mm")
        mm.from_arrays({"x": range(10), "r": [[1]] * 10}, path, backend=SMALL)
        n = 0
        with monkeypatch.context() as patch:
            for name, original in originals.items():

                def call(self, *args, original=original, k=k):
                    nonlocal n
                    n += 1
                    if n == k or (for_good and n > k):
                        raise OSError(28, "no space")
                    return original(self, *args)

                patch.setattr(System, name, call)
            with contextlib.suppress(OSError), mm.append(path) as w:
                w.append({"x": 10, "r": []})
                w.append({"x": 11, "r": [1, 2]})
        rows = mm.open(path)["x"].compute().tolist()
        assert rows in (list(range(10)), list(range(12)))
        assert mm.verify(path).ok
        with mm.append(path) as w:
            w.append({"x": 99, "r": []})
        assert mm.open(path)["x"].compute().tolist() == [*rows, 99]
        mm.vacuum(path, grace=0)
        assert not mm.verify(path).notes
        if n < k:
            return
    raise AssertionError("it never went well")


# Batches --------------------------------------------------------------------------------------------------------------


def test_each_chunk_is_decoded_once_for_a_window(tmp_path, monkeypatch):
    n = 1 << 12
    mm.from_arrays(
        {"x": np.arange(n), "y": np.arange(n, dtype="f4")}, tmp_path / "s.mm", backend=mm.Zarr(chunk_rows=64)
    )
    decoded = []
    original = zarr_arrays.decode
    monkeypatch.setattr(zarr_arrays, "decode", lambda *args: (decoded.append(1), original(*args))[1])
    loader = mm.open(tmp_path / "s.mm").batches(100, seed=1)
    assert loader.grain.block == 64
    rows = np.concatenate([b["x"] for b in loader])
    assert sorted(rows.tolist()) == list(range(n))
    assert rows.tolist() != list(range(n))
    assert len(decoded) == 2 * n // 64


def test_blocks_of_chunks_are_for_chunks(tmp_path):
    ds = mm.from_arrays({"x": range(10)}, tmp_path / "m.mm")
    with pytest.raises(mm.OptionError, match="stores of zarr arrays"):
        ds.batches(2, block="chunk")


def test_the_same_batches_for_the_same_block(tmp_path):
    one = mm.from_arrays(data(200), tmp_path / "m.mm")
    two = one.save(tmp_path / "z.mm", backend=SMALL, progress=False)
    for options in ({"block": 8, "window": 4096}, {"shuffle": "exact"}, {"shuffle": False}):
        for a, b in zip(one.batches(32, seed=2, **options), two.batches(32, seed=2, **options), strict=True):
            assert {k: str(v) for k, v in a.items()} == {k: str(v) for k, v in b.items()}


def test_views_of_zarr_stores(tmp_path):
    one = mm.from_arrays(data(40), tmp_path / "m.mm")
    two = one.save(tmp_path / "z.mm", backend=SMALL, progress=False)
    for make_view in (lambda ds: mm.concat([ds, ds]), lambda ds: ds[ds.cut("x > 0")], lambda ds: mm.concat([one, ds])):
        a, b = make_view(one), make_view(two)
        rows = np.arange(len(a))[::-3]
        for name in a:
            assert str(a._rows.take(name, rows)) == str(b._rows.take(name, rows))


# Arrays of others -----------------------------------------------------------------------------------------------------


def test_arrays_of_zarr_are_copied(tmp_path):
    import zarr

    group = zarr.create_group(tmp_path / "g.zarr")
    x, y = np.arange(20, dtype="i4"), np.arange(60.0).reshape(20, 3)
    group.create_array("x", shape=x.shape, chunks=(7,), dtype=x.dtype)[:] = x
    group.create_array("jets/y", shape=y.shape, chunks=(7, 2), dtype=y.dtype)[:] = y
    ds = mm.from_zarr(tmp_path / "g.zarr", tmp_path / "a.mm", backend="zarr", attrs={"n": 1})
    assert set(ds) == {"x", "jets/y"}
    assert (ds["jets/y"].compute() == y).all()
    assert ds.attrs["n"] == 1
    assert list(mm.from_zarr(group, tmp_path / "b.mm", fields="j*")) == ["jets/y"]
    assert mm.from_zarr(group["x"], tmp_path / "c.mm")["x"].compute().tolist() == x.tolist()
    assert mm.view({"x": group["x"]})["x"].compute().tolist() == x.tolist()


def test_what_is_no_array_of_zarr(tmp_path):
    import zarr

    group = zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(mm.SourceNotFoundError, match="without arrays"):
        mm.from_zarr(group, tmp_path / "s.mm")
    with pytest.raises(mm.SourceNotFoundError, match="no array or group"):
        mm.from_zarr(tmp_path / "none.zarr", tmp_path / "s.mm")
    with pytest.raises(mm.SourceError, match="takes an array or a group"):
        mm.from_zarr([1, 2], tmp_path / "s.mm")
    group.create_array("x", shape=(3,), dtype="f4")
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'x'"):
        mm.from_zarr(group, tmp_path / "s.mm", fields="X")


def test_a_forked_child_reads_on(tmp_path):
    """What threads of the parent decode is no business of the child."""
    ds = mm.from_arrays({"x": np.arange(5000)}, tmp_path / "s.mm", backend=mm.Zarr(chunk_rows=64))
    loader = ds.batches(500, seed=1)
    expected = np.concatenate([b["x"] for b in loader]).tolist()
    pid = os.fork()
    if not pid:
        try:
            loader.set_epoch(0)
            same = np.concatenate([b["x"] for b in loader]).tolist() == expected
            same &= mm.open(tmp_path / "s.mm")["x"].sum().compute(scheduler="sync") == sum(range(5000))
            os._exit(0 if same else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_chunks_that_cannot_be_decoded_ahead_are_errors_when_they_are_asked_for(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"x": np.arange(5000)}, path, backend=mm.Zarr(chunk_rows=64, shards=1))
    [chunk] = Path(path).glob("parts/*/0-x/c/7")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(mm.CorruptStoreError, match="object 7 has"):
        list(mm.open(path).batches(1000, seed=1))
