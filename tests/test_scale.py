"""The model of docs/scale.md: a pure function, with the limits of the package."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import mmdask as mm
from benchmarks import scale
from benchmarks.scale import Constants, Measured, Shape, cost, fit, tasks_of
from mmdask.dataset import lazy
from mmdask.rows import bits, rows
from mmdask.rows.cuts import masks, partcuts
from mmdask.store import document


def test_limits_are_those_of_the_package():
    assert (scale.MANIFEST_NBYTES, scale.MANIFEST_VALUES) == (document.MAX_NBYTES, document.MAX_VALUES)
    assert scale.MAX_CHUNKS == lazy.MAX_CHUNKS
    assert scale.MAX_BLOCKS == rows._MAX_BLOCKS
    assert scale.TASK_ROWS == partcuts.TASK_ROWS
    assert (scale.MANY_TASKS, scale.TOGETHER, scale.MOST_TASKS) == (
        partcuts.MANY_TASKS,
        partcuts._TOGETHER,
        partcuts._MOST_TASKS,
    )
    assert scale.GRAIN == bits.GRAIN


@pytest.mark.parametrize(("n_parts", "length"), [(1, 50), (7, 30), (300, 20), (400, 8), (300, 64)])
def test_tasks_are_as_many_as_the_model_says(tmp_path, monkeypatch, n_parts, length):
    """Of a pass over a real store, with tasks of few rows."""
    for module in (partcuts, scale):
        monkeypatch.setattr(module, "TASK_ROWS", 64)
    found = []

    def run(tasks, done):
        found.append(len(tasks))
        for i, (function, args) in enumerate(tasks):
            done(i, function(*args))

    scale.make(tmp_path / "s.mm", n_parts * length, n_parts)
    ds = mm.open(tmp_path / "s.mm")
    ds.cut("x > 100")._selected.resolve(run)
    assert sum(found) == tasks_of(n_parts * length, n_parts)


def test_tasks_stay_few_however_many_rows_there_are():
    for n in (10**9, 10**11, 10**12, 10**13):
        for parts in (1, 100, 10**4, 10**6):
            assert tasks_of(n, parts) <= max(3 * scale.MOST_TASKS, 1.1 * n / scale.TASK_ROWS)
    assert tasks_of(10**12, 10**5) < 25_000


def test_cost_grows_with_what_it_is_of():
    c = Constants()
    small = cost(Shape(10**9, 100, 100, 8), c)
    for key, more in {
        "first_cut_seconds": Shape(10**10, 100, 100, 8),
        "mask_nbytes": Shape(10**10, 100, 100, 8),
        "manifest_nbytes": Shape(10**9, 1000, 100, 8),
        "open_seconds": Shape(10**9, 1000, 100, 8),
        "client_nbytes": Shape(10**9, 100, 100, 8, leaves=3),
        "blocks": Shape(10**9, 100, 100, 8, block_rows=1024),
    }.items():
        assert getattr(cost(more, c), key) > getattr(small, key)
    shared = cost(Shape(10**9, 100, 100, 8, workers=10), c)
    assert shared.first_cut_seconds < small.first_cut_seconds
    slow = dataclasses.replace(c, task=10.0)
    assert cost(Shape(10**9, 100, 100, 8, workers=10), slow).first_cut_seconds > 10 * small.tasks


def test_the_nearest_limit_is_first():
    found = cost(Shape(10**12, 10**6, 100, 8, workers=1000), Constants()).limits()
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert next(iter(found)) == "bits of a cut in the client, of 64 GiB"
    assert found["parts of a manifest"] == pytest.approx(4e6 / (1 << 22))


def test_constants_are_found_again():
    c = Constants(open=0.002, open_part=1e-5, part_nbytes=34, read=2e-10, part=1e-3)

    def measured(n_rows, parts):
        shape = Shape(n_rows, parts, 1, 1)
        k = cost(shape, c)
        return Measured(shape, k.manifest_nbytes, k.open_seconds, k.first_cut_seconds, 0, 0, 0)

    found = fit([measured(10**8, 8), measured(10**9, 8)], [measured(10**5, 100), measured(10**6, 1000)])
    assert found.read == pytest.approx(c.read)
    assert found.part == pytest.approx(c.part)
    assert found.open_part == pytest.approx(c.open_part)
    assert found.part_nbytes == pytest.approx(34)


def test_what_is_measured_is_what_is_there(tmp_path):
    m = scale.measure(tmp_path / "s.mm", 40_000, 8)
    assert mm.verify(tmp_path / "s.mm").ok
    model = cost(m.shape, Constants())
    assert m.manifest_nbytes == pytest.approx(model.manifest_nbytes, rel=0.3)
    assert model.mask_nbytes < m.mask_nbytes < model.mask_nbytes + 8 * 300
    assert m.kept_cut_seconds > 0
    assert np.sort(mm.open(tmp_path / "s.mm")["x"].compute())[0] == 0
    shutil.rmtree(tmp_path / "s.mm")


def test_masks_of_many_parts_are_few_files(tmp_path):
    scale.make(tmp_path / "s.mm", 3000, 300)
    mm.open(tmp_path / "s.mm").cut("x > 100").keep()
    assert masks._MANY < 300
    assert len(list((tmp_path / "s.mm" / "cache").rglob("*.mask*"))) == 1


def test_the_command(tmp_path, capsys):
    scale.main(["--rows", "160000", "--parts", "40", "--repeats", "1", "--no-cluster", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert "ratio" in out
    assert "limit: parts of a manifest" in out
    assert not list(tmp_path.iterdir())


def test_what_a_task_takes_on_a_cluster():
    pytest.importorskip("distributed")
    assert scale.task_seconds(20) > 1e-5
