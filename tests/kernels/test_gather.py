"""The gathers against Python lists, in both of their forms."""

from __future__ import annotations

import itertools
import mmap
import sys
from contextvars import ContextVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.errors import CorruptStoreError, OptionError, RowNotFoundError
from mmdask.kernels import dense, gather, spread
from mmdask.kernels.dense import take_rows
from mmdask.kernels.gather import Runs, pad_ragged, pad_runs, take_nested, take_ragged
from mmdask.kernels.jit import Kernel

FORMS = ["twin", "compiled", "spread"]
DTYPES = ["?", "i1", "<u2", "<f2", "<i4", "<f8", "<c8", "<c16", "<M8[ns]", "<m8[s]", "S5", "S1"]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    use(monkeypatch, request.param)


def use(monkeypatch, form):
    if form == "twin":
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.twin(*args))
    else:
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.compiled(*args)(*args))
    if form == "spread":  # in pieces of a row or two, by three threads
        monkeypatch.setattr(spread, "_allowed", ContextVar("threads", default=3))
        monkeypatch.setattr(spread, "_LEAST", 1)
        monkeypatch.setattr(dense, "_LONG", 1)


def random_bytes(rng, n, dtype, shape=()):
    dtype = np.dtype(dtype)
    count = int(np.prod((n, *shape)))
    if dtype == np.bool_:
        return rng.integers(0, 2, (n, *shape)).astype(bool)
    return np.frombuffer(rng.bytes(count * dtype.itemsize), dtype).reshape(n, *shape)


def starts_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ragged_parts(rng, lengths, dtype="<f4", shape=(), most=5):
    values, offsets, rows = [], [], []
    for n in lengths:
        counts = rng.integers(0, most + 1, n)
        o = starts_of(counts)
        v = random_bytes(rng, int(o[-1]), dtype, shape)
        values.append(v)
        offsets.append(o)
        rows += [v[a:b] for a, b in itertools.pairwise(o)]
    return values, offsets, rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,), (64,)])
@pytest.mark.parametrize("lengths", [[7], [3, 0, 5, 1], [0, 4, 0]])
def test_take_rows_is_fancy_indexing(form, dtype, shape, lengths):
    rng = np.random.default_rng(1)
    parts = [random_bytes(rng, n, dtype, shape) for n in lengths]
    rows = rng.integers(0, sum(lengths), 50)
    out = np.empty((50, *shape), dtype)
    assert take_rows(parts, starts_of(lengths), rows, out) is out
    assert out.tobytes() == np.concatenate(parts)[rows].tobytes()


def test_the_three_ways_to_read_parts_agree_with_a_read_only_source(form):
    source = np.arange(12.0)
    source.flags.writeable = False
    rows = np.array([11, 0, 5])
    rows.flags.writeable = False
    assert take_rows([source], starts_of([12]), rows, np.empty(3)).tolist() == [11, 0, 5]


def test_a_part_that_no_row_lies_in_need_not_be_given(form):
    starts = starts_of([2, 2, 2])
    parts = [np.array([0, 1]), None, np.array([4, 5])]
    assert take_rows(parts, starts, np.array([5, 0]), np.empty(2, int)).tolist() == [5, 0]
    with pytest.raises(OptionError, match="row 3 lies in part 1"):
        take_rows(parts, starts, np.array([5, 3]), np.empty(2, int))


