"""Kept cuts are three-valued: whatever is kept already, a cut gives what plain Python says, and is never stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.expr import check_cut, combine, negate
from mmdask.rows.bits import GRAIN, RowBits, pack
from mmdask.rows.cuts import masks, partcuts, passes
from mmdask.rows.rows import RESOLVED, Rows
from mmdask.store.arrays.npy import checksum
from mmdask.store.snapshot import open_snapshot

PARTS = (13, 70, 7)
RNG = np.random.default_rng(4)
N = sum(PARTS)
A = RNG.integers(0, 9, N).tolist()
B = [None if RNG.random() < 0.3 else float(RNG.integers(0, 9)) for _ in range(N)]
R = [RNG.integers(0, 9, RNG.integers(0, 4)).tolist() for _ in range(N)]
FIELDS = [mm.Field.dense("a", "i8"), mm.Field.dense("b", "f8", optional=(0,)), mm.Field.ragged("r", "i4")]


def forget():
    """Be a process that has found nothing yet."""
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture(autouse=True)
def _forget():
    forget()


def write(path, parts=PARTS):
    with mm.create(path, fields=FIELDS):
        pass
    first = 0
    for n in parts:
        with mm.append(path) as w:
            w.extend({"a": A[first : first + n], "b": B[first : first + n], "r": R[first : first + n]})
        first += n
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("masks") / "s.mm")


@pytest.fixture
def path(store, tmp_path):
    shutil.copytree(store, tmp_path / "s.mm", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "s.mm"


def kept_files(path, ending=".mask"):
    return sorted((path / "cache").rglob(f"*{ending}"))


# What plain Python says -----------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.tuples(
        st.sampled_from(["a > {}", "a == {}", "b < {}", "b >= {}", "r[1] > {}", "len(r) > {}"]), st.integers(0, 8)
    ),
    st.just(("sum(r) > a", 0)),
)
TREES = st.recursive(
    LEAVES,
    lambda t: st.one_of(
        st.tuples(st.just("not"), t), st.tuples(st.sampled_from(["and", "or"]), t, t), st.tuples(st.just("or"), t, t, t)
    ),
    max_leaves=6,
)


def text_of(tree):
    if tree[0] == "not":
        return f"not ({text_of(tree[1])})"
    if tree[0] in ("and", "or"):
        return f" {tree[0]} ".join(f"({text_of(t)})" for t in tree[1:])
    return tree[0].format(tree[1])


def says(tree, i):
    """True, False, or None for missing."""
    if tree[0] == "not":
        x = says(tree[1], i)
        return None if x is None else not x
    if tree[0] in ("and", "or"):
        found = [says(t, i) for t in tree[1:]]
        decides = tree[0] == "or"
        return decides if decides in found else None if None in found else not decides
    what, k = tree
    a, b, r = A[i], B[i], R[i]
    second = r[1] if len(r) > 1 else None
    return {
        "a > {}": a > k,
        "a == {}": a == k,
        "b < {}": None if b is None else b < k,
        "b >= {}": None if b is None else b >= k,
        "r[1] > {}": None if second is None else second > k,
        "len(r) > {}": len(r) > k,
        "sum(r) > a": sum(r) > a,
    }[what]


def expected(*trees):
    return [i for i in range(N) if all(says(t, i) is True for t in trees)]


def selected(snapshot, *texts):
    rows = Rows(snapshot)
    for text in texts:
        rows = rows.cut(check_cut(text, snapshot.schema))
    found = rows.numbers(0, len(rows)).tolist()
    assert len(rows) == len(found)
    return found


def clear(path):
    shutil.rmtree(path / "cache", ignore_errors=True)
    forget()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(TREES, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=4))
def test_whatever_is_kept_the_rows_are_those_of_plain_python(store, asked):
    clear(store)
    for trees, remember in asked:
        if not remember:
            forget()
        snapshot = open_snapshot(store)
        assert selected(snapshot, *map(text_of, trees)) == expected(*trees)
    forget()
    every = [tree for trees, _ in asked for tree in trees]
    snapshot = open_snapshot(store)
    cuts = [check_cut(text_of(t), snapshot.schema) for t in every]
    with mt.count_reads() as reads:
        for trees, _ in asked:
            assert selected(snapshot, *map(text_of, trees)) == expected(*trees)
        assert reads.n_rows == 0, "what was computed is kept"
        each = passes.kept_each(snapshot, cuts)
        for tree, bits in zip(every, each, strict=True):
            rows = RowBits(snapshot.starts, bits)
            assert rows.rows_between(0, N).tolist() == expected(tree)
        for tree, cut in zip(every, cuts, strict=True):
            masked = [passes.passing(snapshot, p, 1, n, [cut]) for p, n in enumerate(PARTS)]
            inside = [i for i in expected(tree) if i not in (0, 13, 83)]
            starts = [1, 14, 84]
            assert [s + int(i) for s, mask in zip(starts, masked, strict=True) for i in np.flatnonzero(mask)] == inside


@settings(max_examples=60)
@given(TREES, st.lists(LEAVES, max_size=3))
def test_rows_asked_for_alone_are_right_before_anything_is_kept(store, tree, before):
    clear(store)
    snapshot = open_snapshot(store)
    for leaf in before:
        selected(snapshot, text_of(leaf))
    cut = check_cut(text_of(tree), snapshot.schema)
    mask = np.concatenate([passes.passing(snapshot, p, 0, n, [cut]) for p, n in enumerate(PARTS)])
    assert np.flatnonzero(mask).tolist() == expected(tree)


# What costs a pass ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        (["b > 3"], "not (b > 3)"),
        (["a > 3 and b > 3"], "not (a > 3 and b > 3)"),
        (["r[1] > 3", "b > 3"], "not (r[1] > 3 or b > 3)"),
        (["b > 3 or r[1] > 3"], "not (b > 3 or r[1] > 3)"),
        (["not (b > 3)"], "b > 3"),
        (["a > 3", "b > 3", "r[1] > 2"], "(a > 3 and not (b > 3 or r[1] > 2)) or r[1] > 2"),
        (["a > 3 or b > 3", "r[1] > 2"], "(a > 3 or b > 3) and not (r[1] > 2)"),
    ],
)
def test_what_is_kept_is_combined_and_not_evaluated(path, kept, asked):
    snapshot = open_snapshot(path)
    for text in kept:
        selected(snapshot, text)
    forget()
    with mt.count_reads() as reads:
        got = selected(open_snapshot(path), asked)
    assert reads.n_rows == 0
    clear(path)
    assert got == selected(open_snapshot(path), asked), "as when it is evaluated"


def test_an_or_is_one_file_unless_an_operand_is_kept(path):
    snapshot = open_snapshot(path)
    selected(snapshot, "a > 3 or b > 3 or r[1] > 3")
    assert len(kept_files(path)) == len(PARTS)
    clear(path)
    selected(snapshot, "b > 3")
    with mt.count_reads() as reads:
        selected(snapshot, "a > 3 or b > 3 or r[1] > 3")
    assert set(reads.rows) == {"a", "r"}, "only the others are read"
    assert len(kept_files(path)) == 3 * len(PARTS)


def test_a_mask_has_known_bits_only_where_something_is_missing(path):
    optional = sum(None in B[a:b] for a, b in ((0, 13), (13, 83), (83, 90)))
    assert optional
    for text, with_known in (("a > 3", 0), ("b > 3", optional)):
        clear(path)
        selected(open_snapshot(path), text)
        heads = [json.loads(f.read_bytes().split(b"\n")[2]) for f in kept_files(path)]
        assert [h["true"] for h in heads] == ["bits"] * 3
        assert sum(h["known"] == "bits" for h in heads) == with_known
        assert sum(h["kept"] for h in heads) == len(selected(open_snapshot(path), text))


def test_the_cuts_of_one_call_are_one_pass(path):
    snapshot = open_snapshot(path)
    texts = [f"a > {k} and b < {k}" for k in range(10)] + [f"not (r[1] > {k}) or a == {k}" for k in range(10)]
    with mt.count_reads() as reads:
        passes.kept_each(snapshot, [check_cut(t, snapshot.schema) for t in texts])
    assert reads.rows == {"a": N, "b": N, "r": N}


def test_what_needs_no_pass_is_told_without_one(path):
    snapshot = open_snapshot(path)
    cut = check_cut("a > 3 and not (b > 3 or r[1] > 2)", snapshot.schema)
    assert passes.kept_parts(snapshot, cut) == (0, 3)
    selected(snapshot, "a > 3")
    assert passes.kept_parts(snapshot, cut) == (0, 3)
    selected(snapshot, "b > 3", "r[1] > 2")
    forget()
    with mt.count_reads() as reads:
        assert passes.kept_parts(snapshot, cut) == (3, 3)
        assert passes.kept_parts(snapshot, check_cut("a > 100", snapshot.schema)) == (3, 3), "settled"
    assert not reads.n_rows
    kept_files(path)[0].unlink()
    forget()
    assert passes.kept_parts(snapshot, cut) == (2, 3)
    selected(snapshot, cut.canonical)
    kept_files(path)[0].unlink()
    assert passes.kept_parts(snapshot, cut) == (3, 3), "as a selection"


# Grains that are settled ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sorted_store(tmp_path_factory):
    n = 4 * GRAIN + 1003
    x = np.arange(n, dtype="i8")
    y = np.ma.MaskedArray(x.copy(), mask=x % 7 == 0)
    path = tmp_path_factory.mktemp("grains") / "g.mm"
    mm.from_arrays({"x": x, "y": y}, path)
    return path, n


CASES = {
    "x > 150000": lambda x: x > 150_000,
    "y > 150000": lambda x: (x > 150_000) & (x % 7 != 0),
    "not (y > 150000)": lambda x: (x <= 150_000) & (x % 7 != 0),
    "x < 70000 or x > 200000": lambda x: (x < 70_000) | (x > 200_000),
    "not (y < 70000 or y > 200000)": lambda x: (x >= 70_000) & (x <= 200_000) & (x % 7 != 0),
    "y == 131072 or x == 3": lambda x: (x == 131_072) & (x % 7 != 0) | (x == 3),
    "x >= 0": lambda x: x >= 0,
    "y > 10000000": lambda x: x < 0,
    "not (y > 10000000)": lambda x: x % 7 != 0,
}


@pytest.mark.parametrize("task_rows", [GRAIN, 2 * GRAIN, 1 << 20])
@pytest.mark.parametrize("first", CASES)
def test_settled_grains_are_not_read_and_right(sorted_store, monkeypatch, task_rows, first):
    monkeypatch.setattr(partcuts, "TASK_ROWS", task_rows)
    path, n = sorted_store
    clear(path)
    x = np.arange(n)
    for text in [first, *CASES, first]:
        snapshot = open_snapshot(path)
        with mt.count_reads() as reads:
            assert selected(snapshot, text) == np.flatnonzero(CASES[text](x)).tolist()
        if text == first == "x > 150000":
            assert reads.n_rows in (0, GRAIN), "the grain in which it changes"


# One file for a selection ---------------------------------------------------------------------------------------------


def opened(path, code):
    """How many files of a store are opened by code in a new process, after the store was."""
    script = f"""
        import sys, dask, mmdask as mm, mmdask.rows.rows, mmdask.dataset.dataset
        dask.config.set(scheduler="sync")  # two threads may open one file
        ds = mm.open({str(path)!r})
        names = []
        def hook(event, args):
            # below the store: files are opened relative to folders, by names of their own
            if event == "open" and isinstance(args[0], str) and (args[0].endswith((".mask", ".rows", ".json", ".npy"))):
                names.append(args[0])
        sys.addaudithook(hook)
        {code}
        print(len(names), sorted({{n.rpartition(".")[2] for n in names}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    count, _, kinds = done.stdout.strip().partition(" ")
    return int(count), kinds


@pytest.mark.parametrize(
    "code",
    [
        "len(ds[ds.cut('a > 3 and b < 7')])",
        "ds.cut('a > 3 and b < 7').count()",
        "ds[ds.cut('a > 3 and b < 7')].chunks",
        "ds[ds.cut('a > 3')].cut('b < 7').count()",
        "list(ds[ds.cut('a > 3 and b < 7')]._rows.bits.parts)",
    ],
)
def test_a_kept_selection_is_one_file(path, code):
    mm.open(path).cut("a > 3 and b < 7").count()
    assert opened(path, code) == (1, "['rows']")


def test_a_cut_flow_of_kept_cuts_opens_a_file_for_each(path):
    mm.open(path).cutflow(["a > 3", "b < 7", "not (r[1] > 2)"])
    assert opened(path, "ds.cutflow(['a > 3', 'b < 7', 'not (r[1] > 2)'])") == (3, "['rows']")


def test_damage_of_any_byte_is_found(path):
    right = selected(open_snapshot(path), "a > 3 and b < 7")
    [file] = kept_files(path, ".rows")
    data = file.read_bytes()
    for at in [*range(0, len(data), 7), len(data) - 1]:
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        forget()
        assert selected(open_snapshot(path), "a > 3 and b < 7") == right
    for cut_off in (data[:-1], b"", data + b"\0"):
        file.write_bytes(cut_off)
        forget()
        assert selected(open_snapshot(path), "a > 3 and b < 7") == right


def test_bits_in_another_order_are_found(path):
    right = selected(open_snapshot(path), "a > 3")
    for ending in (".rows", ".mask"):
        for file in kept_files(path, ending):
            data = bytearray(file.read_bytes())
            at = next((i for i in range(-3, -7, -1) if data[i] != data[i - 1]), -3)
            data[at], data[at - 1] = data[at - 1], data[at]  # as many are set as before
            file.write_bytes(data)
        forget()
        assert selected(open_snapshot(path), "a > 3") == right
        for file in kept_files(path, ".rows"):
            file.unlink()


def test_masks_that_vanish_are_computed_again_when_rows_are_asked_for(path, monkeypatch):
    monkeypatch.setattr(masks, "_PART_NBYTES", 0)  # as if there were too many bits for one file
    right = selected(open_snapshot(path), "a > 3 and b < 7")
    forget()
    snapshot = open_snapshot(path)
    rows = Rows(snapshot).cut(check_cut("a > 3 and b < 7", snapshot.schema))
    assert len(rows) == len(right)
    for file in kept_files(path):
        file.unlink()
    assert rows.numbers(0, len(rows)).tolist() == right
    assert len(kept_files(path)) == 2 * len(PARTS)


def test_counts_that_are_not_those_of_the_masks_are_an_error(path, monkeypatch):
    monkeypatch.setattr(masks, "_PART_NBYTES", 0)
    n = len(selected(open_snapshot(path), "a > 3"))
    [file] = kept_files(path, ".rows")
    magic, _, head, grains = file.read_bytes().split(b"\n", 3)
    wrong = np.frombuffer(grains, "<u4").copy()
    wrong[0] -= 1
    rest = head.replace(f'"kept": {n}'.encode(), f'"kept": {n - 1}'.encode()) + b"\n" + wrong.tobytes()
    file.write_bytes(magic + b"\n" + checksum(rest).encode() + b"\n" + rest)
    forget()
    snapshot = open_snapshot(path)
    rows = Rows(snapshot).cut(check_cut("a > 3", snapshot.schema))
    assert len(rows) == n - 1
    with pytest.raises(mm.CorruptStoreError, match="ds.cuts.clear"):
        rows.numbers(0, len(rows))


def test_bits_that_are_not_those_that_are_counted_are_not_used(path):
    right = selected(open_snapshot(path), "a > 3")
    [file] = kept_files(path, ".rows")
    magic, _, rest = file.read_bytes().split(b"\n", 2)
    for bits in (rest[:-1] + b"\xff", rest[:-1] + bytes([rest[-1] ^ 1])):
        file.write_bytes(magic + b"\n" + checksum(bits).encode() + b"\n" + bits)
        forget()
        assert selected(open_snapshot(path), "a > 3") == right


@given(
    st.lists(st.tuples(st.integers(0, 3 * GRAIN), st.floats(0, 1)), min_size=1, max_size=5),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 10**7), max_size=8),
)
@settings(max_examples=40)
def test_bits_loaded_when_needed_answer_as_bits_at_hand(parts, seed, asked):
    rng = np.random.default_rng(seed)
    bits = []
    for n, fraction in parts:
        mask = rng.random(n) < fraction if fraction not in (0, 1) else np.full(n, bool(fraction))
        bits.append(bool(n and mask[0]) if n == 0 or mask.all() or not mask.any() else pack(mask))
    starts = np.concatenate([[0], np.cumsum([n for n, _ in parts])]).astype(np.int64)
    plain = RowBits(starts, bits)
    lazy = RowBits(
        starts, [b if isinstance(b, bool) else None for b in bits], grains=plain.grains, load=lambda p: bits[p]
    )
    n = int(starts[-1])
    rows = np.array(sorted({r % (n + 1) for r in asked} | {0, n} | {int(s) for s in starts}), np.int64)
    assert len(lazy) == len(plain)
    assert lazy.counts.tolist() == plain.counts.tolist()
    assert lazy.nbytes >= 0
    assert lazy.rank(rows).tolist() == plain.rank(rows).tolist()
    assert lazy.chunk_counts(rows).tolist() == plain.chunk_counts(rows).tolist()
    blocks = np.array([r % (n // 4096 + 1) for r in asked], np.int64)
    assert lazy.rows_of_blocks(blocks, 4096).tolist() == plain.rows_of_blocks(blocks, 4096).tolist()
    k = len(plain)
    if k:
        at = np.array([r % k for r in asked], np.int64)
        assert lazy.at(at).tolist() == plain.at(at).tolist()
        assert lazy.select(k // 3, 2 * k // 3).tolist() == plain.select(k // 3, 2 * k // 3).tolist()


# Names ----------------------------------------------------------------------------------------------------------------


def names(path, text="a > 3 and b < 7"):
    """Names of the masks that a cut has in a new cache."""
    clear(path)
    snapshot = open_snapshot(path)
    Rows(snapshot).cut(check_cut(text, snapshot.schema)).resolve()
    return {f.name for f in kept_files(path)}


def test_names_change_if_and_only_if_an_input_does(path, monkeypatch):
    before = names(path)
    assert before == names(path, "a>3 & (b<7)"), "another spelling"
    ds = mm.open(path)
    assert before == names(path, ds.cut("a > x and b < y", x=3, y=7).expression), "constants written out"
    assert not before & names(path, "a > 4 and b < 8")
    mm.annotate(path, fields={"a": {"doc": "other words"}})
    assert before == names(path), "words change nothing"
    mm.assign(path, ht="sum(r)")
    assert before == names(path), "another field changes nothing"
    mm.assign(path, {"ht": "sum(r) + 1"}, replace=True)
    assert before == names(path), "nor does another value of another field"
    with monkeypatch.context() as patch:
        patch.setattr(masks, "SEMANTICS", masks.SEMANTICS + 1)
        assert not before & names(path)
    with mm.append(path) as w:
        w.extend({"a": [1, 9], "b": [1.0, None], "r": [[1], []]})
    assert before < names(path), "rows are appended"
    mm.assign(path, {"a": mm.open(path)["a"]}, replace=True)
    after = names(path)
    assert len(before & after) == len(PARTS), "of the field that was written again alone"


def test_a_virtual_field_is_named_as_what_it_is_computed_from(path):
    ds = mm.open(path)
    ds.assign(twice="a * 2").cut("twice > 6").keep()
    one = {f.name for f in kept_files(path)}
    clear(path)
    ds.assign(other="a * 2").cut("other > 6").keep()
    assert one == {f.name for f in kept_files(path)}
    clear(path)
    ds.assign(twice="a * 3").cut("twice > 6").keep()
    assert not one & {f.name for f in kept_files(path)}


def test_names_are_those_of_any_process(path):
    here = names(path)
    code = f"""
        import mmdask as mm
        mm.open({str(path)!r}).cut("b < 7 and a > 3").keep()
    """
    for seed in ("1", "4711"):
        shutil.rmtree(path / "cache")
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)
        assert {f.name for f in kept_files(path)} == here


def test_combined_cuts_are_those_of_one_text(path):
    snapshot = open_snapshot(path)
    a, b = (check_cut(t, snapshot.schema) for t in ("a > 3", "b < 7"))
    for cut, text in (
        (combine("and", a, b), "a > 3 and b < 7"),
        (negate(combine("or", a, b)), "not (a > 3 or b < 7)"),
        (combine("or", negate(a), b), "not (a > 3) or b < 7"),
    ):
        clear(path)
        one = Rows(snapshot).cut(cut).resolve()
        files = {f.name for f in (path / "cache").rglob("*.*")}
        clear(path)
        other = Rows(snapshot).cut(check_cut(text, snapshot.schema)).resolve()
        assert files == {f.name for f in (path / "cache").rglob("*.*")}
        assert one.rows_between(0, N).tolist() == other.rows_between(0, N).tolist()


def test_a_leaf_that_is_asked_for_what_is_false_and_then_for_what_is_true(tmp_path):
    """What is true of it is settled for each grain, and what is false is not: it is missing in one of three."""
    n = 3 * GRAIN
    b = np.ma.array(np.full(n, 5.0), mask=np.arange(n) >= 2 * GRAIN)
    mm.from_arrays({"a": np.arange(n) % 7, "b": b}, tmp_path / "s.mm")
    expected = [i for i in range(2 * GRAIN) if i % 7 % 2 == 0]
    assert selected(open_snapshot(tmp_path / "s.mm"), "not (b > 4) or a % 2 == 0", "b > 4") == expected
    assert mm.open(tmp_path / "s.mm").cut("(not (b > 4) or a % 2 == 0) and b > 4").count() == len(expected)
