"""Mixtures with every step of collate=: the rows of a batch, of whichever loader, are collated as one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mmdask as mm
from mmdask.batches.mix import Mix
from mmdask.errors import OptionError

LABELS = ["ttH", "ttbb", "Zjets"]
FIELDS = [
    mm.Field.dense("n", "i4"),
    mm.Field.dense("vec", "f4", (3,)),
    mm.Field.dense("some", "f8", optional=(0,)),
    mm.Field.ragged("jet_pt", "f4"),
    mm.Field.ragged("jet_eta", "f4"),
    mm.Field.ragged("gaps", "f8", optional=(0, 1)),
    mm.Field.ragged("pairs", "i4", (2,)),
    mm.Field.ragged("deep", "i8", levels=2),
    mm.Field.string("text"),
    mm.Field.string("words", levels=1),
    mm.Field.category("process", LABELS),
    mm.Field.shaped("image", "u1", axes=2),
]


def make(seed, n, least, most):
    """Rows of a store as plain lists; lists have `least` to `most` items."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        k = int(rng.integers(least, most + 1))
        image = rng.integers(0, 99, (k, int(rng.integers(least, most + 1))))
        rows.append(
            {
                "n": 1000 * seed + i,
                "vec": [float(seed), float(i), 0.5],
                "some": None if i % 4 == 1 else float(i),
                "jet_pt": [float(x) for x in rng.integers(0, 99, k)],
                "jet_eta": [float(x) for x in rng.integers(0, 99, k)],
                "gaps": None if i % 5 == 3 else [None if x > 70 else float(x) for x in rng.integers(0, 99, k)],
                "pairs": rng.integers(0, 99, (k, 2)).tolist(),
                "deep": [list(range(int(m))) for m in rng.integers(0, most + 1, k)],
                "text": "äb"[: seed % 2 + 1] * k,
                "words": ["x" * int(m) for m in rng.integers(0, 4, k)],
                "process": LABELS[int(rng.integers(0, 3))],
                "image": image,
            }
        )
    return rows


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    found = {}
    for name, rows in {"a": make(1, 17, 4, 9), "b": make(2, 30, 2, 5), "c": make(3, 9, 3, 6)}.items():
        with mm.create(folder / f"{name}.mm", fields=FIELDS) as w:
            w.extend({f.name: [row[f.name] for row in rows] for f in FIELDS})
        found[name] = mm.open(folder / f"{name}.mm"), rows
    return found


# The oracle: what a step makes of the rows of a batch, in plain Python ------------------------------------------------


def padded(rows, n, fill=0, left=False):
    cut = [row[:n] for row in rows]
    return [[fill] * (n - len(r)) + r if left else r + [fill] * (n - len(r)) for r in cut]


def real(rows, n, left=False):
    return padded([[True] * len(row) for row in rows], n, False, left)


def longest(rows):
    return max(map(len, rows), default=0)


def most(rows):
    """Items of the longest list within the rows."""
    return max(longest(row) for row in rows)


def shortest(rows):
    return min(map(len, rows))


def repeated(rows, n, mode):
    return [np.pad(np.array(row[:n]), (0, n - len(row[:n])), mode).tolist() for row in rows]


def deep(rows, n, m):
    return padded([padded(row, m) for row in rows], n, [0] * m)


def deep_real(rows, n, m):
    return padded([real(row, m) for row in rows], n, [False] * m)


def images(rows, height, width):
    out = np.zeros((len(rows), height, width), "u1")
    mask = np.zeros(out.shape, bool)
    for i, image in enumerate(rows):
        part = image[:height, :width]
        out[i, : part.shape[0], : part.shape[1]] = part
        mask[i, : part.shape[0], : part.shape[1]] = True
    return out.tolist(), mask.tolist()


def utf8(rows):
    return [list(row.encode()) for row in rows]


def of_text(n):
    return one("text", lambda v: padded(utf8(v), n(utf8(v))), lambda v: real(utf8(v), n(utf8(v))))


def max_shape(rows):
    return tuple(max(image.shape[axis] for image in rows) for axis in (0, 1))


def min_shape(rows):
    return tuple(min(image.shape[axis] for image in rows) for axis in (0, 1))