def test_a_constant_is_one_row_broadcast(form):
    parts = [np.array([[0, 1]]), np.broadcast_to(np.array([7, 8]), (3, 2))]
    out = take_rows(parts, starts_of([1, 3]), np.array([3, 0, 1]), np.empty((3, 2), int))
    assert out.tolist() == [[7, 8], [0, 1], [7, 8]]
    only = take_rows(parts[1:], starts_of([3]), np.array([2, 0]), np.empty((2, 2), int))
    assert only.tolist() == [[7, 8], [7, 8]]


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_rows_that_do_not_exist_are_refused_before_anything_is_read(form, bad):
    with pytest.raises(RowNotFoundError, match=f"no row {bad}: the rows are 0 to 4"):
        take_rows([np.arange(5)], starts_of([5]), np.array([1, bad]), np.empty(2, int))


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (np.arange(5.0), np.empty(2, np.float32)),
        (np.zeros((5, 2)), np.empty((2, 3))),
        (np.arange(4.0), np.empty(2)),
        (np.zeros((5, 4))[:, ::2], np.empty((2, 2))),
        (np.arange(5.0), np.empty(3)),
        (np.arange(5.0), np.empty(4)[::2]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(source, out):
    with pytest.raises(OptionError):
        take_rows([source], starts_of([5]), np.array([1, 2]), out)


def test_nothing_to_take(form):
    none = np.empty(0, np.int64)
    assert len(take_rows([], starts_of([]), none, np.empty((0, 3)))) == 0
    assert len(take_rows([np.empty((0, 3))], starts_of([0]), none, np.empty((0, 3)))) == 0
    offsets, values = take_ragged([], [], starts_of([]), none, like=np.empty(0, "<i2"))
    assert offsets.tolist() == [0]
    assert values.dtype == np.dtype("<i2")
    assert pad_ragged([], [], starts_of([]), none, np.empty((0, 4))).tolist() == []
    with pytest.raises(OptionError, match="like="):
        take_ragged([], [], starts_of([]), none)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0,)])
@pytest.mark.parametrize("lengths", [[9], [3, 0, 5, 1]])
def test_ragged_rows_come_one_after_the_other(form, dtype, shape, lengths):
    rng = np.random.default_rng(2)
    values, offsets, expected = ragged_parts(rng, lengths, dtype, shape)
    rows = rng.integers(0, sum(lengths), 40)
    o, v = take_ragged(values, offsets, starts_of(lengths), rows)
    assert o.tolist() == starts_of([len(expected[r]) for r in rows]).tolist()
    assert v.tobytes() == b"".join(expected[r].tobytes() for r in rows)
    assert v.shape == (o[-1], *shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0,)])
@pytest.mark.parametrize("length", [0, 1, 3, 9])
@pytest.mark.parametrize("left", [False, True])
def test_padding(form, dtype, shape, length, left):
    rng = np.random.default_rng(3)
    lengths = [3, 0, 8]
    values, offsets, expected = ragged_parts(rng, lengths, dtype, shape)
    rows = rng.integers(0, sum(lengths), 30)
    fill = random_bytes(rng, 1, dtype)[0]
    out = np.empty((30, length, *shape), dtype)
    mask = np.empty((30, length), bool)
    counts = pad_ragged(values, offsets, starts_of(lengths), rows, out, mask, left, fill=fill)
    assert counts.tolist() == [len(expected[r]) for r in rows]
    for i, r in enumerate(rows):
        kept = expected[r][:length]
        pad = np.full((length - len(kept), *shape), fill, dtype)
        assert out[i].tobytes() == np.concatenate([pad, kept] if left else [kept, pad]).tobytes()
        real = [False] * len(pad) + [True] * len(kept)
        assert mask[i].tolist() == (real if left else real[::-1])


