"""Chains of everything that gives a dataset from datasets, against a list of rows in Python."""

from __future__ import annotations

import pickle
import random

import awkward as ak
import pytest
from stored import write_parts

import mmdask as mm
from mmdask.rows.bits import unpack
from mmdask.rows.draws.sampling import Sample

FIELDS = [
    mm.Field.dense("x", "i4"),
    mm.Field.ragged("a", "i4", optional=(0,)),
    mm.Field.ragged("b", "i4", levels=2),
    mm.Field.string("t", optional=(0,)),
    mm.Field.category("c", ("u", "v", "w")),
]


def rows(rng, first, n):
    return [
        {
            "x": first + i,
            "a": None if rng.random() < 0.2 else [rng.randrange(9) for _ in range(rng.randrange(3))],
            "b": [[rng.randrange(9) for _ in range(rng.randrange(3))] for _ in range(rng.randrange(3))],
            "t": rng.choice(["", "é", "abc", None]),
            "c": rng.choice("uvw"),
        }
        for i in range(n)
    ]


def store(rng, path, first):
    parts = [rows(rng, first + 20 * k, rng.randrange(1, 20)) for k in range(rng.randrange(1, 4))]
    write_parts(path, FIELDS, [{f.name: [r[f.name] for r in part] for f in FIELDS} for part in parts])
    return mm.open(path, io=rng.choice(["auto", "pread"])), [dict(r) for part in parts for r in part]


def sliced(rng, ds, model, _):
    a, b = sorted([rng.randrange(len(model) + 1), rng.randrange(len(model) + 1)])
    s = rng.choice([1, 1, 1, 2, 3])
    return ds[a:b:s], model[a:b:s]


def cut(rng, ds, model, _):
    name = next(f for f in ds.fields if ds.schema[f].kind == "dense" and ds.schema[f].dtype.kind == "i")
    k = rng.randrange(2, 5)
    found = ds[ds.cut(f"{name} % {k} != 1")]
    return found, [r for r in model if r[name] % k != 1]


def label(rng, ds, model, _):
    name = next(f for f in ds.fields if ds.schema[f].kind == "category")
    return ds[ds.cut(f"{name} in ('u', 'v')")], [r for r in model if r[name] in "uv"]


def sampled(rng, ds, model, _):
    n, seed = rng.randrange(len(model) + 1), rng.randrange(99)
    [bits] = Sample.checked(n, None, seed).of([len(model)])
    mask = [bits] * len(model) if isinstance(bits, bool) else unpack(bits, 0, len(model)).tolist()
    return ds.sample(n, seed=seed), [r for r, chosen in zip(model, mask, strict=True) if chosen]


def renamed(rng, ds, model, _):
    names = list(ds.fields)
    new = dict(zip(names, rng.sample(names, len(names)), strict=True))
    return ds.rename(new), [{new[n]: v for n, v in r.items()} for r in model]


def joined(rng, ds, model, other):
    more, m = sliced(rng, ds, model, None)
    return mm.concat([more, ds]), m + model


def exploded(rng, ds, model, _):
    lists = [f for f in ds.fields if ds.schema[f].levels]
    if not lists or len(model) > 300:
        return ds, model
    name = rng.choice(lists)
    return ds.explode(name), [{**r, name: item} for r in model for item in r[name] or []]


def pickled(rng, ds, model, _):
    return pickle.loads(pickle.dumps(ds)), model


STEPS = [sliced, cut, label, sampled, renamed, joined, exploded, exploded, pickled]


def check(rng, ds, model):
    assert len(ds) == len(model)
    for name in ds.fields:
        assert ak.to_list(ds[name].compute()) == [r[name] for r in model], name
    if model:
        order = [rng.randrange(len(model)) for _ in range(4)]
        for name, values in ds[order].items():
            assert ak.to_list(values) == [model[i][name] for i in order], name


@pytest.mark.parametrize("seed", range(12))
def test_chains(tmp_path, seed):
    rng = random.Random(seed)
    ds, model = store(rng, tmp_path / "a.mm", 0)
    if rng.random() < 0.5:
        other, more = store(rng, tmp_path / "b.mm", 1000)
        ds, model = mm.concat([ds, other]), model + more
    for _ in range(rng.randrange(2, 7)):
        ds, model = rng.choice(STEPS)(rng, ds, model, None)
        if len(model) > 2000:
            break
        check(rng, ds, model)
