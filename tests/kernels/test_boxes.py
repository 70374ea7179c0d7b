"""Boxes against slices of numpy, in both forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.errors import OptionError
from mmdask.kernels.boxes import copy_boxes, repeat_boxes
from mmdask.kernels.jit import Kernel


@pytest.fixture(params=["twin", "compiled"])
def form(request, monkeypatch):
    call = {
        "twin": lambda self, *args: self.twin(*args),
        "compiled": lambda self, *args: self.compiled(*args)(*args),
    }
    monkeypatch.setattr(Kernel, "__call__", call[request.param])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("axes", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "shape"), [("u1", ()), ("<f4", (3,)), ("<f8", (2, 2)), ("S5", ()), ("<i2", (0,))])
def test_boxes_are_slices(axes, dtype, shape):
    rng = np.random.default_rng(axes)
    for n in (0, 1, 40):
        shapes = rng.integers(0, 5, (n, axes))
        counts = shapes.prod(1)
        first = np.cumsum(counts) - counts
        items = rng.integers(0, 99, (int(counts.sum()), *shape)).astype(dtype)
        lengths = rng.integers(0, 5, axes)
        kept = rng.integers(0, np.minimum(shapes, lengths) + 1)
        begin = rng.integers(0, shapes - kept + 1)
        place = rng.integers(0, lengths - kept + 1)
        expected = np.full((n, *lengths, *shape), 7).astype(dtype)
        for i in range(n):
            row = items[first[i] : first[i] + counts[i]].reshape(*shapes[i], *shape)
            box = tuple(slice(b, b + k) for b, k in zip(begin[i], kept[i], strict=True))
            expected[i][tuple(slice(p, p + k) for p, k in zip(place[i], kept[i], strict=True))] = row[box]
        out = np.full((n, *lengths, *shape), 7).astype(dtype)
        assert copy_boxes(items, first, shapes, begin, kept, out, place) is out
        assert out.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_repeats_are_those_of_numpy(mode, left, axes, monkeypatch):
    monkeypatch.setattr("mmdask.kernels.boxes._TOGETHER", 100)
    rng = np.random.default_rng(axes)
    for n, dtype, shape in ((0, "u1", ()), (40, "<f4", (2,)), (40, "<f8", ())):
        shapes = rng.integers(0, 6, (n, axes))
        counts = shapes.prod(1)
        first = np.cumsum(counts) - counts
        items = rng.integers(0, 99, (int(counts.sum()), *shape)).astype(dtype)
        lengths = rng.integers(1, 9, axes)
        kept = rng.integers(0, shapes + 1)
        begin = rng.integers(0, shapes - kept + 1)
        expected = np.full((n, *lengths, *shape), 7).astype(dtype)
        for i in range(n):
            row = items[first[i] : first[i] + counts[i]].reshape(*shapes[i], *shape)
            row = row[tuple(slice(b, b + min(k, m)) for b, k, m in zip(begin[i], kept[i], lengths, strict=True))]
            missing = [m - k for m, k in zip(lengths, row.shape, strict=False)]
            widths = [(m, 0) if left else (0, m) for m in missing] + [(0, 0)] * len(shape)
            if row.size:
                expected[i] = np.pad(row, widths, mode=mode)
        out = np.full((n, *lengths, *shape), 7).astype(dtype)
        assert repeat_boxes(items, first, shapes, begin, kept, out, mode, left) is out
        assert out.tobytes() == expected.tobytes()
        none = np.zeros((n, *lengths[:-1], 0, *shape), dtype)
        assert repeat_boxes(items, first, shapes, begin, kept, none, mode, left).size == 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["begin", "kept", "place", "shapes", "first"]), st.sampled_from([-1, 4, 2**62]))
def test_what_leads_out_is_refused(what, wrong):
    good = {name: np.full((2, 2), value) for name, value in [("shapes", 3), ("begin", 1), ("kept", 2), ("place", 0)]}
    good["first"] = np.array([0, 9])
    good[what].flat[-1] = wrong if (what, wrong) != ("first", 4) else 10
    out = np.zeros((2, 2, 2))
    with pytest.raises(OptionError, match="leads out"):
        copy_boxes(np.zeros(18), good["first"], good["shapes"], good["begin"], good["kept"], out, good["place"])


def test_arrays_that_do_not_fit():
    one = np.ones((1, 1), np.int64)
    zero = one - 1
    for values, out in [
        (np.zeros(4)[::2], np.zeros((1, 1))),
        (np.zeros((2, 4))[:, ::2], np.zeros((1, 1, 2))),
        (np.zeros((1, 2)), np.zeros((1, 1, 4))[..., ::2]),
        (np.zeros(2, "f4"), np.zeros((1, 1))),
        (np.zeros((2, 3)), np.zeros((1, 1))),
    ]:
        with pytest.raises(OptionError):
            copy_boxes(values, zero[0], one, zero, one, out, zero)
