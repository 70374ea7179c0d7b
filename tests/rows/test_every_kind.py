"""Every kind of field through every way to read it, mapped and not, against plain lists."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest
from every_kind import FIELDS, data_of, lists_of, make_rows, make_store
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.kernels.jit import Kernel
from mmdask.rows.reading import marks, reader, spans
from mmdask.rows.reading.gathering import concatenate
from mmdask.rows.reading.part import read_aux
from mmdask.rows.reading.picker import Picker
from mmdask.rows.reading.where import runs
from mmdask.store import document
from mmdask.store.arrays import held as arrays
from mmdask.store.arrays.held import DESCRIPTORS, MAPS, SMALL
from mmdask.store.snapshot import Snapshot, open_snapshot

LENGTHS = (5, 0, 1, 40, 3, 0, 17, 30)
N = sum(LENGTHS)
WITH_ITEMS = [name for name, f in FIELDS.items() if f.n_offsets]
ONE_LEVEL = ["r", "r_wide", "r_optional", "r_items"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "s.mm"
    # in every other part nothing is missing, so that it has no validity
    return path, make_store(path, [make_rows(i, n, missing=i % 2 == 0) for i, n in enumerate(LENGTHS)])


@pytest.fixture(params=["mmap", "pread", "pread, small spans"], scope="module")
def io(request):
    """A way to read, with no file small enough to be read whole."""
    with pytest.MonkeyPatch.context() as patch:
        for cache in (MAPS, SMALL, DESCRIPTORS):
            cache.clear()
        patch.setattr(arrays, "SMALL_NBYTES", -1)
        if "small" in request.param:
            patch.setattr(spans, "GAP_NBYTES", 20)
            patch.setattr(spans, "NEAR_NBYTES", 10)
            patch.setattr(spans, "SPAN_NBYTES", 100)
            patch.setattr(reader, "_FEW", 3)
            patch.setattr(arrays, "MANY_RUNS", 2)
        yield request.param.split(",")[0]


def numbers():
    one = st.integers(0, N - 1)
    return st.one_of(
        st.lists(one, max_size=30),
        st.tuples(one, one).map(lambda t: list(range(min(t), max(t)))),
        st.permutations(range(N)),
    )


def column(rows, name, which):
    return [rows[i][name] for i in which]


def test_the_oracle_gives_back_what_it_was_given(store):
    for name, field in FIELDS.items():
        values = [row[name] for row in store[1]]
        assert lists_of(field, data_of(field, values)) == values
        assert any(v is None for v in values) == (0 in field.optional)
        if field.kind == "ragged" and not field.optional and not field.shape:
            a = ak.Array(values)
            for offsets in data_of(field, values).offsets:
                assert offsets.tolist() == [0, *np.cumsum(ak.num(a)).tolist()]
                a = ak.flatten(a)


def test_the_store_has_layers_with_validity_and_without(store):
    snapshot = open_snapshot(store[0])
    for name, field in FIELDS.items():
        found = {snapshot.stored(p, name)[1].valid != () for p, n in enumerate(LENGTHS) if n > 10}
        assert found == ({True, False} if field.optional else {False})


@settings(max_examples=25)
@given(st.integers(0, N), st.integers(0, N))
def test_runs(store, io, a, b):
    path, rows = store
    a, b = min(a, b), max(a, b)
    snapshot = open_snapshot(path, io=io)
    for name, field in FIELDS.items():
        data = reader.read(snapshot, name, a, b)
        assert lists_of(field, data) == column(rows, name, range(a, b))
        assert not any(d not in field.optional and v is not None for d, v in enumerate(data.valid))
        assert data.valid == () or not all(v is None for v in data.valid)
    for part, first, last in runs(snapshot, a, b):
        base = int(snapshot.starts[part])
        for name, field in FIELDS.items():
            data = reader.read_part(snapshot, part, name, first, last)
            assert lists_of(field, data) == column(rows, name, range(base + first, base + last))
            assert not data.values.flags.writeable or field.kind == "category"
    for name in WITH_ITEMS:
        counts = np.diff(data_of(FIELDS[name], column(rows, name, range(a, b))).offsets[0])
        assert marks.read_counts(snapshot, name, a, b).tolist() == counts.tolist()
        assert marks.item_count(snapshot, name, a, b) == counts.sum()


@settings(max_examples=25)
@given(numbers())
def test_rows_in_any_order(store, io, which):
    path, rows = store
    snapshot, where = open_snapshot(path, io=io), np.array(which, np.int64)
    for name, field in FIELDS.items():
        data = reader.take(snapshot, name, where)
        assert lists_of(field, data) == column(rows, name, which)
        assert data.values.flags.writeable
        assert (data.values.dtype, data.values.shape[1:]) == (field.dtype, field.shape)
        assert data.valid == () or not all(v is None for v in data.valid)
    for name in WITH_ITEMS:
        counts = np.diff(data_of(FIELDS[name], column(rows, name, which)).offsets[0])
        assert marks.counts(snapshot, name, where).tolist() == counts.tolist()


@settings(max_examples=25)
@given(numbers(), st.integers(0, 6), st.sampled_from(["left", "right"]))
def test_rows_filled_to_one_length(store, io, which, length, side):
    path, rows = store
    snapshot = open_snapshot(path, io=io)
    for name in ONE_LEVEL:
        field = FIELDS[name]
        fill = np.ones(field.shape, field.dtype).tolist() if name != "r" else -7
        values, mask = reader.take_padded(snapshot, name, np.array(which, np.int64), length, fill, side)
        for got, real, row in zip(values.tolist(), mask.tolist(), column(rows, name, which), strict=True):
            kept = (row or [])[:length]
            padding = [None] * (length - len(kept))
            expected = padding + kept if side == "left" else kept + padding
            assert got == [fill if x is None else x for x in expected]
            assert real == [x is not None for x in expected]


def test_both_forms_of_the_kernels_agree(store, monkeypatch):
    path, rows = store
    which = np.random.default_rng(1).integers(0, N, 60)
    for form in ("twin", "compiled"):
        call = (lambda k, *a: k.twin(*a)) if form == "twin" else (lambda k, *a: k.compiled(*a)(*a))
        monkeypatch.setattr(Kernel, "__call__", call)
        for name, field in FIELDS.items():
            data = reader.take(open_snapshot(path, io="mmap"), name, which)
            assert lists_of(field, data) == column(rows, name, which.tolist())


def test_single_rows(store, io):
    path, rows = store
    snapshot = open_snapshot(path, io=io)
    for name in [*ONE_LEVEL, "s", "s_optional", "t", "t_optional"]:
        field, pick = FIELDS[name], Picker(snapshot, name)
        for i in (0, 5, 6, 6, 40, 41, N - 1, 3, *range(20)):
            expected, got = rows[i][name], pick(i)
            if expected is None:
                assert got is None
            elif field.kind == "string":
                assert bytes(got).decode() == expected
            elif field.kind == "shaped":
                assert got.shape == (*expected[0], *field.shape)
                assert got.reshape(-1, *field.shape).tolist() == expected[1]
            else:
                assert got.tolist() == [False if x is None else x for x in expected]


def test_runs_of_several_parts_have_labels_and_no_empty_flags(store):
    field = FIELDS["r_optional"]
    whole = [data_of(field, v) for v in ([[1.0], [2.0]], [[3.0]])]
    assert concatenate(field, whole).valid != ()
    none = mm.FieldData if hasattr(mm, "FieldData") else type(whole[0])
    plain = [none(d.values, d.offsets, valid=(None, None)) for d in whole]
    assert concatenate(field, plain).valid == ()
    assert concatenate(FIELDS["c"], []).labels == ("a", "b", "c")


def test_what_cannot_be_counted_or_padded_is_refused(store):
    snapshot = open_snapshot(store[0])
    rows = np.array([1, 2])
    for name in ("d", "c", "d_constant"):
        for read in (lambda n: marks.counts(snapshot, n, rows), lambda n: marks.item_count(snapshot, n, 0, 5)):
            with pytest.raises(mm.OptionError, match="no items to count"):
                read(name)
    for name in ("d", "r_deep", "t_deep", "c_constant"):
        with pytest.raises(mm.OptionError, match="one level"):
            reader.take_padded(snapshot, name, rows, 3, 0)


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """A store of one part, and how to change one of its arrays."""
    rows = make_store(tmp_path / "s.mm", [make_rows(4, 30, missing=True)])

    def change(name, what, how):
        snapshot = open_snapshot(tmp_path / "s.mm")
        layer, stored = snapshot.stored(0, name)
        number = getattr(stored, what)
        spec = layer.arrays[number if isinstance(number, int) else number[how[0]]]
        path = tmp_path / "s.mm" / "parts" / layer.id / spec.file
        raw = bytearray(path.read_bytes())
        array = np.frombuffer(raw, spec.dtype, offset=4096).reshape(spec.shape)
        how[1](array)
        path.write_bytes(raw)

    return tmp_path / "s.mm", rows, change


def everything(path, io, name, row):
    """All ways to read a row."""
    snapshot = Snapshot(str(path), open_snapshot(path).manifest, io)
    yield lambda: reader.read(snapshot, name, row, row + 1)
    yield lambda: reader.take(snapshot, name, np.array([29, row]))
    if name in WITH_ITEMS and FIELDS[name].n_offsets == 1:
        yield lambda: Picker(snapshot, name)(row)
        if name in ONE_LEVEL:
            yield lambda: reader.take_padded(snapshot, name, np.array([29, row]), 3, 0)


def set_to(index, value):
    def change(array):
        array[index] = value

    return change


def test_flags_that_are_no_flags_are_refused(damaged, io):
    path, rows, change = damaged
    for name, depth in (("d_optional", 0), ("c_optional", 0), ("r_optional", 0), ("t_optional", 0), ("s_optional", 0)):
        change(name, "valid", (depth, lambda a: set_to(7, 200)(a.view("u1"))))
        for read in everything(path, io, name, 7):
            if name in ("r_optional", "t_optional", "s_optional") and "Picker" in read.__code__.co_names:
                continue  # looks at one flag, which is set or is not
            if "take_padded" in read.__code__.co_names:
                continue  # has no use for the flags of rows
            with pytest.raises(mm.CorruptStoreError, match="other than 0 and 1"):
                read()
        data = reader.take(open_snapshot(path, io=io), name, np.array([29, 28]))
        assert lists_of(FIELDS[name], data) == column(rows, name, [29, 28]), "rows that are not read do not matter"


def test_flags_of_items_that_are_no_flags_are_refused(damaged, io):
    path, rows, change = damaged
    row = next(i for i in range(5, 28) if rows[i]["r_optional"])
    item = sum(len(rows[i]["r_optional"] or []) for i in range(row))
    change("r_optional", "valid", (1, lambda a: set_to(item, 2)(a.view("u1"))))
    refused = 0
    for read in everything(path, io, "r_optional", row):
        if "Picker" not in read.__code__.co_names:
            with pytest.raises(mm.CorruptStoreError, match="other than 0 and 1"):
                read()
            refused += 1
    assert refused == 3


@pytest.mark.parametrize("wrong", [(-1, -1), (2**62, 4), (2**40, 2**40), (7, 0), (1, 1000)])
def test_shapes_that_do_not_fit_their_items_are_refused(damaged, io, wrong):
    path, rows, change = damaged
    row = next(i for i in range(5, 28) if rows[i]["s"][1])
    change("s", "shapes", (0, set_to(row, wrong)))
    for read in everything(path, io, "s", row):
        with pytest.raises(mm.CorruptStoreError, match="does not fit its number of items"):
            read()
    after = range(row + 1, 30)
    assert lists_of(FIELDS["s"], reader.read(open_snapshot(path, io=io), "s", row + 1, 30)) == column(rows, "s", after)


def has_first(value, level):
    """Whether there is a first element below so many levels."""
    return not level or (bool(value) and has_first(value[0], level - 1))


@pytest.mark.parametrize("name", ["r", "r_wide", "r_deep", "s", "t", "t_deep"])
@pytest.mark.parametrize("wrong", [-5, 10**6, 2**62, -(2**63)])
def test_offsets_that_lead_elsewhere_are_never_followed(damaged, io, name, wrong):
    path, rows, change = damaged
    for level in range(FIELDS[name].n_offsets):
        row = next(i for i in range(5, 28) if has_first(rows[i][name], level))
        at = row + 1
        values = [r[name] for r in rows]
        for _ in range(level):
            at, values = sum(len(v or []) for v in values[: at - 1]) + 1, [x for v in values for x in v or []]
        saved = []
        change(name, "offsets", (level, lambda a: (saved.append(a[at]), a.__setitem__(at, wrong))))  # noqa: B023
        for read in everything(path, io, name, row):
            with pytest.raises(mm.CorruptStoreError, match=r"do not ascend|its offsets are not"):
                read()
        if not level:
            snapshot = open_snapshot(path, io=io)
            for count in (marks.counts(snapshot, name, np.array([1])), marks.read_counts(snapshot, name, 0, 5)):
                assert (count >= 0).all()
            for read in (
                lambda: marks.counts(snapshot, name, np.array([row])),  # noqa: B023
                lambda: marks.counts(snapshot, name, np.array([row + 1])),  # noqa: B023
                lambda: marks.read_counts(snapshot, name, row + 1, row + 2),  # noqa: B023
                lambda: marks.read_counts(snapshot, name, row, row + 1),  # noqa: B023
                lambda: marks.item_count(snapshot, name, 0, row + 1),  # noqa: B023
            ):
                with pytest.raises(mm.CorruptStoreError, match="do not ascend"):
                    read()
        change(name, "offsets", (level, lambda a: a.__setitem__(at, saved[0])))  # noqa: B023


def test_codes_beyond_the_labels_are_refused(damaged, io):
    path, rows, change = damaged
    change("c", "values", (0, set_to(7, 99)))
    for read in everything(path, io, "c", 7):
        with pytest.raises(mm.CorruptStoreError, match="beyond its 3 labels"):
            read()
    assert lists_of(FIELDS["c"], reader.read(open_snapshot(path, io=io), "c", 8, 30)) == column(rows, "c", range(8, 30))


# Arrays that are not per row ----------------------------------------------------------------------------------------


def test_an_auxiliary_array_is_the_one_row_of_a_field(store, tmp_path, io):
    import dataclasses

    from mmdask.schema import Schema
    from mmdask.store.layer import new_id
    from mmdask.store.layer_writer import LayerWriter
    from mmdask.store.manifest import dump_manifest

    make_store(tmp_path / "s.mm", [])
    wanted = {name: make_rows(9, 1, missing=False)[0][name] for name in ("d_wide", "r_deep", "t_deep", "s")}
    layers = []
    for value in ({"d_wide": np.zeros((2, 3)).tolist()}, wanted):  # the later layer overrides
        with LayerWriter(tmp_path / "s.mm", new_id()) as w:
            for name, v in value.items():
                w.field(FIELDS[name]).write(data_of(FIELDS[name], [v]))
            layers.append(w.finish(1).id)
    snapshot = open_snapshot(tmp_path / "s.mm")
    manifest = dataclasses.replace(
        snapshot.manifest, aux=Schema(FIELDS[name] for name in wanted), aux_layers=tuple(layers)
    )
    (tmp_path / "s.mm" / "manifest.json").write_bytes(dump_manifest(manifest))
    snapshot = open_snapshot(tmp_path / "s.mm", io=io)
    for name, value in wanted.items():
        assert lists_of(FIELDS[name], read_aux(snapshot, name)) == [value]
    with pytest.raises(mm.FieldNotFoundError):
        read_aux(snapshot, "d")
    part = tmp_path / "s.mm" / "parts" / layers[-1] / "part.json"
    content = json.loads(part.read_bytes())
    del content["checksum"]
    content["fields"]["t_deep"]["kind"] = "ragged"
    part.write_bytes(document.dump(content))
    with pytest.raises((mm.CorruptStoreError, mm.FormatError)):
        read_aux(Snapshot(snapshot.path, snapshot.manifest, io), "t_deep")
