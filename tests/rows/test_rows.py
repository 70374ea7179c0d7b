"""Sets of rows against plain Python lists: slices, cuts, folds and their combinations over several parts."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.expr import check_cut
from mmdask.kernels import permute
from mmdask.kernels.hashing import hash_key
from mmdask.rows import bits, selecting
from mmdask.rows.bits import RowBits
from mmdask.rows.cuts import masks, passes
from mmdask.rows.draws import splits
from mmdask.rows.draws.dealing import Deal, quotas
from mmdask.rows.draws.splits import folds, hash_rows, modulo_folds
from mmdask.rows.rows import RESOLVED, Rows
from mmdask.schema import Field, FieldData
from mmdask.store.snapshot import open_snapshot
from mmdask.testing import count_reads


@st.composite
def row_bits(draw):
    """Masks of some parts, and the same as RowBits with True and False where a part allows it."""
    parts = draw(st.lists(st.lists(st.booleans(), max_size=40), min_size=1, max_size=5))
    stored = []
    for mask in parts:
        packed = bits.pack(np.array(mask, bool))
        stored.append(draw(st.sampled_from([packed, all(mask)])) if len(set(mask)) < 2 else packed)
    starts = np.concatenate([[0], np.cumsum([len(m) for m in parts])]).astype(np.int64)
    return [b for m in parts for b in m], RowBits(starts, stored)


@settings(max_examples=300, deadline=None)
@given(row_bits(), st.integers(1, 50), st.data())
def test_bits_answer_as_a_list_would(case, block, data):
    mask, row_set = case
    n = len(mask)
    kept = [i for i, b in enumerate(mask) if b]
    assert len(row_set) == len(kept)
    assert row_set.block_counts(block).tolist() == [sum(mask[a : a + block]) for a in range(0, n, block)]
    a, b = sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))
    assert row_set.rows_between(a, b).tolist() == [i for i in kept if a <= i < b]
    i, j = sorted((data.draw(st.integers(0, len(kept))), data.draw(st.integers(0, len(kept)))))
    assert row_set.select(i, j).tolist() == kept[i:j]
    blocks = data.draw(st.permutations(range(-(-n // block))))
    expected = [i for k in blocks for i in kept if k * block <= i < (k + 1) * block]
    assert row_set.rows_of_blocks(np.array(blocks, np.int64), block).tolist() == expected


def test_rank_over_pieces(monkeypatch):
    monkeypatch.setattr(bits, "_PIECE", 64)
    rng = np.random.default_rng(3)
    mask = rng.random(1000) < 0.3
    row_set = RowBits(np.array([0, 1000]), [bits.pack(mask)])
    np.testing.assert_array_equal(row_set.rank(np.arange(1001)), np.concatenate([[0], np.cumsum(mask)]))
    np.testing.assert_array_equal(row_set.rows_between(5, 990), np.flatnonzero(mask[:990])[mask[:5].sum() :])


PARTS = (7, 0, 13, 40)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "s.mm"
    rng = np.random.default_rng(0)
    first = True
    for i, n in enumerate(PARTS):
        with mm.create(path, labels={"p": "ab"[i % 2]}) if first else mm.append(path, labels={"p": "ab"[i % 2]}) as w:
            lengths = rng.integers(0, 4, n)
            w.extend(
                {
                    "x": rng.integers(0, 10, n),
                    "event": rng.integers(0, 12, n),
                    "f": rng.random((n, 2)).astype("f4"),
                    "r": [rng.integers(0, 9, k).tolist() for k in lengths] if n else np.zeros((0, 0), int),
                    "t": [f"t{k}" for k in lengths],
                }
            )
        first = False
    return path


def plain(path):
    """The whole store as lists, read by numpy alone."""
    fields = {name: [] for name in ("x", "event", "f", "r", "t", "p")}
    manifest = json.loads((path / "manifest.json").read_bytes())
    for [layer] in manifest["parts"]["layers"]:
        folder = path / "parts" / layer
        info = json.loads((folder / "part.json").read_bytes())
        arrays = [np.load(folder / a["file"]) for a in info["arrays"]]
        for name, stored in info["fields"].items():
            if "constant" in stored:
                fields[name] += [stored["constant"]] * info["rows"]
                continue
            values = arrays[stored["values"]]
            if "offsets" not in stored:
                fields[name] += values.tolist()
                continue
            o = arrays[stored["offsets"][0]].tolist()
            for a, b in zip(o[:-1], o[1:], strict=True):
                fields[name].append(bytes(values[a:b]).decode() if name == "t" else values[a:b].tolist())
    return fields


steps = st.lists(
    st.one_of(
        st.tuples(st.just("slice"), st.integers(-70, 70), st.integers(-70, 70), st.integers(1, 4)),
        st.tuples(st.just("cut"), st.sampled_from(["x > 4", "p == 'a'", "len(r) > 1 and x < 8", "sum(r) < event"])),
        st.tuples(st.just("fold"), st.sampled_from([None, "event", "t"]), st.integers(0, 3)),
        st.tuples(st.just("mod"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("deal"), st.sampled_from([None, "p", "x"]), st.integers(0, 3), st.booleans()),
    ),
    max_size=4,
)
PASSES = {
    "x > 4": lambda d, i: d["x"][i] > 4,
    "p == 'a'": lambda d, i: d["p"][i] == "a",
    "len(r) > 1 and x < 8": lambda d, i: len(d["r"][i]) > 1 and d["x"][i] < 8,
    "sum(r) < event": lambda d, i: sum(d["r"][i]) < d["event"][i],
}


@pytest.mark.filterwarnings("ignore::mmdask.UnevenFoldsWarning")
@settings(max_examples=150, deadline=None)
@given(steps)
def test_chains_of_steps_select_what_lists_would(store, chain):
    data = plain(store)
    snapshot = open_snapshot(store)
    rows = Rows(snapshot)
    kept = list(range(sum(PARTS)))
    for step in chain:
        if step[0] == "slice":
            rows, kept = rows.sliced(slice(*step[1:])), kept[slice(*step[1:])]
        elif step[0] == "cut":
            rows = rows.cut(check_cut(step[1], snapshot.schema))
            kept = [i for i in kept if PASSES[step[1]](data, i)]
        elif step[0] == "mod":
            fold = replace(modulo_folds({"a": 1, "b": step[1]}, "event")["a"], inside=step[2])
            rows = rows.fold(fold)
            kept = [i for i in kept if (data["event"][i] % (1 + step[1]) == 0) == step[2]]
        elif step[0] == "deal":
            deal = Deal((0.5, 0.2, 0.3), step[2], step[1])
            rows = rows.dealt(deal, 1, inside=step[3])
            kept = [i for i in kept if (_fold_of(deal, data, kept, i) == 1) == step[3]]
        else:
            fold = folds({"a": 0.5, "b": 0.5}, step[1], step[2])["a"]
            rows = rows.fold(fold)
            kept = [i for i in kept if _in_fold(fold, snapshot.schema, data, i)]
    rows = pickle.loads(pickle.dumps(rows))
    assert len(rows) == len(kept)
    assert rows.numbers(0, len(rows)).tolist() == kept
    counts = rows.block_counts(8)
    assert counts.tolist() == [sum(a <= i < a + 8 for i in kept) for a in range(0, sum(PARTS), 8)]
    order = np.array([3, 0, 7, 1])
    assert rows.rows_of_blocks(order, 8).tolist() == [i for k in order for i in kept if k * 8 <= i < k * 8 + 8]
    a, b = len(kept) // 3, len(kept)
    got = rows.read("r", a, b)
    assert [got.values[p:q].tolist() for p, q in zip(got.offsets[0][:-1], got.offsets[0][1:], strict=True)] == [
        data["r"][i] for i in kept[a:b]
    ]
    assert rows.item_count("r", a, b) == sum(len(data["r"][i]) for i in kept[a:b])
    got = rows.read("p", a, b)
    assert [got.labels[c] for c in got.values] == [data["p"][i] for i in kept[a:b]]
    assert rows.read("f", a, b).values.tolist() == [data["f"][i] for i in kept[a:b]]


def _fold_of(deal, data, kept, i):
    """The fold of one row, by its rank among the rows of its class."""
    value = None if deal.by is None else data[deal.by][i]
    alike = [j for j in kept if deal.by is None or data[deal.by][j] == value]
    label = "missing" if value is None else f"label {value}" if deal.by == "p" else int(value)
    key = np.array([hash_key("mmdask.deal", 1, deal.seed, label)], "u8")
    place = permute.forward(np.array([alike.index(i)]), np.array([len(alike)]), key)[0]
    return next(fold for fold, end in enumerate(np.cumsum(quotas(len(alike), deal.shares))) if place < end)


def _in_fold(fold, schema, data, i):
    by = fold.numbering.by
    if not by:
        field, one = Field.dense("row", "i8"), FieldData(np.array([i]))
    elif by == ("t",):
        raw = np.frombuffer(data["t"][i].encode(), np.uint8)
        field, one = schema["t"], FieldData(raw, (np.array([0, len(raw)]),))
    else:
        field, one = schema["event"], FieldData(np.array([data["event"][i]]))
    return bool(fold.holds(hash_rows(field, one, fold.numbering.seed))[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, sum(PARTS) - 1), max_size=30))
def test_rows_are_taken_in_any_order(store, numbers):
    data, rows = plain(store), Rows(open_snapshot(store))
    wanted = np.array(numbers, np.int64)
    assert rows.take("x", wanted).values.tolist() == [data["x"][i] for i in numbers]
    got = rows.take("t", wanted)
    assert [bytes(got.values[p:q]).decode() for p, q in zip(got.offsets[0][:-1], got.offsets[0][1:], strict=True)] == [
        data["t"][i] for i in numbers
    ]
    got = rows.take("p", wanted)
    assert [got.labels[c] for c in got.values] == [data["p"][i] for i in numbers]
    values, mask = rows.take_padded("r", wanted, 2, -1)
    assert values.tolist() == [(data["r"][i] + [-1, -1])[:2] for i in numbers]
    assert mask.sum(axis=1).tolist() == [min(len(data["r"][i]), 2) for i in numbers]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-sum(PARTS), sum(PARTS) - 1), max_size=30), st.integers(0, 20), st.sampled_from([1, 3]))
def test_numbers_of_selected_rows_in_any_order(store, indices, start, step):
    everything = Rows(open_snapshot(store))
    cut = everything.cut(check_cut("x > 4", everything.schema))
    for rows in (everything.sliced(slice(start, None, step)), cut.sliced(slice(None, None, step)), cut):
        selected = rows.numbers(0, len(rows))
        inside = [i for i in indices if -len(rows) <= i < len(rows)]
        assert rows.numbers_of(np.array(inside, np.int64)).tolist() == [selected[i] for i in inside]
        assert [rows.number(i) for i in inside[:3]] == [selected[i] for i in inside[:3]]
        for wrong in (len(rows), -len(rows) - 1):
            with pytest.raises(mm.RowNotFoundError, match=f"no row {wrong}: there are {len(rows)} rows"):
                rows.number(wrong)
            with pytest.raises(mm.RowNotFoundError, match=f"no row {wrong}: there are {len(rows)} rows"):
                rows.numbers_of(np.array([0, wrong]))
        with pytest.raises(mm.RowNotFoundError, match=str(2**64 - 1)):
            rows.numbers_of(np.array([2**64 - 1], np.uint64))


def test_rows_out_of_range_are_refused(store):
    rows = Rows(open_snapshot(store))
    for wrong in ([60], [-1], [0, 10**9]):
        with pytest.raises(mm.RowNotFoundError, match="60"):
            rows.take("x", np.array(wrong))
    with pytest.raises(mm.OptionError, match="positive step"):
        rows.sliced(slice(None, None, -1))


@pytest.fixture
def reads():
    """Rows that are read."""
    with count_reads() as counted:
        yield counted


def forget():
    """Be a process that has found no selection yet."""
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture(autouse=True)
def _forget():
    forget()


def count(path, *texts):
    forget()
    snapshot = open_snapshot(path)
    rows = Rows(snapshot)
    for text in texts:
        rows = rows.cut(check_cut(text, snapshot.schema))
    return len(rows)


def test_a_cut_is_computed_once_and_incrementally(store, tmp_path, reads):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    reads.clear()
    n = count(path, "x > 4 and event < 9")
    assert reads.n_rows == 2 * sum(PARTS)
    reads.clear()
    assert count(path, "x > 4 and event < 9") == n
    assert count(path, "x>4&event<9") == n, "another spelling is the same cut"
    assert count(path, "x > 4") >= n, "the leaves are kept apart"
    assert reads.n_rows == 0
    with mm.append(path, labels={"p": "a"}) as w:
        w.extend({"x": [5, 0], "event": [0, 20], "f": np.zeros((2, 2), "f4"), "r": [[1], []], "t": ["", ""]})
    assert count(path, "x > 4 and event < 9") == n + 1
    assert reads.n_rows == 4, "only the appended rows are read"


def test_cuts_asked_for_together_read_each_field_once(store, tmp_path, reads):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    reads.clear()
    count(path, "x > 1", "x > 2 & event > 1", "x < 9 & event < 11")
    assert sorted((read.part, read.field) for read in reads.log) == sorted(
        (part, name) for part in range(3) for name in ("x", "event")
    )


def test_labels_rule_out_parts_without_reading(store, tmp_path, reads):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    reads.clear()
    assert count(path, "p == 'a'") == PARTS[0] + PARTS[2]
    assert not (path / "cache").exists()
    count(path, "p == 'b' and x > 4")
    assert {read.part for read in reads.log if read.field == "x"} == {2}, "the third part that has rows"


def test_damaged_or_foreign_masks_are_computed_again(store, tmp_path):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    n = count(path, "x > 4")
    kept = sorted((path / "cache").rglob("*.mask"))
    assert len(kept) == sum(1 for p in PARTS if p)
    [whole] = (path / "cache").rglob("*.rows")
    for change in (lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:40] + b[41:]):
        for file in (*kept, whole):
            file.write_bytes(change(file.read_bytes()))
        assert count(path, "x > 4") == n
    more = count(path, "x > 1")
    [other] = [f for f in (path / "cache").rglob("*.rows") if f != whole]
    whole.write_bytes(other.read_bytes())
    for wrong in [f for f in (path / "cache").rglob("*.mask") if f not in kept]:
        # A whole mask under the name of another one of the same part.
        [right] = [f for f in kept if _rows_of_mask(f) == _rows_of_mask(wrong)]
        right.write_bytes(wrong.read_bytes())
    assert more != n
    assert count(path, "x > 4") == n, "a mask under another's name is not taken for it"


def _rows_of_mask(file):
    return json.loads(file.read_bytes().split(b"\n")[2])["rows"]


def test_masks_of_a_store_that_cannot_be_written_go_to_the_users_cache(store, tmp_path, reads, monkeypatch):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(masks.os, "access", lambda *_: False)
    n = count(path, "x > 4")
    assert not (path / "cache").exists()
    assert list((tmp_path / "home" / "mmdask").rglob("*.mask"))
    reads.clear()
    assert count(path, "x > 4") == n
    assert reads.n_rows == 0


def test_masks_that_others_could_have_written_are_not_trusted(store, tmp_path, reads, monkeypatch):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    count(path, "x > 4")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(masks.os, "getuid", lambda: 12345)
    reads.clear()
    count(path, "x > 4")
    assert reads.n_rows == sum(PARTS)


def test_a_full_disk_loses_the_kept_mask_and_nothing_else(store, tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    n = count(path, "x > 4")
    shutil.rmtree(path / "cache")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(masks, "write_atomically", full)
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert count(path, "x > 4") == n
    assert not list((path / "cache").rglob("*.mask"))


# Found once in a process ----------------------------------------------------------------------------------------------


def test_a_selection_is_found_once_in_a_process(store, reads):
    snapshot = open_snapshot(store)
    reads.clear()
    rows = Rows(snapshot).cut(check_cut("x > 4", snapshot.schema))
    fold = rows.fold(folds({"a": 0.5, "b": 0.5}, "event", 1)["a"])
    assert not fold.resolved
    n = len(fold)
    assert [read.field for read in reads.log].count("event") == sum(1 for p in PARTS if p), "the key is read once"
    reads.clear()
    for again in (pickle.loads(pickle.dumps(fold)), rows.fold(fold.steps[-1].fold)):
        assert again.resolved
        assert len(again) == n
    assert len(fold.sliced(slice(2, n))) == n - 2, "a slice begins with what is known"
    assert fold.cut(check_cut("p == 'a'", snapshot.schema)).numbers(0, 1).tolist()
    assert set(reads.rows) <= {"p"}, "a constant at most"
    assert rows.bits.parts is not fold.bits.parts


def test_selections_found_are_given_up_beyond_a_limit(store, monkeypatch):
    monkeypatch.setattr(RESOLVED, "limit", 3000)
    snapshot = open_snapshot(store)
    for x in range(8):
        assert len(Rows(snapshot).cut(check_cut(f"x > {x}", snapshot.schema)))
    assert 0 < len(RESOLVED._values) < 8


def test_chunks_of_a_cut_read_each_mask_once(store, tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("cache"))
    n = count(path, "x > 4")
    forget()
    snapshot = open_snapshot(path)
    loads = []
    original = masks.MaskFiles._read

    def read(self, path, magic, *args):
        if magic == masks._MASK:
            loads.append(path)
        return original(self, path, magic, *args)

    monkeypatch.setattr(masks.MaskFiles, "_read", read)
    leaves = [check_cut("x > 4", snapshot.schema)]
    passed = [passes.passing(snapshot, 2, a, a + 4, leaves) for a in range(0, 40, 4)]
    passed += [passes.passing(snapshot, 1, 0, 13, leaves), passes.passing(snapshot, 0, 0, 7, leaves)]
    assert np.concatenate(passed).sum() == n
    assert len(loads) == 3


def test_equal_rows_have_equal_identities(store, monkeypatch):
    snapshot = open_snapshot(store)
    rows = Rows(snapshot)
    cut = rows.cut(check_cut("x > 4", snapshot.schema))
    fold = rows.fold(folds({"a": 0.5, "b": 0.5}, None, 1)["a"])
    assert rows.sliced(slice(None)) is rows
    assert cut.sliced(slice(0, 10**6)) is cut
    assert rows.sliced(slice(0, 60)).identity == rows.identity
    assert rows.sliced(slice(0, 59)).identity != rows.identity
    assert rows.identity != rows.sliced(slice(0, 60, 2)).identity
    before = [cut.identity, fold.identity]
    monkeypatch.setattr(selecting, "SEMANTICS", 10**6)
    monkeypatch.setattr(splits, "SPLIT_VERSION", 10**6)
    after = [Rows(snapshot, r.steps).identity for r in (cut, fold)]
    assert not set(before) & set(after), "another meaning of cuts or splits gives other rows"
    assert Rows(snapshot).identity == rows.identity
