"""Write small ROOT files, and read stores back with json and numpy alone: an oracle that shares no code with ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mmdask.sources.root import convert_root

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data at {DATA}")


def write_tree(path, chunks, name="events", *, types=None, mode=uproot.recreate, compression="zlib"):
    """One TTree of a ROOT file, one basket per branch and chunk."""
    chunks = list(chunks)
    if types is None:
        types = {
            k: ak.type(v).content if isinstance(v, ak.Array) else np.dtype((v.dtype, v.shape[1:]))
            for k, v in chunks[0].items()
        }
    if compression == "zlib":
        compression = uproot.ZLIB(1)
    options = {"compression": compression} if mode is uproot.recreate else {}
    with mode(path, **options) as file:
        tree = file.mktree(name, types)
        for chunk in chunks:
            tree.extend(chunk)
    return str(path)


def events(n, seed=0, shift=0.0):
    """A chunk of rows: two numbers and a list."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n)
    return {
        "met": rng.random(n, np.float32) + np.float32(shift),
        "number": (np.arange(n, dtype=np.int64) + (1 << 53) + 1),
        "pt": ak.unflatten(rng.random(int(counts.sum()), np.float32), counts),
    }


def columns(chunks):
    """What a store of these chunks holds."""
    chunks = list(chunks)
    return {k: ak.to_list(ak.concatenate([ak.Array(c[k]) for c in chunks])) for k in chunks[0]}


def manifest(path):
    return json.loads(Path(path, "manifest.json").read_bytes())


def part_layers(path):
    """The layers of each part, as their part.json."""
    ids = manifest(path)["parts"]["layers"]
    return [[json.loads(Path(path, "parts", i, "part.json").read_bytes()) for i in of_part] for of_part in ids]


def sources(path):
    """(file name, tree, start, stop) of each part."""
    found = []
    for layers in part_layers(path):
        s = next(layer["source"] for layer in layers if "source" in layer)
        found.append((Path(s["uri"]).name, s["tree"], s["start"], s["stop"]))
    return found


def read_store(path):
    """Every field of a store as one array: numpy for dense fields, awkward for the rest."""
    m = manifest(path)
    result = {}
    parts = part_layers(path)
    for field in m["fields"]:
        pieces = [_read_part(path, layers, field) for layers in parts]
        dense = isinstance(pieces[0], np.ndarray)
        result[field["name"]] = np.concatenate(pieces) if dense else ak.concatenate(pieces)
    return result


def _read_part(path, layers, field):
    name = field["name"]
    layer = next(layer for layer in reversed(layers) if name in layer["fields"])
    stored = layer["fields"][name]
    if "constant" in stored:
        value = stored["constant"]
        return np.full(layer["rows"], value, object if isinstance(value, str) else field["dtype"])

    def load(number):
        return np.load(Path(path, "parts", layer["id"], layer["arrays"][number]["file"]))

    values = load(stored["values"])
    if stored["kind"] == "dense":
        return values
    offsets = [ak.index.Index64(load(number)) for number in stored["offsets"]]
    if stored["kind"] == "string":
        content = ak.contents.NumpyArray(values, parameters={"__array__": "char"})
        content = ak.contents.ListOffsetArray(offsets.pop(), content, parameters={"__array__": "string"})
    else:
        content = ak.from_numpy(values, highlevel=False)
    for level in reversed(offsets):
        content = ak.contents.ListOffsetArray(level, content)
    return ak.Array(content)


def assert_same_bits(got, expected, name=""):
    """Equal dtype, shape, offsets and bytes: NaN payloads and signed zeros included.

    Bools are compared as bools: some files hold other bytes than 0 and 1, which a store must not.
    """
    mine, theirs = _arrays(got), _arrays(expected)
    assert len(mine) == len(theirs), name
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape or not a.size, name
        assert a.dtype == b.dtype or not a.size, name
        assert _bytes(a) == _bytes(b), name


def _arrays(array):
    """The offsets of all levels, from 0, and the values."""
    found = []
    layout = ak.to_layout(array)
    while layout.is_list and not layout.is_regular:
        layout = layout.to_ListOffsetArray64(True)
        found.append(np.asarray(layout.offsets.data))
        layout = layout.content[: found[-1][-1]]
    return [*found, ak.to_numpy(layout, allow_missing=False)]


def members(array, name, *, is_map=False):
    """The members of objects by the names that they get, as arrays; an array of anything else as it is."""
    if not array.fields:
        return {name: array}
    spelled = dict(zip(("0", "1"), ("key", "value"), strict=True)) if is_map else {}
    return {
        leaf: data
        for field in array.fields
        for leaf, data in members(array[field], f"{name}.{spelled.get(field, field)}").items()
    }


def _bytes(array):
    array = np.ascontiguousarray(array)
    return (array.view("u1") != 0 if array.dtype == bool else array).tobytes()


A = [events(5, 0), events(5, 1)]
B = [events(10, 1), events(10, 2)]
C = [events(15, 2), events(15, 3)]


def run(*args, **kwargs):
    convert_root(*args, progress=False, **kwargs)


def check(out, *chunks):
    """The store holds these rows in this order."""
    got = read_store(out)
    for name, values in columns(chunks).items():
        assert got[name].tolist() == values, name


def rewrite(path, chunks):
    """Replace a file; its time differs even where the clock is coarse."""
    before = os.stat(path).st_mtime_ns
    write_tree(path, chunks)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def labelled(files, **labels):
    """A mapping of files to labels, given as one list per label."""
    return {f: {k: v[i] for k, v in labels.items()} for i, f in enumerate(files)}
