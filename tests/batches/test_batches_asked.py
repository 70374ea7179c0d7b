"""What loaders refuse because it would give other numbers, rows or orders than were asked for."""

from __future__ import annotations

import copy
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
from memory_rows import MemoryRows, numbered

import mmdask as mm
from mmdask.batches.loader import Loader
from mmdask.batches.ordering.row_rng import RowRng
from mmdask.errors import OptionError


def all_but_asking(batches):
    """Get every batch of an epoch, but do not ask beyond the last one."""
    return list(itertools.islice(batches, len(batches)))


# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seed", "batch_size", "fields", "shuffle", "last", "rank", "rows", "plan"])
def test_options_cannot_be_changed(name):
    loader = Loader(numbered(100), 10)
    for one in (loader, copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        _ = one.plan, one[0]
        before = getattr(one, name)
        with pytest.raises(OptionError, match=f"{name} of a Loader cannot be changed"):
            setattr(one, name, 3)
        assert getattr(one, name) is before


def test_options_of_a_mixture_cannot_be_changed():
    mixed = mm.mix({"a": Loader(numbered(100), 10)}, {"a": 1})
    for name in ("batch_size", "stop", "loaders", "shares"):
        with pytest.raises(OptionError, match=f"{name} of a Mix cannot be changed"):
            setattr(mixed, name, 3)


def test_a_subclass_has_attributes_of_its_own():
    class Named(Loader):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.name = "train"

    assert Named(numbered(100), 10).name == "train"


# Epochs -------------------------------------------------------------------------------------------------------------


def test_the_epoch_after_the_last_batch_is_the_next():
    loader, ran = Loader(numbered(100), 10), []
    while loader.epoch < 3 and len(ran) < 9:
        ran += sorted({batch.epoch for batch in all_but_asking(loader)})
        assert loader.epoch == loader.state_dict()["epoch"] == len(ran)
    assert ran == [0, 1, 2]
    assert loader[0].epoch == 2  # as within a loop, of which this cannot be told apart
    assert next(iter(loader)).epoch == 3
    for batch in itertools.islice(loader, 5):
        assert batch.epoch == loader.epoch == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_epoch_of_tensors_after_the_last_batch_is_the_next(workers):
    pytest.importorskip("torch")
    batches, ran = Loader(numbered(100), 10).to_torch(num_workers=workers), []
    while batches.epoch < 3 and len(ran) < 9:
        ran += sorted({batch.epoch for batch in all_but_asking(batches)})
    batches.close()
    assert ran == [0, 1, 2]
    batches.set_epoch(7)
    assert batches.epoch == next(iter(batches)).epoch == 7
    batches.close()


def test_a_dataloader_goes_on_after_the_last_batch():
    torch = pytest.importorskip("torch")
    batches = Loader(numbered(100), 10).to_torch()
    all_but_asking(batches)
    given = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1)
    assert [{batch.epoch for batch in given}, batches.epoch] == [{1}, 2]
    assert [{batch.epoch for batch in given}, batches.epoch] == [{2}, 3]


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"batch_size": 2, "num_workers": 1}])
def test_a_dataloader_puts_no_batches_together(options):
    torch = pytest.importorskip("torch")
    batches = Loader(numbered(100), 10).to_torch()
    with pytest.raises(OptionError, match="DataLoader\\(batches, batch_size=None\\)"):
        next(iter(torch.utils.data.DataLoader(batches, **options)))


def test_integers_made_floats_are_rounded_as_numpy_does():
    values = np.array([2**24, 2**24 + 1, 2**53 + 1])
    for dtype in ("f4", "f8"):
        loader = Loader(MemoryRows({"n": values}), 3, shuffle=False, collate={"n": mm.astype(dtype)})
        assert loader[0]["n"].tolist() == values.astype(dtype, casting="same_kind").tolist()
    assert loader[0]["n"][2] == 2**53
    floats = {"x": np.zeros(3, "f4"), "n": values}
    with pytest.raises(OptionError, match="integers of 'n' would be rounded"):
        Loader(MemoryRows(floats), 3, collate={"both": mm.stack("x", "n")})


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": None}, {"batch_size": 4, "shuffle": True}, {"batch_size": None, "num_workers": 1}]
)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_dataloader_of_a_loader_is_refused(options, mixed):
    """It would hand out batches of one epoch, again and again."""
    torch = pytest.importorskip("torch")
    loader = Loader(numbered(100), 10)
    if mixed:
        loader = mm.mix({"a": loader, "b": Loader(numbered(100), 10)}, {"a": 1, "b": 1})
    with pytest.raises(OptionError, match=r"DataLoader\(loader.to_torch\(\), batch_size=None\)"):
        next(iter(torch.utils.data.DataLoader(loader, **options)))
    assert loader[3].index == 3


# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "beyond"),
    [
        (np.array([1, 2**53 + 1], "u8"), "u4", 2**53 + 1),
        (np.array([5, 300]), "i1", 300),
        (np.array([5, -129]), "i1", -129),
        (np.array([5, 2**63], "u8"), "i8", 2**63),
    ],
)
@pytest.mark.parametrize("lists", [False, True])
def test_integers_that_do_not_fit(tmp_path, values, dtype, beyond, lists):
    fields = {"n": mm.Field.ragged("n", values.dtype) if lists else mm.Field.dense("n", values.dtype)}
    with mm.create(tmp_path / "n.mm", fields=list(fields.values())) as w:
        w.extend({"n": [values[:1], values[1:]] if lists else values})
    ds = mm.open(tmp_path / "n.mm")
    for steps in ([mm.astype(dtype)], [mm.astype(dtype), mm.pad(1)], [mm.pad(1), mm.astype(dtype)])[: 1 + 2 * lists]:
        with pytest.raises(OptionError, match=f"field 'n'.*there is {beyond}"):
            ds.batches(2, collate={"n": steps})[0]
    fits = ds.batches(1, shuffle=False, collate={"n": [mm.astype(dtype)]})[0]["n"]
    fits = fits.values if lists else fits
    assert fits.dtype == dtype
    assert fits.tolist() == values[:1].tolist()


@pytest.mark.parametrize("a", ["u1", "i2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("b", ["u1", "i2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_a_stack_keeps_every_number_or_is_refused(tmp_path, a, b):
    def extremes(dtype):
        limits = np.iinfo(dtype) if dtype[0] in "iu" else np.finfo(dtype)
        return np.array([limits.min, limits.max, limits.max // 2 + 1 if dtype[0] in "iu" else 0.5], dtype)

    columns = {"a": extremes(a), "b": extremes(b)}
    ds = mm.from_arrays(columns, tmp_path / "s.mm")
    exact = [[Fraction(x.item()) for x in column] for column in columns.values()]
    common = np.result_type(a, b)
    survives = all(
        [Fraction(x.item()) for x in c.astype(common)] == e for c, e in zip(columns.values(), exact, strict=True)
    )
    # A largest integer of all ones tells whether all of its bits have room.
    if survives:
        together = ds.batches(3, shuffle=False, collate={"s": mm.stack("a", "b")})[0]["s"]
        assert [[Fraction(x.item()) for x in column] for column in together.T] == exact
    else:
        with pytest.raises(OptionError, match="would be rounded in float64.*mm.astype"):
            ds.batches(3, collate={"s": mm.stack("a", "b")})
        assert ds.batches(3, collate={"s": mm.stack("a", "b", step=mm.astype("f8"))})[0]["s"].dtype == "f8"


def test_a_spread_below_zero():
    with pytest.raises(OptionError, match="std is 0 or more, got -1"):
        RowRng(7, np.arange(3)).normal(0, -1)
    assert RowRng(7, np.arange(3)).normal(2, 0).tolist() == [2, 2, 2]


# Rows ---------------------------------------------------------------------------------------------------------------


def in_place(batch):
    batch["row"] = batch["row"][batch["row"] > 50]
    return batch


def anew(batch):
    return {"row": batch["row"][:3]}


def stops(batch):
    return next(iter([]))


def flattened(batch):
    return {"row": batch["row"], "all": np.repeat(batch["row"], 2), "one": 1.5, "none": np.float64(3)}


@pytest.mark.parametrize("transform", [in_place, anew])
def test_a_transform_that_leaves_rows_out(transform):
    with pytest.raises(OptionError, match="batch 2 of epoch 0 returned 'row' of . rows, and the batch has 10"):
        _ = Loader(numbered(100), 10, transform=transform)[2]


def test_a_transform_that_makes_other_things():
    batch = Loader(numbered(100), 10, transform=flattened)[0]
    assert [len(batch["row"]), len(batch["all"]), batch["one"]] == [10, 20, 1.5]


def test_a_transform_that_raises_stop_iteration():
    for get in (lambda loader: loader[1], list):
        with pytest.raises(RuntimeError) as raised:
            get(Loader(numbered(100), 10, transform=stops))
        assert any("in transform= of batch" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    ("step", "refused"),
    [
        (mm.pad("max"), False),
        ([mm.crop(3), mm.pad("max")], False),
        (mm.crop("min"), False),
        ([mm.crop("min"), mm.pad(4)], False),
        (mm.pad(4), False),
        (None, False),
    ],
)
def test_a_mixture_of_rows_of_other_lengths(tmp_path, step, refused):
    ds = mm.from_arrays({"pt": [[1.0] * (i % 5) for i in range(60)]}, tmp_path / "j.mm")
    loaders = {
        name: ds.batches(10, seed=seed, collate={"pt": step} if step else None) for seed, name in enumerate("ab")
    }
    if refused:
        with pytest.raises(OptionError, match="the loader 'a' has mm.* for 'pt'"):
            mm.mix(loaders, {"a": 1, "b": 1})
        mm.mix({"a": loaders["a"]}, {"a": 1})
    else:
        list(mm.mix(loaders, {"a": 1, "b": 1}))
