"""Cuts that rule out most of a part together: only the rest is read, and they are kept as one."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.rows import rows as rows_module
from mmdask.testing import count_reads

N = 6 * 65_536


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)
    return {
        "run": np.repeat(np.arange(6, dtype="i4"), N // 6),
        "met": rng.exponential(50, N).astype("f4"),
        "n": rng.integers(0, 9, N).astype("u1"),
    }


@pytest.fixture
def ds(arrays, tmp_path):
    return mm.from_arrays(arrays, tmp_path / "s.mm")


def count(ds, text):
    """The rows that pass, and what was read for it, as another process finds them."""
    rows_module.RESOLVED.clear()
    with count_reads() as reads:
        found = ds.cut(text).count()
    return found, reads.rows


def test_only_the_rest_is_read(ds, arrays):
    expected = int(((arrays["run"] == 4) & (arrays["met"] > 60) & (arrays["n"] > 3)).sum())
    grain = N // 6
    assert count(ds, "met > 60 & run == 4 & n > 3") == (expected, {"met": grain, "n": grain, "run": grain})
    for again in ("met > 60 & run == 4 & n > 3", "n > 3 & met > 60 & run == 4", "run == 4 & (met > 60 & n > 3)"):
        assert count(mm.open(ds.path), again) == (expected, {}), "the order in which it is written does not matter"
    rows_module.RESOLVED.clear()
    with count_reads() as reads:
        selected = ds[ds.cut("met > 60 & run == 4 & n > 3")]
        assert selected["run"].compute().tolist() == [4] * expected
        assert selected.cut("n > 3").count() == expected
    assert reads.rows == {"run": expected}, "what was cut before is not cut again"
    assert count(ds, "n > 3")[1] == {"n": N}, "a part of it by itself is another cut"


def test_what_is_kept_apart_is_used(ds, arrays):
    both = int(((arrays["run"] == 4) & (arrays["met"] > 60)).sum())
    assert count(ds, "met > 60")[1] == {"met": N}
    assert count(ds, "run == 4")[1] == {}, "runs begin where grains do"
    assert count(ds, "met > 60 & run == 4") == (both, {})


def test_where_little_is_ruled_out_cuts_are_kept_apart(ds):
    count(ds, "met > 60 & run < 5")
    assert count(ds, "met > 60")[1] == {}


def test_rows_that_are_appended(ds, arrays):
    before, _ = count(ds, "met > 60 & run == 4")
    with mm.append(ds.path) as w:
        w.extend({"run": np.full(10, 4, "i4"), "met": np.full(10, 70, "f4"), "n": np.zeros(10, "u1")})
    assert count(mm.open(ds.path), "met > 60 & run == 4") == (before + 10, {})
    with mm.append(ds.path) as w:
        w.extend(
            {"run": np.arange(10, dtype="i4"), "met": np.linspace(0, 100, 10, dtype="f4"), "n": np.zeros(10, "u1")}
        )
    assert count(mm.open(ds.path), "met > 60 & run == 4")[1] == {"run": 10, "met": 10}


def test_an_error_in_the_rest_is_not_hidden(tmp_path):
    big = np.zeros(N, "i8")
    big[0] = 2**62
    ds = mm.from_arrays({"run": np.repeat(np.arange(6), N // 6), "big": big}, tmp_path / "big.mm")
    with pytest.raises(mm.ExpressionError, match="does not fit int64 in row 0"):
        ds.cut("big * 4 > 3 & run == 5").count()


def test_missing_values(tmp_path):
    fields = [mm.Field.dense("run", "i4"), mm.Field.dense("met", "f4", optional=(0,))]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        met = np.ma.masked_array(np.arange(N) % 100, np.arange(N) % 3 == 0)
        w.extend({"run": np.repeat(np.arange(6), N // 6), "met": met.astype("f4")})
    ds = mm.open(tmp_path / "s.mm")
    inside = np.arange(N) // (N // 6) == 2
    for text, passes in (
        ("met > 50 & run == 2", met > 50),
        ("not (met > 50) & run == 2", ~(met > 50)),
        ("(met > 50 or ismissing(met)) & run == 2", (met > 50).filled(True)),
    ):
        found, reads = count(ds, text)
        assert found == (np.ma.filled(passes, False) & inside).sum()
        assert set(reads.values()) <= {N // 6}, "what was needed for the negation of another is kept"
        not_passing = (~ds.cut(text)).count()
        assert not_passing == (np.ma.filled(~passes, False) | ~inside).sum()


def test_listing_and_clearing(ds):
    count(ds, "met > 60 & run == 4")
    assert [(cut.expression, cut.kept, cut.parts) for cut in ds.cuts] == [
        ("(met > 60) and (run == 4)", ds.cut("met > 60 & run == 4").count(), 1)
    ]
    assert ds.explain("run == 4 & met > 60").kept_parts == 1
    assert ds.cuts.clear("met > 60") == 2
    assert len(ds.cuts) == 0
    assert count(ds, "met > 60 & run == 4")[1] == {"met": N // 6, "run": N // 6}


def test_masks_of_chunks(ds, arrays):
    expected = (arrays["run"] == 4) & (arrays["met"] > 60)
    cut = ds.cut("met > 60 & run == 4")
    assert (cut.mask.compute() == expected).all()
    cut.keep()
    rows_module.RESOLVED.clear()
    with count_reads() as reads:
        assert (mm.open(ds.path).cut("met > 60 & run == 4").mask[N // 2 :].compute() == expected[N // 2 :]).all()
    assert reads.rows == {}
