"""Random cuts through stores: what is settled, kept, negated and combined is what the reference says of each row."""

from __future__ import annotations

import os
import random

import dask
import numpy as np
import pytest
from cut_reference import NotTogether, Overflow, Uneven, render
from cut_trees import SCHEMA, make_data, trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows import rows as rows_module
from mmdask.store.commit import commit
from mmdask.store.folder import make_folder
from mmdask.store.layer import new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part

N_STORES, N_PARTS = 5, 3
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of a few rows in each part, and for each part what the reference has of it."""
    found = []
    for s in range(N_STORES):
        root = str(tmp_path_factory.mktemp("store") / "s.mm")
        make_folder(root)
        data = [make_data(1000 * s + p) for p in range(N_PARTS)]
        parts = []
        for n, fields, _ in data:
            with LayerWriter(root, new_id()) as w:
                for name, field in SCHEMA.items():
                    w.field(field).write(fields[name])
                layer = w.finish(n)
            parts.append(Part(n, (layer.id,), layer.nbytes))
        manifest = Manifest(os.urandom(16).hex(), 0, 1, SCHEMA, tuple(parts))
        commit(root, lambda newest, manifest=manifest: manifest, action="made for a test")
        found.append((root, data))
    return found


def expected_of(data, tree):
    return [value for n, _, reference in data for value in reference.rows(tree, n)]


def rows_of(values, wanted):
    return [i for i, value in enumerate(values) if value is wanted]


@settings(max_examples=150, **SETTINGS)
@given(st.integers(0, N_STORES - 1), trees(kinds=("b",), depths=(0,)), trees(kinds=("b",), depths=(0,)), st.randoms())
def test_cuts_of_stores_are_those_of_the_reference(stores, number, a, b, rng):
    root, data = stores[number]
    texts = [render(tree, random.Random(number).choice) for tree in (a, b)]
    try:
        for _, _, reference in data:
            reference.together(a)
            reference.together(b)
        values = [expected_of(data, tree) for tree in (a, b)]
    except (NotTogether, Overflow, Uneven):
        return
    both = expected_of(data, ("and", (a, b)))
    either = expected_of(data, ("or", (a, b)))
    rows_module.RESOLVED.clear()
    ds = mm.open(root)
    cuts = [ds.cut(text) for text in texts]
    questions = [
        (cuts[0], values[0]),
        (~cuts[0], [None if v is None else not v for v in values[0]]),
        (cuts[1], values[1]),
        (cuts[0] & cuts[1], both),
        (cuts[0] | cuts[1], either),
        (~(cuts[0] & cuts[1]), [None if v is None else not v for v in both]),
        (~(cuts[0] | ~~cuts[1]), [None if v is None else not v for v in either]),
        (~~cuts[0], values[0]),
    ]
    rng.shuffle(questions)
    with dask.config.set(scheduler="sync"):
        for cut, wanted in questions:
            if rng.random() < 0.2:
                ds.cuts.clear()
            expected = rows_of(wanted, True)
            if rng.random() < 0.5:
                assert np.flatnonzero(cut.mask.compute()).tolist() == expected, cut
            assert cut.count() == len(expected), cut
            assert ds[cut]._rows.numbers(0, len(expected)).tolist() == expected, cut
            assert np.flatnonzero(cut.mask.compute()).tolist() == expected, cut
        flow = ds.cutflow([cuts[0], ~cuts[1]])
        alone = [len(rows_of(values[0], True)), len(rows_of(values[1], False))]
        assert flow.alone.rows.tolist() == [sum(n for n, _, _ in data), *alone]


@pytest.mark.parametrize(
    "text",
    [
        "none(x > 25)",
        "not none(x > 25)",
        "name != 'b'",
        "not (name != 'b')",
        "name not in ('b', 'c')",
        "n not in (1, 2)",
        "none(x > 25) and name != 'b'",
        "none(x > 25) or n not in (1, 2)",
        "all(x > 25) and not any(x > 40)",
        "any(names != 'p') and none(names == 'q')",
    ],
)
def test_what_is_negated_by_another_word(tmp_path, text):
    """A leaf and its negation never have one name."""
    x, name, n = [[50.0, 30.0], [20.0], [], [1.0]], ["a", "b", "c", "d"], [1, 2, 3, 4]
    names = [["p", "q"], ["p"], [], ["q"]]
    ds = mm.from_arrays({"x": x, "name": name, "n": n, "names": names}, tmp_path / "s.mm")
    python = text.replace("none(x", "not any(x").replace("(x > ", "(v > ").replace("none(names", "not any(names")
    for word in ("any", "all"):
        python = python.replace(f"{word}(v > 25)", f"{word}(v > 25 for v in x)")
        python = python.replace(f"{word}(v > 40)", f"{word}(v > 40 for v in x)")
        python = python.replace(f"{word}(names ", f"{word}(v ").replace("(v != 'p')", "(v != 'p' for v in names)")
        python = python.replace("(v == 'q')", "(v == 'q' for v in names)")
    rows = [dict(zip(("x", "name", "n", "names"), row, strict=True)) for row in zip(x, name, n, names, strict=True)]
    expected = [bool(eval(python, {}, row)) for row in rows]
    cut = ds.cut(text)
    for _ in range(2):
        assert cut.mask.compute().tolist() == expected
        assert cut.count() == sum(expected)
        assert (~cut).count() == len(expected) - sum(expected)
        assert (~cut).mask.compute().tolist() == [not v for v in expected]
    flow = ds.cutflow([text, f"not ({text})"])
    assert flow.alone.rows.tolist() == [4, sum(expected), 4 - sum(expected)]
    assert ds.assign(z=text)["z"].compute().tolist() == expected
