"""Steps and chains against plain Python, numpy and awkward, on stores, in every way that batches are made."""

from __future__ import annotations

import itertools
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.errors import ExpressionError, OptionError

N = 60


def drawn(seed=0, n=N):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, n)
    deep = [[rng.integers(0, 99, rng.integers(0, 4)).tolist() for _ in range(c)] for c in counts]
    return {
        "pt": [rng.integers(1, 99, c).astype("f4").tolist() for c in counts],
        "eta": [rng.normal(size=c).round(3).tolist() for c in counts],
        "vec": [rng.integers(1, 99, (c, 2)).tolist() for c in counts],
        "n": [rng.integers(-9, 9, c).tolist() for c in counts],
        "deep": deep,
        "word": ["".join(rng.choice(list("abcé"), c)) for c in counts],
        "words": [["x" * int(k) for k in rng.integers(0, 4, c)] for c in counts],
        "image": [rng.integers(1, 99, (rng.integers(0, 5), rng.integers(0, 4))).astype("u1") for _ in range(n)],
        "colour": [rng.random((rng.integers(1, 4), 2, 3)).astype("f4") for _ in range(n)],
        "sound": rng.integers(1, 99, (n, 9, 2)).astype("i2"),
        "met": rng.random(n).astype("f4"),
        "opt": [
            None if rng.random() < 0.2 else [None if rng.random() < 0.3 else 1.0 * i for i in range(c)] for c in counts
        ],
        "process": [["ttH", "ttbb", None][rng.integers(3)] for _ in range(n)],
    }  # fmt: skip


DATA = drawn()
FIELDS = [
    mm.Field.ragged("pt", "f4"),
    mm.Field.ragged("eta", "f8"),
    mm.Field.ragged("vec", "f4", (2,)),
    mm.Field.ragged("n", "i2"),
    mm.Field.ragged("deep", "i4", levels=2),
    mm.Field.string("word"),
    mm.Field.string("words", levels=1),
    mm.Field.shaped("image", "u1", axes=2),
    mm.Field.shaped("colour", "f4", axes=2, shape=(3,)),
    mm.Field.dense("sound", "i2", (9, 2)),
    mm.Field.dense("met", "f4"),
    mm.Field.ragged("opt", "f4", optional=(0, 1)),
    mm.Field.category("process", optional=(0,)),
]


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "s.mm"
    with mm.create(path, fields=FIELDS) as w:
        w.extend({name: values[:25] for name, values in DATA.items()})
    with mm.append(path) as w:
        w.extend({name: values[25:] for name, values in DATA.items()})
    return mm.open(path).assign(twice="pt * 2")


def batches(ds, collate, fields=None, **options):
    options = {"shuffle": True, "seed": 1, "last": "keep", **options}
    batch_size = options.pop("batch_size", 16)
    fields = list(collate) if fields is None else fields
    return list(ds.batches(batch_size, fields=fields, collate=collate, **options))


def each_row(ds, name, step, **options):
    """What every row becomes, by its number."""
    return {int(r): x for b in batches(ds, {name: step}, **options) for r, x in zip(b.rows, b[name], strict=True)}


def padded(items, n, value=0, side="right"):
    kept = list(items)[:n]
    fill = [value] * (n - len(kept))
    return fill + kept if side == "left" else kept + fill


# Padding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pt", "twice"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_level(ds, name, side):
    for b in batches(ds, {name: mm.pad(4, value=-1, side=side)}):
        rows = [np.multiply(DATA["pt"][r], 2 if name == "twice" else 1) for r in b.rows]
        assert b[name].tolist() == [padded(row, 4, -1, side) for row in rows]
        assert b[f"{name}_mask"].tolist() == [padded([True] * len(row), 4, False, side) for row in rows]


@pytest.mark.parametrize("multiple", [None, 1, 4, 8])
def test_the_longest_of_a_batch_rounded_up(ds, multiple):
    for b in batches(ds, {"pt": mm.pad("max", multiple=multiple)}):
        longest = max(len(DATA["pt"][r]) for r in b.rows)
        assert b["pt"].shape[1] == -(-longest // (multiple or 1)) * (multiple or 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7) | st.just("max"), st.integers(0, 4) | st.just("max"), st.sampled_from(["right", "left"]),
       st.sampled_from([1, 2]))  # fmt: skip
