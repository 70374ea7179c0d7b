"""Random loaders of random selections, against rows that are plain Python and collated by hand.

Every promise of a loader is checked for each: which rows come and how often, what the entries hold, and that ranks,
resuming, numbers of batches, copies, threads and loops side by side change nothing. ``MMDASK_EXAMPLES=2000`` runs more.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import pickle
import threading
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm

EXAMPLES = int(os.environ.get("MMDASK_EXAMPLES", "40"))
LABELS = ("ttbb", "ttH", "é")
FIELDS = [
    mm.Field.dense("id", "i8"),
    mm.Field.dense("ev", "u4"),
    mm.Field.dense("w", "f4"),
    mm.Field.dense("met", "f4", optional=(0,)),
    mm.Field.dense("p3", "f8", (3,)),
    mm.Field.category("process", LABELS),
    mm.Field.category("kind", LABELS, optional=(0,)),
    mm.Field.ragged("jet_a", "i4"),
    mm.Field.ragged("jet_b", "f4", optional=(0, 1)),
    mm.Field.ragged("deep", "i2", levels=2, optional=(0, 1, 2)),
    mm.Field.string("name", optional=(0,)),
    mm.Field.shaped("image", "u1", axes=2, optional=(0,)),
]
BY_NAME = {f.name: f for f in FIELDS}


def row(i, rng):
    """A row of which every value is known from its number, but for what is missing and how long lists are."""

    def maybe(value, p=0.2):
        return None if rng.random() < p else value

    return {
        "id": i,
        "ev": i * 7 % 31,
        "w": float(rng.integers(0, 4)) * (i % 5 > 0),
        "met": maybe(i / 4),
        "p3": [i + 0.25, -i, 0.5],
        "process": LABELS[i // 40 % 3],
        "kind": maybe(LABELS[i % 3]),
        "jet_a": [10 * i + j for j in range(int(rng.integers(0, 6)))],
        "jet_b": maybe([maybe(i + j / 8) for j in range(int(rng.integers(0, 4)))]),
        "deep": maybe(
            [
                maybe([maybe(i % 100 + j) for j in range(int(rng.integers(0, 3)))])
                for _ in range(int(rng.integers(0, 3)))
            ]
        ),
        "name": maybe("é" * (i % 2) + f"row {i}"),
        "image": maybe(np.arange(i % 4 * (i % 3)).reshape(i % 4, i % 3).astype("u1")),
    }


def table(first, n, seed):
    rng = np.random.default_rng(seed)
    return [row(first + i, rng) for i in range(n)]


def write(path, rows, cuts, names=None):
    """A store of several parts, of which some are empty."""
    fields = [f for f in FIELDS if names is None or f.name in names]
    with mm.create(path, fields=fields):
        pass
    for a, b in itertools.pairwise([0, *cuts, len(rows)]):
        with mm.append(path) as w:
            for r in rows[a:b]:
                w.append({f.name: r[f.name] for f in fields})
    return mm.open(path)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    rows = {
        "all": table(0, 120, 1),
        "more": table(1_000, 37, 2),
        "long": table(10_000, 1_400, 3),
        "one": table(5_000, 1, 4),
        "none": [],
    }
    cuts = {"all": [0, 41, 42, 42, 100], "more": [20], "long": [3, 700, 701], "one": [], "none": []}
    few = ("id", "ev", "w", "process", "jet_a", "jet_b", "name")
    made = {k: write(folder / f"{k}.mm", v, cuts[k], few if k == "long" else None) for k, v in rows.items()}
    truth = {r["id"]: r for some in rows.values() for r in some}
    return made, truth


# What a batch should hold ---------------------------------------------------------------------------------------------


def text(x):
    """Anything in a batch as something to compare: bytes, dtypes and shapes."""
    if isinstance(x, mm.Packed):
        return ("packed", text(x.values), text(x.offsets), text(x.valid))
    if isinstance(x, np.ndarray):
        return (x.dtype.str, x.shape, x.tobytes())
    if isinstance(x, list):
        return [text(v) for v in x]
    if hasattr(x, "to_list"):
        return ("nested", repr(x.to_list()), str(x.type))
    return x


def texts(batch):
    about = {name: text(getattr(batch, name)) for name in ("rows", "valid", "epoch", "index", "position", "streams")}
    return about | {f"entry {name}": text(value) for name, value in batch.items()}


def lists(packed, valid=None):
    """A `Packed` as lists, with None where something is missing."""
    items = lists(packed.values) if isinstance(packed.values, mm.Packed) else packed.values.tolist()
    if packed.valid is not None:
        items = [x if ok else None for x, ok in zip(items, packed.valid.tolist(), strict=True)]
    rows = [items[a:b] for a, b in itertools.pairwise(packed.offsets.tolist())]
    return rows if valid is None else [r if ok else None for r, ok in zip(rows, valid.tolist(), strict=True)]


def check_plain(name, batch, expected):
    """The entry of a field without steps."""
    value, valid = batch[name], batch.get(f"{name}_valid")
    assert (valid is not None) == (0 in BY_NAME[name].optional), name
    if valid is not None:
        assert valid.tolist() == [e is not None for e in expected], name
    if isinstance(value, mm.Packed):
        assert lists(value, valid) == expected, name
    elif name == "image":
        assert len(value) == len(expected)
        for a, e in zip(value, expected, strict=True):
            assert (a is None) == (e is None)
            assert a is None or (a.shape == e.shape and (a == e).all())
    elif name == "name":
        assert value == expected
    elif name in ("process", "kind"):
        assert value.tolist() == [-1 if e is None else LABELS.index(e) for e in expected], name
    else:
        got = value.tolist()
        assert [None if e is None else g for g, e in zip(got, expected, strict=True)] == expected, name
        assert all(g != g for g, e in zip(got, expected, strict=True) if e is None), name


def padded(rows, n, fill, left):
    """Rows cut and filled up, and the mask."""
    out, mask = [], []
    for items in rows:
        kept = (items or [])[:n]
        real = [x is not None for x in kept]
        kept = [fill if x is None else x for x in kept]
        more = n - len(kept)
        out.append([fill] * more + kept if left else kept + [fill] * more)
        mask.append([False] * more + real if left else real + [False] * more)
    return out, mask


# What is drawn --------------------------------------------------------------------------------------------------------


class Draw:
    def __init__(self, data):
        self.data = data

    def of(self, *choices):
        return self.data.draw(st.sampled_from(choices))

    def n(self, low, high):
        return self.data.draw(st.integers(low, high))


def selected(draw, stores):
    """A dataset, the ids of its rows in their order, and the names of its fields by those of the stores."""
    made, truth = stores
    which = draw.of("all", "all", "long", "more", "both", "one", "none")
    ds = mm.concat([made["all"], made["more"]]) if which == "both" else made[which]
    ids = [i for i in truth if i < 2_000] if which == "both" else [i for i in truth if i // 1_000 in OF[which]]
    names = {name: name for name in ds.fields}
    for _ in range(draw.n(0, 3)):
        how = draw.of("slice", "cut", "split", "kfold", "sample", "rename", "fields", "mod", "permutation", "assign")
        if how == "slice":
            a, b = sorted((draw.n(0, len(ids) + 2), draw.n(0, len(ids) + 2)))
            s = slice(a, b, draw.of(None, None, 1, 3))
            ds, ids = ds[s], ids[s]
        elif how == "cut":
            limit = draw.n(0, 31)
            ds, ids = ds[ds.cut(f"{names['ev']} < {limit}")], [i for i in ids if truth[i]["ev"] < limit]
        elif how in ("split", "mod", "permutation"):
            options = {"how": "hash" if how == "split" else how}
            if how == "mod":
                options["by"] = names["ev"]
            elif how == "split" and draw.of(True, False):
                options["by"] = [names["ev"], names["process"]]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", mm.UnevenFoldsWarning)
                parts = ds.split({"a": 0.75, "b": 0.25}, **options)
                sizes = [len(p) for p in parts.values()]
            assert sum(sizes) == len(ids)
            found = [p[names["id"]].compute().tolist() for p in parts.values()]
            assert sorted(itertools.chain(*found)) == sorted(ids)
            if how == "mod":
                assert all(truth[i]["ev"] % 4 < 3 for i in found[0])
            at = draw.n(0, 1)
            ds, ids = list(parts.values())[at], found[at]
        elif how == "kfold":
            train, test = list(ds.kfold(3, by=names["ev"], seed=draw.n(0, 3)))[draw.n(0, 2)]
            got = train[names["id"]].compute().tolist()
            assert sorted(got + test[names["id"]].compute().tolist()) == sorted(ids)
            ds, ids = train, got
        elif how == "sample":
            ds = ds.sample(draw.n(0, len(ids)), seed=draw.n(0, 3))
            got = ds[names["id"]].compute().tolist()
            assert got == [i for i in ids if i in set(got)]
            ids = got
        elif how == "rename" and names["id"] == "id":
            ds = ds.rename({"id": "number", "jet_a": "hits"})
            names |= {"id": "number", "jet_a": "hits"}
        elif how == "assign" and "twice" not in names:
            ds = ds.assign(twice=f"2 * {names['ev']}", total=f"sum({names['jet_a']})")
            names |= {"twice": "twice", "total": "total"}
    assert len(ds) == len(ids)
    return ds, ids, names


OF = {"all": {0}, "more": {1}, "long": {10, 11}, "one": {5}, "none": set()}


def steps_of(draw, names):
    """Steps of one list and what is expected of it: its kind and how it is padded."""
    how = draw.of("packed", "pad", "pad", "max", "crop", "window", "nested", "stack", "record")
    jets = names["jet_a"]
    n, left, fill = draw.n(0, 7), draw.of(True, False), draw.of(0, -1, 7)
    side = "left" if left else "right"
    if how == "pad":
        return {jets: mm.pad(n, side=side, value=fill)}, (n, fill, left)
    if how == "max":
        return {jets: mm.pad("max", side=side, value=fill, multiple=draw.of(1, 4))}, ("max", fill, left)
    if how == "crop":
        return {jets: [mm.crop(2), mm.pad(3, value=fill)]}, (("crop", 2, 3), fill, False)
    if how == "window":
        return {jets: [mm.window(2), mm.pad(2, value=fill)]}, ("window", fill, False)
    if how == "nested":
        return {jets: mm.nested()}, ("nested", 0, False)
    if how == "stack":
        return {"stacked": mm.stack(jets, step=mm.pad(4))}, ("stack", 0, False)
    return {}, None


def options_of(draw, n, names):
    """Options of a loader that go together."""
    options = {"shuffle": draw.of(True, True, "exact", False), "seed": draw.of(0, 1, 2**64 - 1)}
    if options["shuffle"] is True:
        options |= draw.of({}, {"block": 1}, {"block": 4}, {"block": 2, "window": 1}, {"window": "100kB"})
    kind = draw.of("once", "once", "weights", "balance", "bucket", "tokens")
    if kind == "weights" and n:
        options["weights"] = draw.of(names["ev"] + " + 1", f"where({names['ev']} < 3, 0.5, 1)")
    elif kind == "balance" and n:
        options["balance"] = names["process"]
    elif kind in ("bucket", "tokens"):
        field = names["jet_a"]
        options["bucket"] = mm.bucket(
            field, window=draw.n(1, 5), multiple=draw.of(1, 2), tokens=draw.n(1, 30) if kind == "tokens" else None
        )
    if kind != "tokens":
        options["last"] = draw.of("keep", "drop", "pad")
    if draw.of(True, False):
        options["transform"] = add_random
    if draw.of(True, False, False, False):
        options["memory"] = "64MiB"
    return kind, options


def add_random(batch):
    batch["random"] = batch.row_rng("test").random(2)
    return batch


# The promises ---------------------------------------------------------------------------------------------------------


def check_entries(batch, names, truth, pads, ids):
    got = batch[names["id"]].tolist()
    rows = [truth[i] for i in got]
    assert set(got) <= set(ids)
    for old, new in names.items():
        if old == "jet_a" and pads is not None:
            expected = [r["jet_a"] for r in rows]
            n, fill, left = pads
            if n == "stack":
                assert batch["stacked"][..., 0].tolist() == padded(expected, 4, 0, False)[0]
                continue
            if n == "nested":
                assert batch[new].to_list() == expected
                continue
            value, mask = batch[new], batch[f"{new}_mask"]
            if n == "window":
                for v, m, e in zip(value.tolist(), mask.tolist(), expected, strict=True):
                    kept = [x for x, ok in zip(v, m, strict=True) if ok]
                    assert len(kept) == min(len(e), 2)
                    assert not kept or kept == list(range(kept[0], kept[0] + len(kept)))
                    assert set(kept) <= set(e)
                continue
            if isinstance(n, tuple):
                expected, n = [e[: n[1]] for e in expected], n[2]
            want, real = padded(expected, value.shape[1] if n == "max" else n, fill, left)
            if n == "max":
                assert value.shape[1] >= max(map(len, expected), default=0)
            assert (value.tolist(), mask.tolist()) == (want, real)
        elif old == "twice":
            assert batch[new].tolist() == [2 * r["ev"] for r in rows]
        elif old == "total":
            assert batch[new].tolist() == [sum(r["jet_a"]) for r in rows]
        elif old in BY_NAME and old != "jet_a":
            check_plain(old, Renamed(batch, old, new), [r[old] for r in rows])
        elif old == "jet_a":
            assert lists(batch[new]) == [r["jet_a"] for r in rows]


class Renamed:
    """The entries of a batch under the name that a field had before."""

    def __init__(self, batch, old, new):
        self.batch, self.old, self.new = batch, old, new

    def __getitem__(self, name):
        return self.batch[self.new + name.removeprefix(self.old)]

    def get(self, name):
        return self.batch.get(self.new + name.removeprefix(self.old))


def check_counts(kind, loader, batches, ids, key):
    """How often rows come in an epoch."""
    real = [b[key][b.valid] if b.valid is not None else b[key] for b in batches]
    got = collections.Counter(np.concatenate([np.zeros(0, int), *real]).tolist())
    n = sum(got.values())
    whole = len(ids) if loader.last != "drop" else len(ids) // loader.batch_size * loader.batch_size
    assert n == whole
    if kind not in ("weights", "balance"):
        assert max(got.values(), default=1) == 1
        if loader.last != "drop":
            assert sorted(got) == sorted(ids)
    if kind == "weights" and loader.last != "drop":
        weights = {i: weight_of(loader.weights, i) for i in ids}
        total = sum(weights.values())
        for i, w in weights.items():
            assert abs(got[i] - len(ids) * w / total) < 1 + 1e-9
    if kind == "balance":
        classes = collections.defaultdict(list)
        for i in ids:
            classes[i // 40 % 3].append(got[i])
        sizes = [sum(counts) for counts in classes.values()]
        assert max(sizes, default=0) - min(sizes, default=0) <= 2
        if not loader.epoch:  # later ones go on where the last one ended
            assert all(max(counts) - min(counts) <= 1 for counts in classes.values())


def weight_of(expression, i):
    """The weight that `options_of` gives to a row."""
    ev = i * 7 % 31
    return (0.5 if ev < 3 else 1) if "where" in expression.text else ev + 1


def drain(loader, n=None):
    return [texts(b) for b in itertools.islice(iter(loader), n)]


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_promise_of_a_loader(stores, data):
    draw = Draw(data)
    ds, ids, names = selected(draw, stores)
    truth = stores[1]
    size = draw.of(1, 2, 3, 7, 16, 64, 200) if len(ids) < 200 else draw.of(16, 64, 100, 500, 2000)
    collate, pads = steps_of(draw, names)
    kind, options = options_of(draw, len(ids), names)
    epoch = draw.of(0, 0, 1, 5)

    def make(size=size, **more):
        made = ds.batches(size, collate=collate, **(options | more))
        made.set_epoch(epoch)
        return made

    loader = make()
    batches = list(loader)
    assert loader.epoch == epoch + 1
    loader.set_epoch(epoch)
    assert len(loader) == len(batches)
    for i, batch in enumerate(batches):
        assert (batch.index, batch.epoch) == (i, epoch)
        check_entries(batch, names, truth, pads, ids)
    check_counts(kind, loader, batches, ids, names["id"])
    expected = [texts(b) for b in batches]

    # By number, again, pickled, by threads, side by side.
    for i in {0, len(batches) - 1, draw.n(-len(batches), len(batches))}:
        if -len(batches) <= i < len(batches):
            assert texts(loader[i]) == expected[i]
    assert drain(pickle.loads(pickle.dumps(make()))) == expected
    side = make()
    a, b = iter(side), iter(side)
    both = list(itertools.zip_longest(a, b))
    assert [texts(x) for x, _ in both] == [texts(y) for _, y in both] == expected
    found = []
    thread = threading.Thread(target=lambda: found.extend(drain(make())))
    thread.start()
    thread.join()
    assert found == expected

    # Resumed, anywhere.
    at = draw.n(0, len(batches))
    first = make()
    states = [json.dumps(first.state_dict())]
    it = iter(first)
    for _ in range(at):
        next(it)
        states.append(json.dumps(first.state_dict()))
    del it
    assert len(states[-1]) < 1000
    second = ds.batches(size, collate=collate, **options)
    second.load_state_dict(json.loads(states[-1]))
    went_on = drain(second)
    if at < len(batches):
        assert went_on == expected[at:]
    elif len(batches):
        assert went_on == drain(following(make(), epoch + 1))
    if at and batches:
        assert json.dumps(make().state_dict(after=batches[at - 1])) == states[-1]

    # Ranks.
    world = draw.of(2, 3)
    if size >= world and (options.get("last") != "pad" or batches):
        last = {} if kind == "tokens" else {"last": loader.last}
        ranks = [list(make(rank=r, world_size=world, **last)) for r in range(world)]
        assert {len(r) for r in ranks} == {len(batches)}
        for whole, *parts in zip(batches, *ranks, strict=True):
            joined = np.concatenate([p.rows for p in parts])
            assert joined.tolist() == whole.rows.tolist()
            for name, value in whole.items():
                values = [p[name] for p in parts]
                if isinstance(value, np.ndarray):
                    together = np.concatenate(values)
                    assert text(together) == text(value), name
                elif isinstance(value, list):
                    assert text([v for some in values for v in some]) == text(value), name
                elif isinstance(value, mm.Packed):
                    assert [v for some in values for v in lists(some)] == lists(value), name

    # Another batch size goes on with the same rows.
    if kind not in ("bucket", "tokens") and at < len(batches):
        other = ds.batches(draw.n(1, 2 * size), collate=collate, **(options | {"last": "keep"}))
        state = json.loads(states[at])
        other.load_state_dict(state)
        whole = list(make(last="keep"))
        flat = np.concatenate([b[names["id"]] for b in whole])
        rest = list(other)
        assert np.concatenate([b[names["id"]] for b in rest]).tolist() == flat[state["position"] :].tolist()
        if "random" in rest[0]:
            flat = np.concatenate([b["random"] for b in whole])
            assert np.concatenate([b["random"] for b in rest]).tolist() == flat[state["position"] :].tolist()


def following(loader, epoch):
    loader.set_epoch(epoch)
    return loader
