"""Rows of several dense fields gathered together, against fancy indexing, in both forms and both ways to gather."""

from __future__ import annotations

from contextvars import ContextVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.errors import OptionError, RowNotFoundError
from mmdask.kernels import dense, jit, spread
from mmdask.kernels.dense import Located
from mmdask.kernels.jit import Kernel

FORMS = ["twin", "compiled", "spread"]
WIDTHS = [1, 2, 3, 4, 8, 12, 16, 32, 33, 256]


def use(patch, form):
    if form == "twin":
        patch.setattr(Kernel, "__call__", lambda self, *args: self.twin(*args))
    else:
        patch.setattr(Kernel, "__call__", lambda self, *args: self.compiled(*args)(*args))
    if form == "spread":  # in pieces of a row or two, by three threads
        patch.setattr(spread, "_allowed", ContextVar("threads", default=3))
        patch.setattr(spread, "_LEAST", 1)
        patch.setattr(dense, "_LONG", 1)


def parts_of(lengths, width, seed=0):
    rng = np.random.default_rng(seed)
    return [np.frombuffer(rng.bytes(n * width), np.uint8).reshape(n, width) for n in lengths]


def starts_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=30).filter(sum),
    st.integers(0, 400),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.sampled_from(FORMS),
    st.booleans(),
)
def test_located_rows_are_fancy_indexing_for_every_width(lengths, n, near, seed, form, blocks):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    rows = rng.integers(0, total, n)
    if blocks:  # whole blocks, in any order
        first = rng.integers(0, total, 5)
        rows = rng.permutation(np.unique(np.clip(first[:, None] + np.arange(40), 0, total - 1)))
    with pytest.MonkeyPatch.context() as patch:
        use(patch, form)
        patch.setattr(dense, "_LEAST_ROWS", 1)
        located = Located(starts_of(lengths), rows, len(lengths), near)
        for width in WIDTHS:
            parts = parts_of(lengths, width, width)
            out = np.empty((len(rows), width), np.uint8)
            assert located.take(parts, out) is out
            assert (out == np.concatenate(parts)[rows]).all()


def test_few_rows_and_far_apart_are_not_gathered_from_a_copy(monkeypatch):
    monkeypatch.setattr(dense, "_LEAST_ROWS", 100)
    starts = np.array([0, 10**5])
    near, far = np.arange(200)[::-1], np.arange(200) * 490
    assert Located(starts, near, 1, 16)._near.rows == 208
    assert Located(starts, near[:99], 1, 16)._near is None
    assert Located(starts, far, 1, 64)._near is None
    assert Located(starts, far, 1, 8)._near.rows == 200 * 8


@pytest.mark.parametrize("form", FORMS)
def test_constants_and_parts_that_are_not_given(monkeypatch, form):
    use(monkeypatch, form)
    monkeypatch.setattr(dense, "_LEAST_ROWS", 1)
    parts = [np.arange(50.0), np.broadcast_to(np.array(7.0), 30), None, np.arange(100.0, 120.0)]
    starts, rows = starts_of([50, 30, 40, 20]), np.array([3, 139, 60, 49, 120, 3])
    located = Located(starts, rows, 4, 4)
    assert located.take(parts, np.empty(6)).tolist() == [3.0, 119.0, 7.0, 49.0, 100.0, 3.0]
    parts[1] = np.arange(50.0, 80.0)
    assert located.take(parts, np.empty(6)).tolist() == [3.0, 119.0, 60.0, 49.0, 100.0, 3.0]
    with pytest.raises(OptionError, match="row 80 lies in part 2, which was not given"):
        Located(starts, np.array([3, 80]), 4, 4).take(parts, np.empty(2))


def test_rows_are_checked():
    with pytest.raises(RowNotFoundError, match="no row 5"):
        Located(np.array([0, 5]), np.array([5]), 1, 4)


@pytest.mark.parametrize("lengths", [[1], [0, 0, 3], [5] * 1000, [1, 10**6, 1], [0, 2**33, 5]])
def test_a_row_is_located_as_by_searchsorted(lengths):
    starts = starts_of(lengths)
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.integers(0, starts[-1], 500), starts[:-1][np.diff(starts) > 0], [starts[-1] - 1]])
    results = []
    for form in FORMS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, form)
            part, local = np.empty(len(rows), np.int32), np.empty(len(rows), np.int64)
            dense.locate(starts, rows, part, local)
            results.append((part.tolist(), local.tolist()))
    expected = np.searchsorted(starts, rows, side="right") - 1
    assert results == [(expected.tolist(), (rows - starts[expected]).tolist())] * len(FORMS)


def test_every_kernel_of_this_module_has_both_forms():
    kernels = [v for v in vars(dense).values() if isinstance(v, Kernel)]
    assert len(kernels) == 6
    jit.wait()