@pytest.mark.parametrize(
    ("offsets", "row"),
    [
        ([0, 2, 1, 4], 1),  # begin after end
        ([0, 2, 3, 5], 2),  # past the end of the values
        ([-1, 2, 3, 4], 0),  # before the values
        ([0, 2**62, 3, 4], 0),
        ([0, 2, -(2**63), 4], 1),
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_corrupt_offsets_name_the_row(form, offsets, row, left):
    values, offsets = np.arange(4), np.array(offsets)
    starts = starts_of([3])
    with pytest.raises(CorruptStoreError, match=f"row {row}:"):
        take_ragged([values], [offsets], starts, np.arange(3))
    with pytest.raises(CorruptStoreError, match=f"row {row}:"):
        pad_ragged([values], [offsets], starts, np.arange(3), np.zeros((3, 2), int), None, left)


def test_offsets_of_rows_that_are_not_read_do_not_matter(form):
    offsets = np.array([0, 2, 99, 4, 4])
    o, v = take_ragged([np.arange(4)], [offsets], starts_of([4]), np.array([3, 0]))
    assert (o.tolist(), v.tolist()) == ([0, 0, 2], [0, 1])


def test_offsets_that_are_too_few_or_of_another_type_are_refused(form):
    with pytest.raises(OptionError):
        take_ragged([np.arange(4)], [np.array([0, 4])], starts_of([2]), np.array([1]))
    with pytest.raises(OptionError):
        take_ragged([np.arange(4)], [np.array([0, 4], np.int32)], starts_of([1]), np.array([0]))


def test_values_that_are_needed_and_not_given(form):
    with pytest.raises(OptionError, match="part 0, which was not given"):
        take_ragged([None], [np.array([0, 1])], starts_of([1]), np.array([0]), like=np.zeros(0))
    with pytest.raises(OptionError, match="part 0, which was not given"):
        take_ragged([np.zeros(2)], [None], starts_of([1]), np.array([0]))
    o, _ = take_ragged([None], [np.array([0, 0])], starts_of([1]), np.array([0]), like=np.zeros(0))
    assert o.tolist() == [0, 0]


@pytest.mark.parametrize("lengths", [[6], [2, 0, 5]])
def test_two_levels(form, lengths):
    rng = np.random.default_rng(4)
    outer, inner, values, expected = [], [], [], []
    for n in lengths:
        o = starts_of(rng.integers(0, 4, n))
        i = starts_of(rng.integers(0, 4, int(o[-1])))
        v = rng.integers(0, 99, int(i[-1]))
        outer, inner, values = [*outer, o], [*inner, i], [*values, v]
        items = [v[a:b].tolist() for a, b in itertools.pairwise(i)]
        expected += [items[a:b] for a, b in itertools.pairwise(o)]
    rows = rng.integers(0, sum(lengths), 25)
    (o, i), v = take_nested(values, [outer, inner], starts_of(lengths), rows)
    items = [v[a:b].tolist() for a, b in itertools.pairwise(i)]
    assert [items[a:b] for a, b in itertools.pairwise(o)] == [expected[r] for r in rows]


def test_corrupt_inner_offsets_name_the_row(form):
    outer, inner = np.array([0, 2, 3]), np.array([0, 1, 3, 2])
    with pytest.raises(CorruptStoreError, match="row 1:"):
        take_nested([np.arange(3)], [[outer], [inner]], starts_of([2]), np.array([0, 1]))
    with pytest.raises(CorruptStoreError, match="row 1:"):  # the outer offsets point past the inner ones
        take_nested([np.arange(3)], [[np.array([0, 2, 4])], [inner]], starts_of([2]), np.array([0, 1]))


@pytest.mark.parametrize("lengths", [[7], [3, 0, 5, 1, 4]])
def test_flags_go_along_at_every_depth(form, lengths):
    """Flags of rows, of items and of items of items, in some parts; in the others all are True."""
    rng = np.random.default_rng(6)
    outer, inner, flags, expected = [], [], [[], [], []], []
    for k, n in enumerate(lengths):
        o = starts_of(rng.integers(0, 4, n))
        i = starts_of(rng.integers(0, 4, int(o[-1])))
        own = [rng.random(m) < 0.5 for m in (n, int(o[-1]), int(i[-1]))]
        for depth, f in enumerate(own):
            some = (k + depth) % 2 == 0
            flags[depth].append(f if some else None)
            own[depth] = f.tolist() if some else [True] * len(f)
        outer, inner = [*outer, o], [*inner, i]
        below = [own[2][a:b] for a, b in itertools.pairwise(i)]
        pairs = list(zip(own[1], below, strict=True))
        expected += list(zip(own[0], [pairs[a:b] for a, b in itertools.pairwise(o)], strict=True))
    rows = rng.integers(0, sum(lengths), 30)
    runs = Runs(starts_of(lengths), rows, len(lengths))
    assert runs.flags(flags[0]).tolist() == [expected[r][0] for r in rows]
    runs.follow(outer, inner, offsets=True)
    assert runs.flags(flags[1]).tolist() == [f for r in rows for f, _ in expected[r][1]]
    runs.follow(inner, [np.empty(int(i[-1])) for i in inner])
    assert runs.flags(flags[2]).tolist() == [f for r in rows for _, below in expected[r][1] for f in below]


@pytest.mark.parametrize("left", [False, True])
def test_flags_filled_to_one_length(form, left):
    rng = np.random.default_rng(7)
    lengths = [3, 0, 8, 5]
    values, offsets, rows_of = ragged_parts(rng, lengths)
    flags = [None if k == 2 else rng.random(len(v)) < 0.5 for k, v in enumerate(values)]
    whole = np.concatenate([np.ones(len(v), bool) if f is None else f for f, v in zip(flags, values, strict=True)])
    ends = np.cumsum([len(r) for r in rows_of])
    rows = rng.integers(0, sum(lengths), 30)
    runs = Runs(starts_of(lengths), rows, 4)
    runs.follow(offsets, values)
    out = np.empty((30, 3), bool)
    runs.pad_flags(flags, out, left)
    for i, r in enumerate(rows):
        kept = whole[ends[r] - len(rows_of[r]) : ends[r]].tolist()[:3]
        padding = [True] * (3 - len(kept))
        assert out[i].tolist() == (padding + kept if left else kept + padding)


def test_flags_that_do_not_fit_are_refused():
    starts = starts_of([2, 2])
    for wrong in ([np.ones(1, bool), None], [np.ones(2, "u1"), None], [np.ones(4, bool)[::2], None]):
        with pytest.raises(OptionError):
            Runs(starts, np.array([0]), 2).flags(wrong)
    with pytest.raises(OptionError, match="the mask is bool"):
        Runs(starts, np.array([0]), 2).pad([np.ones(2), None], np.zeros((1, 2)), np.zeros((1, 3), bool))
    with pytest.raises(RowNotFoundError):
        Runs(starts, np.array([4]), 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    width=st.sampled_from([1, 2, 3, 4, 8, 16, 24, 100]),
    seed=st.integers(0, 2**32),
    length=st.integers(0, 7),
    left=st.booleans(),
)
def test_twins_and_loops_give_equal_bytes(lengths, width, seed, length, left):
    rng = np.random.default_rng(seed)
    values, offsets, _ = ragged_parts(rng, lengths, "u1", (width,))
    total = sum(lengths)
    rows = rng.integers(0, max(total, 1), 20 if total else 0)
    results = []
    for form in FORMS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, form)
            out = np.empty((len(rows), length, width), np.uint8)
            mask = np.empty((len(rows), length), bool)
            counts = pad_ragged(values, offsets, starts_of(lengths), rows, out, mask, left, fill=seed % 256)
            o, v = take_ragged(values, offsets, starts_of(lengths), rows)
            results.append([a.tobytes() for a in (out, mask, counts, o, v)])
    assert results[0] == results[1]


def test_every_kernel_of_this_module_has_both_forms():
    kernels = [v.loop for v in vars(gather).values() if isinstance(v, Kernel)]
    own = ["loops.follow", "loops_pad.pad_rows", "loops_pad.pad_runs"]
    assert sorted(kernels) == sorted([*own, "loops_dense.locate"])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("length", [0, 2, 9])
def test_runs_of_one_array_padded(form, left, length):
    rng = np.random.default_rng(length)
    (values,), (offsets,), rows = ragged_parts(rng, [30], shape=(2,))
    out, mask = np.empty((30, length, 2), "<f4"), np.empty((30, length), bool)
    expected = np.full((30, length, 2), 7, "<f4")
    for i, row in enumerate(rows):
        kept = row[:length]
        expected[i, length - len(kept) if left else 0 :][: len(kept)] = kept
    pad_runs(values, offsets, out, mask, left, fill=7)
    assert out.tobytes() == expected.tobytes()
    assert mask.sum(1).tolist() == [min(len(row), length) for row in rows]
    pad_runs(values[3:3], offsets[:1], out[:0])
    for wrong in (offsets + 1, offsets[::-1].copy(), offsets - 1):
        with pytest.raises(OptionError, match="offsets are ascending"):
            pad_runs(values, wrong, out)


@pytest.mark.parametrize("left", [False, True])
def test_arrays_that_are_not_there_are_not_read(form, left):
    starts, rows = starts_of([200, 200]), np.arange(399, 99, -1)
    offsets = [np.zeros(201, np.int64), np.arange(201)]
    out, mask = np.empty((300, 5), "f4"), np.empty((300, 5), bool)
    pad_ragged([None, np.arange(200, dtype="f4")], offsets, starts, rows, out, mask, left, fill=-1)
    at = -1 if left else 0
    assert out[:, at].tolist() == [r - 200 if r >= 200 else -1 for r in rows]
    assert mask.sum() == 200
    runs = Runs(starts, rows, 2)
    runs.follow([np.arange(201)] * 2, [np.zeros(200), np.zeros(200)])
    flags = np.empty((300, 5), bool)
    runs.pad_flags([None, np.zeros(200, bool)], flags, left)
    assert flags.sum(1).tolist() == [4 if r >= 200 else 5 for r in rows]
    with pytest.raises(OptionError, match="row 100 lies in part 0, which was not given"):
        one = np.repeat([0, 1], [101, 100])
        pad_ragged([None, np.zeros(1)], [one, offsets[1] * 0], starts, rows, np.empty((300, 5)), left=left)


def walled(data, *, end):
    """Bytes right before, or behind, a page that ends the process when it is touched."""
    import ctypes

    page = mmap.PAGESIZE
    n = -(-max(data.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, n + page)
    whole = np.frombuffer(memory, np.uint8)
    start = n - data.nbytes if end else page
    whole[start : start + data.nbytes] = data.view(np.uint8).reshape(-1)
    libc = ctypes.CDLL(None, use_errno=True)
    wall = whole.ctypes.data + (n if end else 0)
    assert libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(page), 0) == 0
    return whole[start : start + data.nbytes].view(data.dtype).reshape(data.shape)


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(("dtype", "length"), [("u1", 5), ("f4", 16), ("f4", 7), ("f8", 22), ("i2", 40), ("f8", 90)])
def test_blocks_end_where_the_arrays_do(dtype, length, left, end):
    """Compiled loops read and write 32 bytes at once, and none outside of the values, the rows and the mask."""
    rng = np.random.default_rng(length)
    counts = rng.integers(0, 2 * length, 60)
    counts[[0, -1]] = 1, 3
    offsets = starts_of(counts)
    values = rng.integers(1, 99, int(offsets[-1])).astype(dtype)
    source = walled(values, end=end)
    rows = np.concatenate([rng.permutation(60), [0, 59, 0]])
    expected = np.full((len(rows), length), 100, dtype)
    for i, r in enumerate(rows):
        kept = values[offsets[r] : offsets[r + 1]][:length]
        expected[i, length - len(kept) if left else 0 :][: len(kept)] = kept
    with pytest.MonkeyPatch.context() as patch:
        use(patch, "compiled")
        out, mask = walled(np.zeros_like(expected), end=end), walled(np.zeros(expected.shape, bool), end=end)
        pad_ragged([source], [offsets], starts_of([60]), rows, out, mask, left, fill=100)
        assert out.tobytes() == expected.tobytes()
        assert mask.tobytes() == (expected != 100).tobytes()
        out, mask = walled(np.zeros((60, length), dtype), end=end), walled(np.zeros((60, length), bool), end=end)
        pad_runs(source, offsets, out, mask, left, fill=100)
        last = {int(r): i for i, r in enumerate(rows)}
        assert out.tobytes() == expected[[last[r] for r in range(60)]].tobytes()
        assert mask.tobytes() == (out != 100).tobytes()
