"""What the steps make of the kinds of field."""

from __future__ import annotations

import numpy as np
import pytest
from memory_rows import MemoryRows

from mmdask.batches.collate import Packed, fill_value, packed, pad
from mmdask.batches.collate.forms import Pack
from mmdask.batches.loader import Loader
from mmdask.errors import OptionError

JETS = [[1.0, 2.0], [], [3.0, 4.0, 5.0], [6.0]]


def make(batch_size=4, fields=None, **options):
    columns = {"met": np.arange(4.0), "jets": JETS, "name": ["a", "", "Zürich", "日本"]}
    return Loader(MemoryRows(columns), batch_size, fields=fields, shuffle=False, **options)


def test_ragged_fields_are_packed_unless_asked_otherwise():
    batch = make()[0]
    assert isinstance(batch["jets"], Packed)
    values, offsets, valid = batch["jets"]
    assert valid is None
    assert values.tolist() == [1, 2, 3, 4, 5, 6]
    assert offsets.tolist() == [0, 2, 2, 5, 6]
    assert make(collate={"jets": packed()})[0]["jets"].values.tolist() == values.tolist()
    assert packed() == Pack()


def test_strings_are_lists():
    assert make()[0]["name"] == ["a", "", "Zürich", "日本"]
    assert make(2)[0]["name"] == ["a", ""]


def test_padding_to_a_number():
    batch = make(collate={"jets": pad(2, value=-1)})[0]
    assert batch["jets"].tolist() == [[1, 2], [-1, -1], [3, 4], [6, -1]]
    assert batch["jets_mask"].tolist() == [[True, True], [False, False], [True, True], [True, False]]
    assert list(batch) == ["met", "jets", "jets_mask", "name"]
    assert list(make(fields=["jets"], collate={"jets": pad(2, mask=False)})[0]) == ["jets"]


def test_padding_on_the_left():
    batch = make(collate={"jets": pad("max", side="left")})[0]
    assert batch["jets"].tolist() == [[0, 1, 2], [0, 0, 0], [3, 4, 5], [0, 0, 6]]
    assert batch["jets_mask"].tolist() == [[False, True, True], [False] * 3, [True] * 3, [False, False, True]]


@pytest.mark.parametrize("n", [3, "max"])
def test_strict_padding_and_that_to_the_longest_agree_with_the_usual(n):
    usual = make(collate={"jets": pad(3, value=np.nan)})[0]
    batch = make(collate={"jets": pad(n, value=np.nan, strict=True)})[0]
    assert batch["jets"].tobytes() == usual["jets"].tobytes()
    assert batch["jets"].dtype == np.float32
    assert batch["jets_mask"].tolist() == usual["jets_mask"].tolist()


def test_strict_padding_names_the_row_that_is_too_long():
    with pytest.raises(OptionError, match=r"'jets': row 2 has 3 items, more than pad\(2, strict=True\)"):
        make(collate={"jets": pad(2, strict=True)})[0]


def test_all_ranks_pad_to_the_longest_of_all():
    ranks = [make(collate={"jets": pad("max")}, rank=r, world_size=4)[0] for r in range(4)]
    assert [r["jets"].shape for r in ranks] == [(1, 3)] * 4
    assert np.concatenate([r["jets"] for r in ranks]).tolist() == make(collate={"jets": pad("max")})[0]["jets"].tolist()


def test_a_batch_without_any_item():
    loader = Loader(MemoryRows({"jets": [[], []]}, block_rows=1), 2, collate={"jets": pad("max")})
    assert loader[0]["jets"].shape == (2, 0)
    assert loader[0]["jets_mask"].shape == (2, 0)


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("met", pad(3), r"pad\(\) is for ragged fields, .* and 'met' is float64"),
        ("met", packed(), r"packed\(\) is for ragged fields"),
        ("name", pad((3, 4)), "'name' is string, and .* say one length"),
        ("other", pad(3), "step for 'other', which is not among fields"),
    ],
)
def test_steps_that_do_not_fit_their_field(name, step, message):
    with pytest.raises(OptionError, match=message):
        make(collate={name: step})


