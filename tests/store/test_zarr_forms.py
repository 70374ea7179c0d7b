"""How the arrays of a store are kept is the same for all writers, whatever becomes of the document that says it."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest

import mmdask as mm
from mmdask.store.storage import storage_of
from mmdask.store.system import System

SMALL = mm.Zarr(chunk_rows=4)
NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    for name in ("fsync", "fsync_folder"):
        monkeypatch.setattr(System, name, lambda *_: None)


@pytest.fixture(params=["disk", "memory"])
def path(request, tmp_path):
    return str(tmp_path / "s.mm") if request.param == "disk" else f"memory://form-{next(NUMBERS)}.mm"


def rows(path, name="x"):
    return mm.open(path)[name].compute().tolist()


def begun(path, values, backend):
    """A writer that has made a part, and is not done."""
    w = mm.create(path, backend=backend, part_nbytes=64).__enter__()
    w.extend({"x": values})
    return w


def ended(w):
    """Whether its rows are committed."""
    try:
        w.__exit__(None, None, None)
    except (mm.ConflictError, mm.StoreExistsError):
        return False
    return True


@pytest.mark.parametrize(("one", "two"), [*itertools.permutations([None, SMALL, mm.Zarr(codec="zstd")], 2)])
def test_two_that_make_a_store_in_different_forms(tmp_path, one, two):
    """§9.2: one of them may win, and what it wrote can be read."""
    path = str(tmp_path / "s.mm")
    first = begun(path, list(range(40)), one)
    second = begun(path, list(range(40, 80)), two)
    first.extend({"x": [-1]})
    second.extend({"x": [-2]})
    won = [ended(first), ended(second)]
    if any(won):
        assert won != [True, True]
        assert rows(path) == ([*range(40), -1] if won[0] else [*range(40, 80), -2])
        form, asked = mm.open(path)._rows.snapshot.manifest.zarr, one if won[0] else two
        assert (form and form.codec) == (asked and asked.codec)
        assert mm.verify(path).ok
    else:
        assert not os.path.exists(os.path.join(path, "manifest.json"))


def test_one_that_gives_up_leaves_the_other_its_form(path):
    first = begun(path, list(range(40)), SMALL)
    with contextlib.suppress(ZeroDivisionError), mm.create(path, backend=SMALL) as w:
        w.extend({"x": [1]})
        raise ZeroDivisionError
    first.extend({"x": [-1]})
    assert ended(first)
    assert rows(path) == [*range(40), -1]
    assert mm.verify(path).ok


def append(path):
    with mm.append(path) as w:
        w.append({"x": 3})


CHANGES = {
    "append": append,
    "assign": lambda path: mm.assign(path, y="x + 1", progress=False),
    "compact": lambda path: mm.compact(path, progress=False),
    "annotate": lambda path: mm.annotate(path, aux={"edges": [0.0, 1.0]}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_form_that_was_lost_is_written_again(path, change):
    mm.from_arrays({"x": [0, 1]}, path, backend=SMALL)
    append(path)
    lost = storage_of(path).read("zarr.json")
    storage_of(path).unlink([("zarr.json",)])
    CHANGES[change](path)
    assert rows(path) == [0, 1, 3] + [3] * (change == "append")
    assert storage_of(path).read("zarr.json") == lost
    assert mm.verify(path).ok


@pytest.mark.parametrize("backend", [SMALL, None])
def test_nothing_of_another_form_is_committed(tmp_path, backend):
    """§9.1"""
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"x": [0, 1]}, path, backend=backend)
    document = tmp_path / "s.mm" / "zarr.json"
    words = r"zarr\.json.* Nothing was committed"
    with pytest.raises(mm.ConflictError, match=words), mm.append(path) as w:
        if backend is None:
            other = mm.from_arrays({"x": [0]}, tmp_path / "other.mm", backend="zarr").path
            document.write_bytes((tmp_path / other / "zarr.json").read_bytes())
        else:
            document.unlink()
        w.append({"x": 3})
    assert rows(path) == [0, 1]
    if backend is None:
        document.unlink()
    append(path)
    assert rows(path) == [0, 1, 3]
    assert mm.verify(path).ok


@pytest.mark.parametrize("n", [257, 70_000])
def test_more_labels_than_a_code_can_have_before_a_chunk_is_complete(path, n):
    labels = [f"label {i}" for i in range(n)]
    fields = [mm.Field.category("c"), mm.Field.dense("x", "i4")]
    ds = mm.from_arrays({"c": labels, "x": range(n)}, path, fields=fields, backend=mm.Zarr())
    assert list(ds["c"].compute()) == labels
    assert mm.verify(path).ok
    assert not mm.verify(path).notes