def test_two_levels(ds, n, m, side, world_size):
    ranks = [
        batches(ds, {"deep": mm.pad((n, m), value=-1, side=side)}, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        rows = [r for b in parts for r in b.rows]
        outer = max(len(DATA["deep"][r]) for r in rows) if n == "max" else n
        inner = max([len(x) for r in rows for x in DATA["deep"][r]], default=0) if m == "max" else m
        for b in parts:
            expected = [
                padded([padded(x, inner, -1, side) for x in DATA["deep"][r]], outer, [-1] * inner, side) for r in b.rows
            ]
            assert b["deep"].shape == (len(b.rows), outer, inner)
            assert b["deep"].tolist() == expected
            real = [[[True] * len(x) for x in DATA["deep"][r]] for r in b.rows]
            mask = [padded([padded(x, inner, False, side) for x in row], outer, [False] * inner, side) for row in real]
            assert b["deep_mask"].tolist() == mask


def test_text_is_its_bytes(ds):
    for b in batches(ds, {"word": mm.pad(5), "words": mm.pad((2, 3), value=32)}):
        raw = [DATA["word"][r].encode() for r in b.rows]
        assert b["word"].dtype == np.uint8
        assert b["word"].tolist() == [padded(x, 5) for x in raw]
        assert b["word_mask"].sum(1).tolist() == [min(len(x), 5) for x in raw]
        expected = [padded([padded(w.encode(), 3, 32) for w in DATA["words"][r]], 2, [32] * 3) for r in b.rows]
        assert b["words"].tolist() == expected


@pytest.mark.parametrize("name", ["image", "colour"])
@pytest.mark.parametrize("lengths", [(3, 2), "max", ("max", 2), (0, 3), (6, 6)])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_arrays(ds, name, lengths, side, world_size):
    ranks = [
        batches(ds, {name: mm.pad(lengths, value=7, side=side)}, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        rows = [DATA[name][r] for b in parts for r in b.rows]
        asked = ("max", "max") if lengths == "max" else lengths
        shape = [max(x.shape[a] for x in rows) if n == "max" else n for a, n in enumerate(asked)]
        for b in parts:
            assert b[name].shape[1:3] == tuple(shape)
            for i, r in enumerate(b.rows):
                x = DATA[name][r][: shape[0], : shape[1]]
                before = [(n - m, 0) if side == "left" else (0, n - m) for n, m in zip(shape, x.shape, strict=False)]
                rest = [(0, 0)] * (x.ndim - 2)
                assert b[name][i].tolist() == np.pad(x, before + rest, constant_values=7).tolist()
                assert b[f"{name}_mask"][i].tolist() == np.pad(np.ones(x.shape[:2], bool), before).tolist()


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("n", [0, 2, 5, 20, "max"])
def test_modes_are_those_of_numpy(ds, mode, side, n):
    for name in ("pt", "vec", "twice"):
        for b in batches(ds, {name: mm.pad(n, value=-1, mode=mode, side=side)}):
            length = b[name].shape[1]
            for i, r in enumerate(b.rows):
                x = np.array(DATA["pt" if name == "twice" else name][r], "f4")[:length] * (2 if name == "twice" else 1)
                if len(x):
                    missing = length - len(x)
                    widths = [(missing, 0) if side == "left" else (0, missing)] + [(0, 0)] * (x.ndim - 1)
                    x = np.pad(x, widths, mode=mode)
                else:  # where numpy raises
                    x = np.full((length, *b[name].shape[2:]), -1)
                assert b[name][i].tolist() == x.tolist()
            assert b[f"{name}_mask"].sum(1).tolist() == [min(len(DATA["pt"][r]), length) for r in b.rows]


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("n", [(7, 5), (2, 9), "max"])
def test_modes_of_arrays(ds, mode, side, n):
    for name in ("image", "colour"):
        for b in batches(ds, {name: mm.pad(n, mode=mode, side=side)}):
            shape = b[name].shape[1:3]
            for i, r in enumerate(b.rows):
                x = DATA[name][r][: shape[0], : shape[1]]
                widths = [(s - m, 0) if side == "left" else (0, s - m) for s, m in zip(shape, x.shape, strict=False)]
                widths += [(0, 0)] * (x.ndim - 2)
                expected = np.pad(x, widths, mode=mode) if x.size else np.zeros_like(b[name][i])
                assert b[name][i].tolist() == expected.tolist()


@pytest.mark.parametrize("mode", ["constant", "edge", "wrap"])
def test_missing_items_and_rows(ds, mode):
    for b in batches(ds, {"opt": mm.pad("max", value=-1, mode=mode)}):
        n = b["opt"].shape[1]
        rows = [DATA["opt"][r] for r in b.rows]
        assert b["opt_valid"].tolist() == [x is not None for x in rows]
        there = [padded([v is not None for v in x or []], n, False) for x in rows]
        assert b["opt_mask"].tolist() == there
        items = [[-1 if v is None else v for v in x or []] for x in rows]
        expected = [
            x + (x[-1:] if mode == "edge" else x) * n if x and mode != "constant" else padded(x, n, -1) for x in items
        ]
        assert b["opt"].tolist() == [x[:n] for x in expected]


def test_strict(ds):
    order = [int(r) for b in batches(ds, {"deep": mm.packed()}) for r in b.rows]
    long = next(r for r in order if any(len(x) == 3 for x in DATA["deep"][r]))
    for name, n, words in [
        ("pt", 2, r"row \d+ has [3-6] items, more than pad\(2, strict=True\)"),
        ("image", (9, 1), r"row \d+ has the shape \(\d, [23]\), more than pad\(\(9, 1\), strict=True\)"),
        ("deep", (9, 1), rf"row {long} has a list of 3 items at level 2, more than pad\(\(9, 1\), strict=True\)"),
    ]:
        for options in ({}, {"rank": 1, "world_size": 2}):
            with pytest.raises(OptionError, match=words):
                batches(ds, {name: mm.pad(n, strict=True)}, **options)
    assert batches(ds, {"deep": mm.pad((6, 3), strict=True)})


# Cropping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pt", "vec", "word", "twice"])
def test_at_most_so_many_items(ds, name):
    for b in batches(ds, {name: [mm.crop(3), mm.packed()]}):
        rows = [DATA["pt" if name == "twice" else name][r] for r in b.rows]
        rows = [list(x.encode())[:3] if name == "word" else x[:3] for x in rows]
        scale = 2 if name == "twice" else 1
        assert np.diff(b[name].offsets).tolist() == [len(x) for x in rows]
        flat = [np.multiply(v, scale).tolist() for x in rows for v in x]
        assert b[name].values.tolist() == flat


def test_the_shortest_of_a_batch(ds):
    for world_size in (1, 3):
        ranks = [
            batches(ds, {"pt": mm.crop("min"), "colour": mm.crop("min")}, batch_size=3, rank=r, world_size=world_size)
            for r in range(world_size)
        ]
        for parts in zip(*ranks, strict=True):
            rows = [r for b in parts for r in b.rows]
            n = min(len(DATA["pt"][r]) for r in rows)
            m = min(len(DATA["colour"][r]) for r in rows)
            for b in parts:
                assert b["pt"].tolist() == [DATA["pt"][r][:n] for r in b.rows]
                assert b["colour"].tolist() == [DATA["colour"][r][:m].tolist() for r in b.rows]


@pytest.mark.parametrize("lengths", [(3, 1), (None, 1), (2, None)])
def test_both_axes(ds, lengths):
    a, b = lengths
    for name in ("sound", "image", "deep"):
        form = {"image": mm.pad("max"), "deep": mm.pad("max")}.get(name)
        for batch in batches(ds, {name: [mm.crop(lengths), *([form] if form else [])]}):
            for x, r in zip(batch[name], batch.rows, strict=True):
                row = DATA[name][r]
                expected = [list(inner[:b]) for inner in row[:a]]
                if name == "deep":
                    expected = padded([padded(v, batch[name].shape[2]) for v in expected], batch[name].shape[1],
                                      [0] * batch[name].shape[2])  # fmt: skip
                    assert x.tolist() == expected
                elif name == "sound":
                    assert x.tolist() == row[:a, :b].tolist()
                else:
                    part = row[:a, :b]
                    assert x[: part.shape[0], : part.shape[1]].tolist() == part.tolist()
                    assert x.sum() == part.sum()
    lists = batches(ds, {"deep": [mm.crop((2, 1)), mm.packed()]})[0]
    assert np.diff(lists["deep"].offsets).max() == 2
    assert np.diff(lists["deep"].values.offsets).max() == 1


def test_rows_that_are_too_short_are_named(ds):
    short = next(r for r in range(N) if len(DATA["pt"][r]) < 5)
    for step in (mm.crop(5), mm.window(5)):
        with pytest.raises(
            OptionError, match=rf"'pt': row {short} has {len(DATA['pt'][short])} items?, and .* put mm.pad\(5\)"
        ):
            batches(ds, {"pt": step}, shuffle=False)
    with pytest.raises(OptionError, match=r"'opt': row \d+ (has|is missing)"):
        batches(ds, {"opt": mm.crop(7)})
    with pytest.raises(OptionError, match=r"'image': row \d+ has the shape .* makes rows of the shape"):
        batches(ds, {"image": mm.crop((1, None))})


# Windows -----------------------------------------------------------------------------------------------------------


def test_windows_are_runs_of_their_rows_and_pads_follow(ds):
    for name in ("pt", "twice", "vec"):
        for b in batches(ds, {name: [mm.window(3), mm.pad(3, value=-1)]}):
            for x, mask, r in zip(b[name], b[f"{name}_mask"], b.rows, strict=True):
                row = np.array(DATA["pt" if name == "twice" else name][r]) * (2 if name == "twice" else 1)
                runs = [row[i : i + 3].tolist() for i in range(max(len(row) - 2, 1))]
                assert x[mask].tolist() in runs


@pytest.mark.parametrize("name", ["sound", "image", "colour"])
@pytest.mark.parametrize("axis", [0, 1])
def test_windows_on_any_axis(ds, name, axis):
    step = mm.window(1, axis=axis)
    step = step if name == "sound" else [step, mm.pad("max")]
    starts = set()
    for epoch_seed in range(4):
        for b in batches(ds, {name: step}, seed=epoch_seed):
            for x, r in zip(b[name], b.rows, strict=True):
                row = DATA[name][r]
                if not row.size:
                    continue
                runs = [np.take(row, [i], axis) for i in range(row.shape[axis])]
                x = x[tuple(slice(n) for n in runs[0].shape)]
                found = [i for i, run in enumerate(runs) if run.tolist() == x.tolist()]
                assert found
                starts.add(found[0])
    assert len(starts) > 1


def test_two_windows_in_one_chain(ds):
    for b in batches(ds, {"sound": [mm.window(4), mm.window(1, axis=1), mm.crop((3, None))]}):
        for x, r in zip(b["sound"], b.rows, strict=True):
            row = DATA["sound"][r]
            assert x.tolist() in [row[i : i + 3, j : j + 1].tolist() for i in range(6) for j in range(2)]


def test_a_window_is_the_row_s_own_in_an_epoch(ds):
    step = [mm.window(2), mm.pad(2)]

    def found(**options):
        return {r: x.tolist() for r, x in each_row(ds, "pt", step, **options).items()}

    expected = found()
    assert found(batch_size=7) == expected
    assert found(shuffle=False) == expected
    ranks = [found(rank=r, world_size=2) for r in range(2)]
    assert ranks[0] | ranks[1] == expected
    assert found(seed=2) != expected
    loader = ds.batches(N, fields=["pt"], collate={"pt": step}, seed=1)
    loader.set_epoch(1)
    assert {int(r): x.tolist() for r, x in zip(loader[0].rows, loader[0]["pt"], strict=True)} != expected


def test_every_start_is_as_likely(tmp_path):
    n, length = 20_000, 10
    ds = mm.from_arrays({"x": np.tile(np.arange(length), (n, 1)), "pt": [list(range(length))] * n}, tmp_path / "w.mm")
    for name in ("x", "pt"):
        for options, first, last in (({}, 0, 7), ({"start": 2, "stop": 8}, 2, 5), ({"start": 7}, 7, 7)):
            starts = ds.batches(n, fields=[name], collate={name: mm.window(3, **options)})[0][name][:, 0]
            assert (starts.min(), starts.max()) == (first, last)
            counts = np.bincount(starts)[first:]
            expected = n / len(counts)
            assert (abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_only_the_window_is_read(ds, monkeypatch):
    from mmdask.rows import rows

    taken = []
    original = rows.reader.take
    monkeypatch.setattr(rows.reader, "take", lambda *args: taken.append(original(*args)) or taken[-1])
    batches(ds, {"pt": [mm.window(2), mm.pad(2)]})
    assert sum(len(t.values) for t in taken) == sum(min(len(x), 2) for x in DATA["pt"])


# Other forms -------------------------------------------------------------------------------------------------------


def test_nested_is_awkward(ds):
    names = ["pt", "deep", "word", "words", "opt", "image", "vec"]
    for b in batches(ds, {name: mm.nested() for name in names}):
        for name in names:
            assert isinstance(b[name], ak.Array)
            expected = [DATA[name][r] for r in b.rows]
            assert b[name].to_list() == [x.tolist() if name == "image" else x for x in expected]
    for b in batches(ds, {"deep": [mm.crop((2, 1)), mm.nested()]}):
        assert b["deep"].to_list() == [[x[:1] for x in DATA["deep"][r][:2]] for r in b.rows]


def test_one_hot(ds):
    labels = ds.schema["process"].labels
    for b in batches(ds, {"process": mm.one_hot()}):
        assert b["process"].dtype == np.float32
        expected = [[float(DATA["process"][r] == label) for label in labels] for r in b.rows]
        assert b["process"].tolist() == expected
        assert b["process_valid"].tolist() == [DATA["process"][r] is not None for r in b.rows]
    assert batches(ds, {"process": [mm.one_hot(), mm.astype("f8"), mm.expand_dims(0)]})[0]["process"].shape == (
        16,
        1,
        2,
    )
    assert batches(ds, {"process": mm.astype("i8")})[0]["process"].dtype == np.int64


def test_dtypes_and_axes(ds):
    b = batches(ds, {"n": [mm.astype("f4"), mm.pad(4, value=np.nan), mm.expand_dims(0), mm.expand_dims(-1)],
                     "pt": mm.astype("f8"), "image": [mm.astype("f4"), mm.expand_dims(-1)],
                     "sound": [mm.window(1, axis=1), mm.squeeze(-1)]})[0]  # fmt: skip
    assert (b["n"].shape, b["n"].dtype) == ((16, 1, 4, 1), np.float32)
    assert np.isnan(b["n"]).sum() == (~b["n_mask"]).sum()
    assert b["pt"].values.dtype == np.float64
    assert [x.shape[2:] for x in b["image"]] == [(1,)] * 16
    assert {x.dtype for x in b["image"]} == {np.dtype("f4")}
    assert b["sound"].shape == (16, 9)
    with pytest.raises(OptionError, match="takes an axis of length 1 away, and it is 9 long"):
        batches(ds, {"sound": mm.squeeze(0)})


def test_records_go_together(ds, tmp_path):
    data = {"jet_pt": DATA["pt"], "jet_eta": DATA["eta"], "jet_n": [len(x) for x in DATA["pt"]], "jet_id": DATA["n"]}
    made = mm.from_arrays(data, tmp_path / "r.mm")
    for b in batches(made, {"jet": mm.pad(3)}, fields="jet_*"):
        assert list(b) == ["jet_pt", "jet_eta", "jet_id", "jet_mask", "jet_n"]
        assert b["jet_eta"].tolist() == [padded(DATA["eta"][r], 3) for r in b.rows]
        assert b["jet_mask"].sum(1).tolist() == [min(len(DATA["pt"][r]), 3) for r in b.rows]
    for b in batches(made, {"jet": [mm.window(2), mm.pad(2)], "jet_id": mm.packed()}, fields="jet_*"):
        assert isinstance(b["jet_id"], mm.Packed)
        for pt, eta, r in zip(b["jet_pt"], b["jet_eta"], b.rows, strict=True):
            pairs = list(zip(np.float32(DATA["pt"][r]).tolist(), DATA["eta"][r], strict=True))
            if len(pairs) >= 2:
                assert list(zip(pt.tolist(), eta.tolist(), strict=True)) in [
                    pairs[i : i + 2] for i in range(len(pairs))
                ]


@pytest.mark.parametrize("step", [mm.pad(22), mm.pad("max"), [mm.crop(2), mm.pad(2)], [mm.window(2), mm.pad(2)]])
def test_members_of_differing_length_are_refused(tmp_path, step):
    made = mm.from_arrays({"jet_pt": [[1.0], [2.0, 3.0]], "jet_eta": [[1.0], [2.0]]}, tmp_path / "r.mm")
    for collate in ({"jet": step}, {"jets": mm.stack("jet_*", step=step)}):
        with pytest.raises(ExpressionError, match="row 1 has not as many items in 'jet_eta' as in 'jet_pt'"):
            batches(made, collate, fields="jet_*")


def test_stacks(ds):
    fields = ["pt", "eta", "n", "met", "opt"]
    for b in batches(ds, {"jets": mm.stack("pt", "eta", "n", step=mm.pad(4, value=-1))}, fields=fields):
        assert list(b) == ["jets", "jets_mask", "met", "opt", "opt_valid"]
        assert b["jets"].dtype == np.float64
        assert b["jets"].shape == (len(b.rows), 4, 3)
        for i, name in enumerate(("pt", "eta", "n")):
            assert b["jets"][..., i].tolist() == [padded(DATA[name][r], 4, -1) for r in b.rows]
        assert b["jets_mask"].shape == (len(b.rows), 4)
    packed = batches(ds, {"jets": mm.stack("pt", "n")}, fields=fields)[0]["jets"]
    assert packed.values.shape == (packed.offsets[-1], 2)
    both = batches(ds, {"jets": mm.stack("pt", "eta", step=mm.pad(2)), "pt": mm.packed()}, fields=["pt", "eta"])[0]
    assert sorted(both) == ["jets", "jets_mask", "pt"]


def test_a_stack_of_arrays_of_differing_shape(tmp_path):
    fields = [mm.Field.category("a", ["x", "y"]), mm.Field.category("b", ["x"])]
    with mm.create(tmp_path / "c.mm", fields=fields) as w:
        w.extend({"a": ["x", "y"], "b": ["x", "x"]})
    with pytest.raises(OptionError, match=r"arrays of one shape, and these have \[\(2,\), \(1,\)\] in a row"):
        batches(mm.open(tmp_path / "c.mm"), {"s": mm.stack("a", "b", step=mm.one_hot())}, fields=["a", "b"])


def test_a_stack_of_fields_that_may_be_missing(tmp_path):
    fields = [mm.Field.ragged("a", "f4", optional=(0, 1)), mm.Field.ragged("b", "f4", optional=(1,))]
    with mm.create(tmp_path / "o.mm", fields=fields) as w:
        w.extend({"a": [[1.0, None], None, []], "b": [[None, 2.0], [], []]})
    ds = mm.open(tmp_path / "o.mm")
    b = ds.batches(3, shuffle=False, collate={"both": mm.stack("a", "b", step=mm.pad(2, value=9))})[0]
    assert b["both"].tolist() == [[[1, 9], [9, 2]], [[9, 9]] * 2, [[9, 9]] * 2]
    assert b["both_mask"].tolist() == [[False, False]] * 3
    assert b["both_valid"].tolist() == [True, False, True]


# Everything together -----------------------------------------------------------------------------------------------

PACKED = mm.packed()
ANY = {
    "pt": [mm.packed(), mm.pad(3), mm.pad("max"), [mm.window(2), mm.pad(2)], mm.crop("min"), mm.nested()],
    "deep": [
        mm.packed(),
        mm.pad((2, 2)),
        mm.pad("max"),
        [mm.crop((1, None)), mm.packed()],
        [mm.window(1), mm.packed()],
    ],
    "twice": [mm.packed(), mm.pad(3), mm.pad("max", mode="wrap"), [mm.crop(2), mm.pad(2)]],
    "image": [[], mm.pad("max"), mm.pad((2, 2), mode="edge"), [mm.window(1), mm.pad("max")], mm.crop("min")],
    "words": [[], mm.packed(), mm.pad((2, 2)), [mm.crop((2, 1)), mm.pad("max")]],
    "opt": [mm.packed(), mm.pad("max"), [mm.crop(2), mm.pad(2, mode="edge")]],
    "sound": [[], mm.window(4), mm.crop((2, 1))],
}


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(steps) for name, steps in ANY.items()}),
    st.sampled_from([1, 5, 16, 200]),
    st.sampled_from([True, False, "exact"]),
)
def test_batches_that_are_read_together_are_those_read_alone(ds, collate, batch_size, shuffle):
    def plain(value):
        if isinstance(value, ak.Array):
            return value.to_list()
        if isinstance(value, mm.Packed | list | tuple):
            return [plain(v) for v in value]
        return value.tolist() if isinstance(value, np.ndarray) else value

    fields = [*collate, "met"]
    loader = ds.batches(batch_size, fields=fields, collate=collate, shuffle=shuffle)
    other = pickle.loads(pickle.dumps(loader))
    together = list(loader)
    arrays = []
    for b in together:
        alone = other[b.index]
        assert list(b) == list(alone)
        assert str([plain(v) for v in b.values()]) == str([plain(v) for v in alone.values()])  # nan is nan
        arrays += [v for v in b.values() if isinstance(v, np.ndarray) and v.size]
    for x, y in itertools.combinations(arrays[:40], 2):
        assert not np.shares_memory(x, y)
    assert all(x.flags.writeable for x in arrays)


def test_batches_without_rows(ds):
    every = {name: step for name, steps in ANY.items() for step in steps[1:2]}
    ranks = [batches(ds[:2], every, batch_size=8, rank=r, world_size=4) for r in range(4)]
    assert [len(r[0].rows) for r in ranks] == [0, 1, 0, 1]
    for a, b in itertools.pairwise(ranks):
        assert a[0]["image"].shape[1:] == b[0]["image"].shape[1:]
        assert a[0]["sound"].shape[1:] == b[0]["sound"].shape[1:] == (4, 2)
    assert batches(ds[:0], every) == []


@pytest.mark.parametrize("form", ["twin", "compiled"])
def test_both_forms_of_the_kernels(ds, form, monkeypatch):
    from mmdask.kernels.jit import Kernel

    call = {"twin": lambda k, *a: k.twin(*a), "compiled": lambda k, *a: k.compiled(*a)(*a)}[form]
    monkeypatch.setattr(Kernel, "__call__", call)
    test_windows_are_runs_of_their_rows_and_pads_follow(ds)
    test_arrays(ds, "colour", "max", "left", 1)


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        ({"met": mm.pad(3)}, r"pad\(\) is for ragged fields"),
        ({"met": mm.window(3)}, r"mm.window\(\) is for lists and arrays"),
        ({"met": mm.crop(3)}, r"mm.crop\(\) is for lists and arrays"),
        ({"met": mm.nested()}, r"nested\(\) is for lists"),
        ({"met": mm.one_hot()}, "codes of a category"),
        ({"process": mm.pad(3)}, r"pad\(\) is for ragged"),
        ({"pt": mm.pad((3, 4))}, r"does not fit it: say one length"),
        ({"deep": mm.pad(3)}, r"say the length of each axis, as in mm.pad\(\(64, 64\)\)"),
        ({"deep": mm.pad((3, 4), mode="edge")}, "one level of lists"),
        ({"deep": mm.crop("min")}, "as many axes|one number|one level"),
        ({"deep": mm.crop((2, 2))}, r"without mm.pad\(\) or mm.packed\(\) behind"),
        ({"pt": mm.window(2, axis=1)}, "for rows with such an axis"),
        ({"sound": mm.window(2, axis=2)}, "for rows with such an axis"),
        ({"sound": mm.crop(2)}, "crops 1 axes"),
        ({"image": [mm.crop((1, 1)), mm.nested()]}, "does not serve arrays that are cut"),
        ({"pt": [mm.pad(3), mm.window(2)]}, r"mm.window\(2\) comes too late"),
        ({"pt": [mm.pad(3), mm.packed()]}, "comes too late"),
        ({"pt": [mm.pad(3), 4]}, r"collate\['pt'\] is a step like .*; got 4"),
        ({"pt": mm.pad}, "is a step like"),
        ({"pt": mm.astype("i4")}, "would change the kind of its numbers, which are float32"),
        ({"word": mm.astype("f4")}, "is for numbers, and here it gets a list of str"),
        ({"pt": mm.expand_dims(0)}, "is for arrays, and here it gets mm.Packed"),
        ({"met": mm.expand_dims(2)}, "beyond the 0 axes of a row"),
        ({"met": mm.squeeze(0)}, "beyond the 0 axes"),
        ({"pt": mm.pad(3, value=1e99)}, "cannot be held by float32"),
        ({"n": mm.pad(3, value=np.nan)}, "cannot be held by int16"),
        ({"nothing": mm.pad(3)}, "which is not among fields"),
        ({"s": mm.stack("pt", "met")}, "a stack takes arrays of one shape"),
        ({"s": mm.stack("pt", "vec", step=mm.pad(2))}, "a stack takes arrays of one shape"),
        ({"s": mm.stack("pt", "nothing")}, "no field 'nothing'"),
        ({"met": mm.stack("pt", "eta")}, "a name of its own"),
        ({"pt": mm.stack("pt", "n")}, "a name of its own"),
    ],
)
def test_what_does_not_fit(ds, collate, message):
    with pytest.raises(OptionError, match=message):
        ds.batches(4, collate=collate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mm.pad(3, mode="mean"), "pad\\(mode=\\)"),
        (lambda: mm.pad(3, multiple=8), "rounds 'max' up"),
        (lambda: mm.pad("max", multiple=0), "at least 1"),
        (lambda: mm.pad("max", multiple="max"), "at least 1"),
        (lambda: mm.pad(()), "pad\\(n\\) takes"),
        (lambda: mm.crop(-1), "crop\\(n\\)"),
        (lambda: mm.crop("max"), "crop\\(n\\)"),
        (lambda: mm.crop(True), "crop\\(n\\)"),
        (lambda: mm.window(2.5), "window\\(n\\)"),
        (lambda: mm.window(2, axis=-1), "window\\(axis=\\)"),
        (lambda: mm.window(5, start=2, stop=6), "leaves no room for 5 items"),
        (lambda: mm.expand_dims("a"), "is an integer"),
        (lambda: mm.stack(), "stack takes names"),
        (lambda: mm.stack("a", 3), "stack takes names"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_nothing_of_every_row(ds):
    for step in (
        mm.window(0),
        mm.crop(0),
        mm.pad(0),
        [mm.crop(0), mm.pad(0, mode="wrap")],
        [mm.window(0), mm.pad("max")],
    ):
        for b in batches(ds, {"pt": step, "vec": step, "twice": step, "word": step}):
            n = len(b.rows)
            assert [b[name].shape for name in ("pt", "vec", "twice", "word")] == [(n, 0), (n, 0, 2), (n, 0), (n, 0)]
    b = batches(
        ds, {"pt": [mm.window(0), mm.packed()], "sound": mm.crop((0, 2)), "image": [mm.crop((0, 0)), mm.pad(2 * (1,))]}
    )[0]
    assert b["pt"].values.shape == (0,)
    assert b["sound"].shape == (16, 0, 2)
    assert b["image"].tolist() == [[[0]]] * 16


@pytest.mark.parametrize("optional", [(), (0, 1, 2, 3)])
def test_three_levels(tmp_path, optional):
    rows = [[[[1, 2], []], []], [], [[[3], [4, 5, 6], [7]]], [[], [[8]]]]
    if optional:
        rows = [[[[1, None], None], []], None, [None, [[3], [None, 5, 6], [7]]], [[], [[8]]]]
    with mm.create(tmp_path / "3.mm", fields=[mm.Field.ragged("x", "i4", levels=3, optional=optional)]) as w:
        w.extend({"x": rows})
    ds = mm.open(tmp_path / "3.mm")

    def array(x, lengths, leaf):
        if not lengths:
            return leaf(x)
        x = [] if x is None else x[: lengths[0]]
        return [array(v, lengths[1:], leaf) for v in x] + [array(None, lengths[1:], leaf)] * (lengths[0] - len(x))

    for lengths in ((2, 2, 2), (1, 3, 1), (2, 3, 3), (0, 1, 1)):
        b = ds.batches(4, shuffle=False, collate={"x": mm.pad(lengths, value=-1)})[0]
        assert b["x"].tolist() == [array(r, lengths, lambda v: -1 if v is None else v) for r in rows]
        assert b["x_mask"].tolist() == [array(r, lengths, lambda v: v is not None) for r in rows]
        cut = ds.batches(4, shuffle=False, collate={"x": [mm.crop(lengths), mm.pad("max", value=-1)]})[0]["x"]
        assert b["x"][tuple(map(slice, cut.shape))].tolist() == cut.tolist()
        assert (b["x"] != -1).sum() == (cut != -1).sum()
    assert ds.batches(4, collate={"x": mm.pad("max")})[0]["x"].shape == (4, 2, 3, 3)


def test_without_maps(ds, tmp_path):
    path = tmp_path / "p.mm"
    with mm.create(path, fields=FIELDS) as w:
        w.extend({name: values[:40] for name, values in DATA.items()})
    with mm.append(path) as w:
        w.extend({name: values[40:] for name, values in DATA.items()})
    plain = mm.open(path, io="pread").assign(twice="pt * 2")
    for i in range(max(map(len, ANY.values()))):
        steps = {name: found[i % len(found)] for name, found in ANY.items() if name != "pt"}
        for a, b in zip(batches(ds, steps, block=8), batches(plain, steps, block=8), strict=True):
            assert a.rows.tolist() == b.rows.tolist()
            assert str(list(a.values())) == str(list(b.values()))