def test_a_step_for_a_field_that_is_not_asked_for():
    with pytest.raises(OptionError, match="step for 'jets', which is not among"):
        make(fields=["met"], collate={"jets": pad(3)})


def test_packed_rows_are_shown_in_few_lines():
    few, many = Packed(np.arange(3), np.array([0, 1, 3])), Packed(np.arange(900.0), np.arange(901), np.ones(900, bool))
    assert repr(few) == "Packed(values=array([0, 1, 2]), offsets=array([0, 1, 3]), valid=None)"
    assert "899." in repr(many)
    assert len(repr(many).splitlines()) < 8
    assert repr(Packed(many, np.array([0, 900]))).startswith("Packed(values=Packed(values=array([")


def test_a_mask_may_not_hide_a_field():
    rows = MemoryRows({"jets": JETS, "jets_mask": np.arange(4)})
    with pytest.raises(OptionError, match=r"both make batch\['jets_mask'\]"):
        Loader(rows, 2, collate={"jets": pad(3)})
    assert Loader(rows, 2, collate={"jets": pad(3, mask=False)})[0]["jets_mask"].shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "0 items or more"),
        ({"n": 2.5}, "a number of items or 'max'"),
        ({"n": "longest"}, "a number of items or 'max'"),
        ({"n": True}, "a number of items or 'max'"),
        ({"n": "max", "multiple": 0}, r"pad\(multiple=\) is an integer, at least 1"),
        ({"n": "max", "multiple": 1.5}, r"pad\(multiple=\) is an integer, at least 1"),
        ({"n": 3, "side": "top"}, "'right' .* or 'left'"),
    ],
)
def test_arguments_of_pad(arguments, message):
    with pytest.raises(OptionError, match=message):
        pad(**arguments)


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("f4", 0, True),
        ("f4", np.nan, True),
        ("f4", 0.1, True),
        ("f4", -np.inf, True),
        ("f4", 1e300, False),
        ("f2", 70000, False),
        ("f4", 1j, False),
        ("c8", 1j, True),
        ("i4", -1, True),
        ("i4", 1.0, True),
        ("i4", 0.5, False),
        ("i4", np.nan, False),
        ("i4", 2**31, False),
        ("u1", -1, False),
        ("u8", -1, False),
        ("u8", 2**64 - 1, True),
        ("i8", 2**64, False),
        ("?", True, True),
        ("?", 2, False),
        ("S3", b"abc", True),
        ("S3", b"abcd", False),
        ("S3", 0, False),
        ("f4", b"0", False),
        ("f4", "0", False),
        ("f4", None, False),
        ("f4", [0.0], False),
        ("M8[s]", np.datetime64("NaT", "s"), True),
        ("M8[s]", np.datetime64("2020-01-01"), True),
        ("M8[s]", np.datetime64("2020-01-01T00:00:00.5"), False),
        ("M8[s]", 0, True),
        ("m8[s]", np.timedelta64(1, "D"), True),
        ("M8[s]", np.timedelta64(1, "D"), False),
    ],
)
def test_a_fill_value_fits_its_field_or_is_refused(dtype, value, fits):
    from mmdask.schema import Field

    step, field = pad(3, value=value), Field.ragged("jets", dtype)
    if fits:
        step.check(field)
        fill = fill_value(field, step.value)
        assert fill.dtype == field.dtype
        assert fill.shape == ()
    else:
        with pytest.raises(OptionError, match=r"'jets': value=.* cannot be held"):
            step.check(field)


def test_an_impossible_length_is_refused_at_once():
    for n in (10**12, -1, 1.5, "many"):
        with pytest.raises(OptionError, match="pad"):
            pad(n)