def up(n, multiple):
    return -(-n // multiple) * multiple


def one(name, make, mask=None):
    """A case of one field: its entry, and its mask."""

    def expected(rows):
        values = [row[name] for row in rows]
        return {name: make(values)} | ({f"{name}_mask": mask(values)} if mask else {})

    return [name], expected


def padding(n, fill=0, left=False):
    def length(rows):
        return n(rows) if callable(n) else n

    return one("jet_pt", lambda v: padded(v, length(v), fill, left), lambda v: real(v, length(v), left))


def cropped(n):
    return one("jet_pt", lambda v: [row[: n(v) if callable(n) else n] for row in v])


def jets(n, left=False):
    def expected(rows):
        values = {name: [row[name] for row in rows] for name in ("jet_pt", "jet_eta")}
        mask = real(values["jet_pt"], n(values["jet_pt"]), left)
        return {k: padded(v, n(v), 0, left) for k, v in values.items()} | {"jet_mask": mask}

    return ["jet_pt", "jet_eta"], expected


def stacked(n, mask=True):
    def expected(rows):
        both = [[list(x) for x in zip(row["jet_pt"], row["jet_eta"], strict=True)] for row in rows]
        made = {"jets": padded(both, n(both), [0, 0])}
        return made | ({"jets_mask": real(both, n(both))} if mask else {})

    return ["jet_pt", "jet_eta"], expected


def of_images(shape, mask=True):
    def expected(rows):
        values = [row["image"] for row in rows]
        out, real = images(values, *shape(values))
        return {"image": out} | ({"image_mask": real} if mask else {})

    return ["image"], expected


def gaps(n):
    def expected(rows):
        values = [row["gaps"] or [] for row in rows]
        filled = [[-1.0 if x is None else x for x in row] for row in values]
        there = [[x is not None for x in row] for row in values]
        return {
            "gaps": padded(filled, n(values), -1.0),
            "gaps_mask": padded(there, n(values), False),
            "gaps_valid": [row["gaps"] is not None for row in rows],
        }

    return ["gaps"], expected


def onehot(rows):
    return [[float(label == known) for known in LABELS] for label in rows]


CASES = {
    "dense": (None, (["n", "vec"], lambda rows: {k: [row[k] for row in rows] for k in ("n", "vec")})),
    "dense cropped": ({"vec": mm.crop("min")}, one("vec", lambda v: v)),
    "packed": (None, one("jet_pt", list)),
    "packed pairs": (None, one("pairs", list)),
    "packed lists of lists": (None, one("deep", list)),
    "nested": ({"jet_pt": mm.nested()}, one("jet_pt", list)),
    "nested lists of lists": ({"deep": mm.nested()}, one("deep", list)),
    "nested strings": ({"words": mm.nested()}, one("words", list)),
    "nested images": ({"image": mm.nested()}, one("image", lambda v: [image.tolist() for image in v])),
    "pad 5": ({"jet_pt": mm.pad(5)}, padding(5)),
    "pad 5 left": ({"jet_pt": mm.pad(5, side="left", value=-1)}, padding(5, -1, True)),
    "pad max": ({"jet_pt": mm.pad("max")}, padding(longest)),
    "pad max left": ({"jet_pt": mm.pad("max", side="left")}, padding(longest, 0, True)),
    "pad max multiple": ({"jet_pt": mm.pad("max", multiple=4)}, padding(lambda v: up(longest(v), 4))),
    "pad max edge": (
        {"jet_pt": mm.pad("max", mode="edge", mask=False)},
        one("jet_pt", lambda v: repeated(v, longest(v), "edge")),
    ),
    "pad max wrap": (
        {"jet_pt": mm.pad("max", mode="wrap", mask=False)},
        one("jet_pt", lambda v: repeated(v, longest(v), "wrap")),
    ),
    "pad 12 reflect": (
        {"jet_pt": mm.pad(12, mode="reflect", mask=False)},
        one("jet_pt", lambda v: repeated(v, 12, "reflect")),
    ),
    "pad max cast": (
        {"jet_pt": [mm.astype("f8"), mm.pad("max", mask=False), mm.expand_dims(0)]},
        one("jet_pt", lambda v: [[row] for row in padded(v, longest(v))]),
    ),
    "pad levels": (
        {"deep": mm.pad((4, 3))},
        one("deep", lambda v: deep(v, 4, 3), lambda v: deep_real(v, 4, 3)),
    ),
    "pad levels max": (
        {"deep": mm.pad("max")},
        one(
            "deep",
            lambda v: deep(v, longest(v), most(v)),
            lambda v: deep_real(v, longest(v), most(v)),
        ),
    ),
    "pad levels one max": (
        {"deep": mm.pad(("max", 2), mask=False)},
        one("deep", lambda v: deep(v, longest(v), 2)),
    ),
    "pad gaps": ({"gaps": mm.pad("max", value=-1)}, gaps(longest)),
    "crop 2": ({"jet_pt": mm.crop(2)}, cropped(2)),
    "crop min": ({"jet_pt": mm.crop("min")}, cropped(shortest)),
    "crop 3, min": ({"jet_pt": [mm.crop(3), mm.crop("min")]}, cropped(lambda v: min(3, shortest(v)))),
    "crop min, 3": ({"jet_pt": [mm.crop("min"), mm.crop(3)]}, cropped(lambda v: min(3, shortest(v)))),
    "crop min packed": ({"jet_pt": [mm.crop("min"), mm.packed()]}, cropped(shortest)),
    "crop min nested": ({"jet_pt": [mm.crop("min"), mm.nested()]}, cropped(shortest)),
    "crop min, pad 4": (
        {"jet_pt": [mm.crop("min"), mm.pad(4)]},
        one(
            "jet_pt",
            lambda v: padded([r[: shortest(v)] for r in v], 4),
            lambda v: real([r[: shortest(v)] for r in v], 4),
        ),
    ),
    "crop min, pad max": (
        {"jet_pt": [mm.crop("min"), mm.pad("max", multiple=3, mask=False)]},
        one("jet_pt", lambda v: padded([r[: shortest(v)] for r in v], up(shortest(v), 3))),
    ),
    "crop 3, pad max": (
        {"jet_pt": [mm.crop(3), mm.pad("max", mask=False)]},
        one("jet_pt", lambda v: padded(v, min(3, longest(v)))),
    ),
    "crop min of pairs": ({"pairs": mm.crop("min")}, one("pairs", lambda v: [r[: shortest(v)] for r in v])),
    "crop of levels": (
        {"deep": [mm.crop((2, 1)), mm.packed()]},
        one("deep", lambda v: [[inner[:1] for inner in row[:2]] for row in v]),
    ),
    "record": ({"jet": mm.pad("max")}, jets(longest)),
    "record left": ({"jet": mm.pad(6, side="left")}, jets(lambda v: 6, True)),
    "record cropped": (
        {"jet": mm.crop("min")},
        (
            ["jet_pt", "jet_eta"],
            lambda rows: {
                k: [row[k][: shortest([r["jet_pt"] for r in rows])] for row in rows] for k in ("jet_pt", "jet_eta")
            },
        ),
    ),
    "stack": ({"jets": mm.stack("jet_pt", "jet_eta", step=mm.pad("max"))}, stacked(longest)),
    "stack cropped": ({"jets": mm.stack("jet_pt", "jet_eta", step=mm.crop("min"))}, stacked(shortest, mask=False)),
    "stack packed": (
        {"jets": mm.stack("jet_pt", "jet_eta")},
        (
            ["jet_pt", "jet_eta"],
            lambda rows: {"jets": [[list(x) for x in zip(row["jet_pt"], row["jet_eta"], strict=True)] for row in rows]},
        ),
    ),
    "the same field twice": (
        {
            "jets": mm.stack("jet_pt", "jet_eta", step=[mm.crop(1), mm.pad("max", mask=False)]),
            "jet_pt": mm.pad("max", mask=False),
            "jet_eta": mm.crop("min"),
        },
        (
            ["jet_pt", "jet_eta"],
            lambda rows: {
                "jets": [[[row["jet_pt"][0], row["jet_eta"][0]]] for row in rows],
                "jet_pt": padded([row["jet_pt"] for row in rows], longest([row["jet_pt"] for row in rows])),
                "jet_eta": [row["jet_eta"][: shortest([r["jet_eta"] for r in rows])] for row in rows],
            },
        ),
    ),
    "strings": (None, one("text", list)),
    "lists of strings": (None, one("words", list)),
    "strings packed": ({"text": mm.packed()}, one("text", utf8)),
    "strings padded": ({"text": mm.pad("max")}, of_text(longest)),
    "strings cropped": ({"text": mm.crop("min")}, one("text", lambda v: [r[: shortest(utf8(v))] for r in utf8(v)])),
    "categories": (None, one("process", lambda v: [LABELS.index(label) for label in v])),
    "categories one hot": ({"process": mm.one_hot()}, one("process", onehot)),
    "missing": (
        None,
        (
            ["some"],
            lambda rows: {
                "some": [np.nan if row["some"] is None else row["some"] for row in rows],
                "some_valid": [row["some"] is not None for row in rows],
            },
        ),
    ),
    "images": (None, one("image", lambda v: [image.tolist() for image in v])),
    "images padded": ({"image": mm.pad((3, 7))}, of_images(lambda v: (3, 7))),
    "images pad max": ({"image": mm.pad("max")}, of_images(max_shape)),
    "images crop min": ({"image": mm.crop("min")}, of_images(min_shape, mask=False)),
    "images cropped, pad max": (
        {"image": [mm.crop((3, None)), mm.pad("max", mask=False)]},
        (
            ["image"],
            lambda rows: {
                "image": images([r["image"][:3] for r in rows], *max_shape([r["image"][:3] for r in rows]))[0]
            },
        ),
    ),
}


def plain(value):
    """An entry of a batch as lists of its rows."""
    if isinstance(value, mm.Packed):
        items, edges = plain(value.values), value.offsets.tolist()
        return [items[a:b] for a, b in itertools.pairwise(edges)]
    if isinstance(value, list):
        return [x.tolist() if isinstance(x, np.ndarray) else x for x in value]
    return value.tolist()


def mixed(stores, names, collate, apart, seed=5, rank=0, world=1, size=11):
    """The batches of a mixture of all stores."""
    options = {"fields": names, "collate": collate, "seed": seed, "rank": rank, "world_size": world, "last": "keep"}
    loaders = {k: ds.batches(size, **options) for k, (ds, _) in stores.items()}
    found = mm.mix(loaders, {"a": 2, "b": 3, "c": 1}, stop="all")
    with pytest.MonkeyPatch.context() as patch:
        if apart:
            patch.setattr(Mix, "_as_one", None)  # each loader reads its own rows, as where stores differ
        else:
            assert found._as_one is not None
        return list(found)


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("case", CASES)
def test_a_mixed_batch_is_what_its_rows_are_collated_as_one(stores, case, apart):
    collate, (names, expected) = CASES[case]
    rows = [rows for _, rows in stores.values()]
    whole = mixed(stores, names, collate, apart)
    assert len(whole) > 3
    for batch in whole:
        assert len(set(batch.source.tolist())) == (3 if len(batch.rows) == 11 else 2)
        own = [rows[s][r] for s, r in zip(batch.source.tolist(), batch.rows.tolist(), strict=True)]
        wanted = expected(own)
        assert set(batch) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_equal(plain(batch[name]), value, err_msg=name)
    each = [mixed(stores, names, collate, apart, rank=rank, world=3) for rank in range(3)]
    for k, batch in enumerate(whole):
        for name, value in batch.items():
            joined = [x for one in each for x in plain(one[k][name])]
            np.testing.assert_equal(joined, plain(value), err_msg=f"{name} of three ranks")


WINDOWS = {
    "window": mm.window(2),
    "window padded": [mm.window(3), mm.pad("max", multiple=2)],
    "window of what is cropped": [mm.crop("min"), mm.window(2)],
    "cropped window": [mm.window(3), mm.crop("min")],
    "window packed": [mm.window(3, start=1), mm.packed()],
}


@pytest.mark.parametrize("case", WINDOWS)
def test_random_windows_are_the_same_apart_and_together(stores, case):
    collate = {"jet_pt": WINDOWS[case]}
    rows = [rows for _, rows in stores.values()]
    together, apart = (mixed(stores, ["jet_pt"], collate, apart) for apart in (False, True))
    for batch, other in zip(together, apart, strict=True):
        assert plain(batch["jet_pt"]) == plain(other["jet_pt"])
        least = min(len(rows[s][r]["jet_pt"]) for s, r in zip(batch.source, batch.rows, strict=True))
        for i, (s, r) in enumerate(zip(batch.source.tolist(), batch.rows.tolist(), strict=True)):
            found, row = plain(batch["jet_pt"])[i], rows[s][r]["jet_pt"]
            if "jet_pt_mask" in batch:
                found = [x for x, there in zip(found, batch["jet_pt_mask"][i], strict=True) if there]
            n = {"window padded": min(3, len(row)), "cropped window": min(3, least)}.get(case, 2)
            assert len(found) == (min(3, len(row) - 1) if case == "window packed" else n)
            row = row[:least] if case == "window of what is cropped" else row
            starts = range(case == "window packed", len(row) - len(found) + 1)
            assert any(row[a : a + len(found)] == found for a in starts)


def test_all_loaders_crop_to_the_shortest_or_none(stores):
    (a, _), (b, _) = stores["a"], stores["b"]
    one = a.batches(8, fields=["jet_pt"], collate={"jet_pt": mm.crop("min")})
    for step in (mm.crop(2), mm.window(2)):
        other = b.batches(8, fields=["jet_pt"], collate={"jet_pt": step})
        with pytest.raises(OptionError, match=r"'a' has mm.crop\('min'\) for 'jet_pt'.*all of them mm.crop\('min'\)"):
            mm.mix({"a": one, "b": other}, {"a": 1, "b": 1})
    mm.mix({"a": one}, {"a": 1})


def test_the_shortest_where_some_batches_have_no_row_of_a_loader(stores, monkeypatch):
    loaders = {k: ds.batches(4, fields=["jet_pt"], collate={"jet_pt": mm.crop("min")}) for k, (ds, _) in stores.items()}
    found = Mix(loaders, {"a": 9, "b": 1, "c": 1}, 4, "first")
    monkeypatch.setattr(Mix, "_as_one", None)
    rows = [rows for _, rows in stores.values()]
    some = set()
    for batch in found:
        some.add(len(set(batch.source.tolist())))
        least = min(len(rows[s][r]["jet_pt"]) for s, r in zip(batch.source, batch.rows, strict=True))
        assert batch["jet_pt"].shape == (len(batch.rows), least)
    assert some >= {1, 2}
