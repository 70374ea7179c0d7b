"""Tensors of batches: in one buffer, nested, and on their way to a device."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_batches import contents, make

import mmdask as mm
from mmdask.batches.batch import Batch
from mmdask.batches.collate import Packed
from mmdask.errors import OptionError

torch = pytest.importorskip("torch", reason="torch is not installed; pip install 'mmdask[torch]'")

from mmdask.batches.frameworks.torch_tensors import parcel, shared, tensors, unpack  # noqa: E402  it imports torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*os.fork.. was called:RuntimeWarning"),  # by jax, if another test took it
]


@pytest.fixture
def close():
    """Ends the workers of what is put into it."""
    made = []
    yield lambda batches: made.append(batches) or batches
    for batches in made:
        batches.close()


DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "M8[ns]", "m8[s]", "S3"]


@given(
    arrays=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.booleans()),
        max_size=6,
    ),
    n=st.integers(1, 3),
)
def test_a_parcel_gives_back_what_was_put_in(arrays, n):
    """What comes out of a buffer is what tensors of the arrays themselves are."""
    batches = []
    for k in range(n):
        batch = Batch({"text": ["a", None], "deep": Packed(Packed(np.arange(3.0), np.array([0, 3])), np.array([0, 1]))})
        for i, (dtype, shape, backwards) in enumerate(arrays):
            raw = np.random.default_rng([k, i]).integers(0, 100, shape).astype(dtype)
            batch[f"a{i}"] = raw[::-1] if backwards else raw
        batch["images"] = [np.full((i, 2), i, "u1") for i in range(3)]
        batch.rows, batch.valid, batch.epoch, batch.index, batch.position = np.arange(k), None, 1, k, 10 * k
        batches.append(batch)
    made = parcel(batches, shared)
    assert made.buffer.is_shared()
    unpacked = list(unpack(pickle.loads(pickle.dumps(made))))
    for one, other in zip(map(tensors, batches), unpacked, strict=True):
        for name, value in one.items():
            same(value, other[name])
        same(one.rows, other.rows)
        assert (one.valid, one.epoch, one.index, one.position) == (None, 1, other.index, other.position)


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.numpy().tobytes() == b.numpy().tobytes()
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


def test_nested_rows_are_nested_tensors(tmp_path, close):
    fields = [
        mm.Field.ragged("pt", "f4"),
        mm.Field.ragged("p4", "f4", shape=(4,)),
        mm.Field.shaped("wave", "i2", axes=1),
        mm.Field.ragged("deep", "f4", levels=2),
    ]
    rows = [
        {"pt": [i + k / 8 for k in range(i % 4)], "p4": np.full((i % 3, 4), i), "wave": [i] * (i % 5), "deep": [[i]]}
        for i in range(40)
    ]
    with mm.create(tmp_path / "n.mm", fields=fields) as w:
        for row in rows:
            w.append(row)
    ds = mm.open(tmp_path / "n.mm")
    names = ["pt", "p4", "wave"]
    loader = ds.batches(8, fields=names, collate=dict.fromkeys(names, mm.nested()))
    for batches in (loader.to_torch(), close(loader.to_torch(num_workers=2))):
        for batch in batches:
            for name in names:
                tensor = batch[name]
                assert tensor.is_nested
                assert tensor.layout == torch.jagged
                expected = [np.asarray(rows[r][name], ds.schema[name].dtype) for r in batch.rows.tolist()]
                assert [t.numpy().ravel().tolist() for t in tensor.unbind()] == [e.ravel().tolist() for e in expected]
    deep = ds.batches(8, fields=["deep"], collate={"deep": mm.nested()}).to_torch()
    with pytest.raises(OptionError, match="nested tensors hold lists of numbers") as error:
        next(iter(deep))
    assert error.value.__notes__ == ["in batch['deep']"]


# Options and devices --------------------------------------------------------------------------------------------


def test_options_that_cannot_be_used():
    for options, message in [
        ({"device": "abacus"}, "device is one of torch"),
        ({"num_workers": -1}, "num_workers is an integer"),
        ({"num_workers": 1, "multiprocessing_context": "thread"}, "multiprocessing_context is one of"),
        ({"multiprocessing_context": "fork"}, "is for num_workers="),
        ({"device": "meta", "pin_memory": True}, r"CUDA"),
    ]:
        with pytest.raises(OptionError, match=message):
            make().to_torch(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_that_is_told():
    with pytest.raises(OptionError, match=r"to_torch\('cuda'\) needs a CUDA device"):
        make().to_torch("cuda")
    with pytest.raises(OptionError, match="pin_memory=True needs a CUDA device"):
        make().to_torch(pin_memory=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_another_device(workers, close):
    batch = next(iter(close(make().to_torch("meta", num_workers=workers))))
    assert {batch[n].device.type for n in ("x", "u2", "u8", "when", "flag", "more_mask")} == {"meta"}
    assert batch["jets"].values.device.type == batch.rows.device.type == "meta"
    assert isinstance(batch["name"][0], str)


def test_the_workers_of_others_touch_no_device():
    from torch.utils.data import DataLoader

    running = iter(DataLoader(make().to_torch("meta"), batch_size=None, num_workers=1))
    with pytest.raises(OptionError, match=r"to_torch\('meta', num_workers=1\)"):
        next(running)
    running._shutdown_workers()


class FakeCuda:
    """What `Uploads` needs of torch.cuda, on the CPU; writes down what happens."""

    def __init__(self, monkeypatch):
        from mmdask.batches.frameworks import torch_dataset, torch_tensors

        self.log = []
        self.began = 0
        fake = self

        class Stream:
            def __init__(self, device):
                pass

            def __enter__(self):
                fake.log.append(("copy", fake.began))
                fake.began += 1

            def __exit__(self, *error):
                pass

            def record_event(self):
                return fake.began - 1

            def wait_event(self, event):
                fake.log.append(("wait", event))

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: fake.log.append(("used", "here")))
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: False)
        for module in (torch_dataset, torch_tensors):
            monkeypatch.setattr(module, "pinned", lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_run_one_ahead_of_what_is_handed_out(monkeypatch, workers, close):
    from mmdask.batches.frameworks.torch_dataset import TorchBatches
    from mmdask.batches.frameworks.torch_workers import Workers

    fake = FakeCuda(monkeypatch)
    loader = make(50)
    made_by = close(
        TorchBatches(loader, torch.device("cpu"), True, Workers(loader, 2, None, True) if workers else None)
    )
    received = []
    for batch in made_by:
        received.append(contents(batch))
        assert made_by.state_dict() == loader.state_dict(after=batch)
    assert received == [contents(b) for b in make(50).to_torch()]
    done = [entry for entry in fake.log if entry[0] != "used"]
    assert done == [("copy", 0), *itertools.chain(*[(("copy", i + 1), ("wait", i)) for i in range(3)]), ("wait", 3)]
    assert len(fake.log) == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_cuda_device(workers, close):
    expected = [contents(b) for b in make().to_torch()]
    batches = close(make().to_torch("cuda", num_workers=workers))
    received = list(batches)
    assert {b["x"].device.type for b in received} == {"cuda"}
    assert [contents(b) for b in received] == expected
    pinned = next(iter(close(make().to_torch(pin_memory=True, num_workers=workers))))
    assert pinned["x"].is_pinned()
