"""Batches as jax arrays."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from memory_rows import MemoryRows

from mmdask.batches.collate import Packed, pad
from mmdask.batches.loader import Loader
from mmdask.errors import MissingDependencyError, OptionError

try:
    import jax
except ImportError:
    jax = None

needs_jax = pytest.mark.skipif(jax is None, reason="jax is not installed; pip install 'mmdask[jax]'")

FIELDS = {
    "x": np.arange(20, dtype="f4"),
    "u2": np.arange(20, dtype="u2"),
    "flag": np.arange(20) % 3 == 0,
    "p4": np.arange(80.0, dtype="f4").reshape(20, 4),
    "event": np.arange(20),
    "when": np.arange(20).astype("M8[s]"),
    "jets": [[float(i)] * (i % 3) for i in range(20)],
    "more": [[float(i)] * (i % 4) for i in range(20)],
    "name": [f"row {i}" for i in range(20)],
}


def make(batch_size=4, fields=FIELDS, **options):
    collate = {"more": pad(2)} if "more" in fields else {}
    return Loader(MemoryRows(fields), batch_size, collate=collate, **options)


def test_without_jax_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "mmdask\[jax\]"'):
        make().to_jax()


@needs_jax
def test_arrays_become_jax_arrays():
    for plain, batch in itertools.zip_longest(make(), make().to_jax()):
        for name in ("x", "u2", "flag", "p4", "event", "more", "more_mask"):
            assert isinstance(batch[name], jax.Array)
            assert batch[name].tolist() == plain[name].tolist()
        assert batch["x"].dtype == np.float32
        assert batch["u2"].dtype == np.uint16
        assert batch["when"].tolist() == plain["when"].view("i8").tolist()
        assert isinstance(batch["jets"], Packed)
        assert batch["jets"].values.tolist() == plain["jets"].values.tolist()
        assert batch["jets"].offsets.tolist() == plain["jets"].offsets.tolist()
        assert batch["name"] == plain["name"]
        assert batch.rows.tolist() == plain.rows.tolist()
        assert (batch.epoch, batch.index, batch.position) == (plain.epoch, plain.index, plain.position)


@needs_jax
def test_an_array_at_a_multiple_of_64_bytes_is_not_copied():
    raw = np.zeros(4096 + 64, "u1")
    start = -raw.ctypes.data % 64
    array = raw[start : start + 4096].view("f4")
    made = make().to_jax()._array("x", array)
    assert made.unsafe_buffer_pointer() == array.ctypes.data
    assert make().to_jax()._array("x", array[1:]).shape == (1023,)


@needs_jax
def test_arrays_that_dlpack_does_not_know():
    array = np.arange(12, dtype="f4").reshape(3, 4)
    batches = make().to_jax()
    for odd in (array[:, ::2], array[::-1], array.T, np.broadcast_to(array[0], (2, 4)), array[:0]):
        assert batches._array("x", odd).tolist() == odd.tolist()


@needs_jax
def test_large_integers_are_refused_rather_than_cut():
    big = {"event": np.arange(20) + 2**40, "u8": np.arange(20, dtype="u8") + 2**31}
    with pytest.raises(OptionError, match="'event'.*jax_enable_x64"):
        next(iter(make(fields={"event": big["event"]}).to_jax()))
    assert next(iter(make(fields={"u8": big["u8"]}, shuffle=False).to_jax()))["u8"].tolist() == list(
        range(2**31, 2**31 + 4)
    )
    with jax.enable_x64(True):
        batch = next(iter(make(fields=big, shuffle=False).to_jax()))
        assert batch["event"].tolist() == [2**40 + i for i in range(4)]
        assert batch["event"].dtype == np.int64


@needs_jax
def test_batches_are_pytrees_that_compile_once():
    fields = {name: FIELDS[name] for name in ("x", "p4", "more")}
    traces = []

    @jax.jit
    def total(batch):
        traces.append(1)
        return batch["x"].sum() + batch["p4"].sum() + (batch["more"] * batch["more_mask"]).sum()

    found = sum(float(total(batch)) for batch in make(fields=fields).to_jax())
    expected = FIELDS["x"].sum() + FIELDS["p4"].sum() + sum(sum(v[:2]) for v in FIELDS["more"])
    assert found == expected
    assert len(traces) == 1
    doubled = jax.tree.map(lambda v: 2 * v, next(iter(make(fields={"jets": FIELDS["jets"]}).to_jax())))
    assert isinstance(doubled["jets"], Packed)


@needs_jax
def test_epochs_and_states_are_those_of_the_loader():
    batches = make().to_jax()
    batches.set_epoch(2)
    assert [b.index for b in itertools.islice(batches, 2)] == [0, 1]
    other = make().to_jax(jax.devices()[0])
    other.load_state_dict(batches.state_dict())
    assert [b.index for b in other] == [2, 3, 4]
    assert other.epoch == 3
    assert len(other) == 5
    assert other.state_dict()["position"] == 0


@needs_jax
def test_nested_rows_have_no_jax_array(tmp_path):
    import mmdask as mm

    ds = mm.from_arrays({"jets": [[1.0], []]}, tmp_path / "a.mm")
    with pytest.raises(OptionError, match=r"jax has no arrays for batch\['jets'\]"):
        next(iter(ds.batches(2, collate={"jets": mm.nested()}).to_jax()))
