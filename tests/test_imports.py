"""``import mmdask`` is light: what it loads is read off in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "awkward",
    "dask",
    "distributed",
    "fsspec",
    "h5py",
    "hist",
    "hypothesis",
    "jax",
    "loky",
    "matplotlib",
    "numba",
    "pandas",
    "pyarrow",
    "pytest",
    "torch",
    "tqdm",
    "uproot",
    "zarr",
)


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh process after `code`."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_is_light() -> None:
    loaded = loaded_after("import mmdask")
    assert "mmdask" in loaded
    assert not loaded.intersection(HEAVY)


def test_the_reading_works() -> None:
    assert "tqdm" in loaded_after("import tqdm")


@pytest.mark.parametrize("module", ["errors", "schema", "display", "demo", "kernels.jit", "testing"])
def test_parts_are_light(module: str) -> None:
    assert not loaded_after(f"import mmdask.{module}").intersection(HEAVY)
