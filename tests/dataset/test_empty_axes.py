"""Rows with an axis of length 0, as awkward arrays."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (2, 0, 3), (0, 0)])
@pytest.mark.parametrize("dtype", ["f4", "S3", "M8[s]"])
def test_axes_of_nothing(tmp_path, shape, dtype):
    zeros = np.zeros((3, *shape), dtype)
    ds = mm.from_arrays({"x": [1, 2, 3], "z": zeros}, tmp_path / "s.mm")
    found = ds.to_awkward()["z"]
    assert found.to_list() == zeros.tolist()
    assert ds[1:].to_awkward()["z"].to_list() == zeros[1:].tolist()
    sizes = str(found.type).split(" * ")[:-1]
    assert sizes == ["3", *map(str, shape)]
