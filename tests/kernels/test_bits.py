"""Row numbers of set bits: the twin and the loop against a list of booleans."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.kernels import bits


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.booleans(), st.lists(st.booleans(), max_size=40)), min_size=1, max_size=5), st.data())
def test_twin_and_loop_agree_with_a_list(parts, data):
    lengths = [data.draw(st.integers(0, 20)) if isinstance(p, bool) else len(p) for p in parts]
    mask = [b for p, n in zip(parts, lengths, strict=True) for b in ([p] * n if isinstance(p, bool) else p)]
    stored = [p if isinstance(p, bool) else np.packbits(np.array(p, bool), bitorder="little") for p in parts]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    edge = st.integers(0, len(mask))
    runs = data.draw(st.lists(st.tuples(edge, edge), min_size=1, max_size=6))
    low, high = (np.array(side, np.int64) for side in zip(*runs, strict=True))
    expected = [i for a, b in runs for i in range(a, b) if mask[i]]
    assert bits.rows_of_runs(stored, starts, low, high).tolist() == expected
    size = int(np.maximum(high - low, 0).sum())
    args = (np.array([bits._address(p) for p in stored], np.int64), starts, low, high, np.zeros(size + 1, np.int64))
    for form in (bits.ROWS_OF_RUNS.twin, bits.ROWS_OF_RUNS.compiled(*args)):
        args[-1][:] = -1
        n = form(*args)
        assert args[-1][:n].tolist() == expected
