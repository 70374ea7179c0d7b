"""The notebook of examples/ runs, offline and leaving nothing behind; its results are right, and those stored in it."""

from __future__ import annotations

import nbformat
import pytest

from tests import notebooks

pytest.importorskip("matplotlib")
pytest.importorskip("vector")

[PATH] = notebooks.NOTEBOOKS

# Without the bars of what takes a while: on a slow machine that is more than on another one.
SETUP = """
import os, tempfile, warnings
warnings.simplefilter("error")
from mmdask.dataset import run
run._BAR_DELAY = 1e9
del run
os.mkdir("temporary")
tempfile.tempdir = os.path.abspath("temporary")
"""

# Independent of mmdask: awkward and numpy on all events in memory. The kernel has warnings of its own when it ends.
CHECKS = """
warnings.simplefilter("ignore")
import awkward as ak
import numpy as np

everything = ds.to_awkward()
pt = everything.jet_pt
n = np.asarray(everything.nJets)
tags = np.asarray(everything.nBTags_77)
hard_one = np.asarray(ak.any(pt > 100e3, axis=1))
passing = (n >= 6) & (tags >= 2) & hard_one
assert len(everything) == 20_000
assert len(sel) == passing.sum() > 1000
assert sel["eventNumber"].compute().tolist() == everything.eventNumber[passing].tolist()
np.testing.assert_allclose(met.compute(), np.asarray(everything.met) / 1000)
assert most == ak.max(n)
np.testing.assert_allclose(hard, hard_one.mean())
np.testing.assert_allclose(leading.compute(), ak.fill_none(ak.firsts(pt), np.nan).to_numpy() / 1000, rtol=1e-6)
px, py, pz, e = (
    ak.sum(x, axis=1).to_numpy()
    for x in (pt * np.cos(everything.jet_phi), pt * np.sin(everything.jet_phi), pt * np.sinh(everything.jet_eta),
              everything.jet_e)
)
np.testing.assert_allclose(
    mass.compute(), np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0)) / 1000, rtol=2e-3, atol=5)

ht30 = ak.sum(pt[pt > 30e3], axis=1).to_numpy() / 1000
np.testing.assert_allclose(sel["ht30"].compute(), ht30[passing], rtol=1e-5)
weights = np.asarray(everything.weight_mc, np.float64)
process = np.asarray(ds["process"].compute())
assert flow.groups == ("ttbb", "ttH")
steps = [np.ones(len(n), bool), n >= 6, (n >= 6) & (tags >= 2), passing]
for group, sums, errors in zip(flow.groups, flow.cumulative.sums, flow.cumulative.errors):
    for mask, w, error in zip(steps, sums, errors):
        of_group = weights[mask & (process == group)]
        np.testing.assert_allclose([w, error], [of_group.sum(), np.sqrt((of_group**2).sum())], rtol=1e-9)
edges = h.axes[1].edges
for group in flow.groups:
    mask = passing & (process == group)
    counts, _ = np.histogram(ht30[mask], edges, weights=weights[mask])
    np.testing.assert_allclose(h[group, :].values(), counts, rtol=1e-6, atol=1e-6)
assert sum(len(part) for part in parts.values()) == len(sel)
assert set(batch.rows) <= set(np.flatnonzero(passing)) and len(set(batch.rows)) == 1024
np.testing.assert_array_equal(batch["met"], np.asarray(everything.met)[batch.rows])
padded = ak.fill_none(ak.pad_none(pt[batch.rows], 10, clip=True), 0).to_numpy()
np.testing.assert_array_equal(batch["jet_pt"], padded)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook after it ran, and the folder in which it did."""
    folder = tmp_path_factory.mktemp("notebook")
    return notebooks.run(PATH, folder, SETUP, CHECKS), folder


def test_its_results_are_right(ran):
    notebook, _ = ran
    streams = [o for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "stream"]
    assert {o.name for o in streams} == {"stdout"}


def test_it_leaves_nothing_behind(ran):
    _, folder = ran
    assert [path.name for path in folder.rglob("*")] == ["temporary"]


def test_its_stored_outputs_are_what_comes_out(ran):
    stored = notebooks.texts(nbformat.read(PATH, as_version=4))
    for i, (old, new) in enumerate(zip(stored, notebooks.texts(ran[0]), strict=True)):
        anew = f"code cell {i + 1} puts out something else now; look at it, then run python -m tests.notebooks"
        assert [kind for kind, _ in old] == [kind for kind, _ in new], anew
        for (_, a), (_, b) in zip(old, new, strict=True):
            assert notebooks.same(a, b), f"{anew}\n{a}\n{b}"


def test_it_is_short_and_holds_no_trace_of_where_it_ran():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 15
    assert all(len(cell.source.splitlines()) <= 12 for cell in notebook.cells)
    assert PATH.stat().st_size < 150_000
    assert not notebooks.TEMPORARY.search(PATH.read_text())
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_bars_are_text_without_ipywidgets(tmp_path):
    """tqdm warns then, which is nothing that a user of a store can be told on every call."""
    code = """
import sys, warnings
warnings.simplefilter("error")
sys.modules["ipywidgets"] = None
from mmdask.display import progress
with progress(3, "convert") as bar:
    bar.update(3)
with progress(3, "gone", leave=False) as bar:
    bar.update(3)
warnings.simplefilter("ignore")
"""
    path = tmp_path / "bar.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    [cell] = notebooks.run(path, tmp_path).cells
    text = "".join(output.text for output in cell.outputs)
    assert {output.name for output in cell.outputs} == {"stderr"}
    last = text.rstrip("\n").split("\n")
    assert last[0].split("\r")[-1].startswith("convert: 100%")
    assert last[-1].split("\r")[-1].strip() == "", "a bar that does not stay is wiped out"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("met  1,234.5 ± 3\n-----", "met 1,234.6 ± 3\n------", True),
        ("met 1,234", "met 1,244", False),
        ("met 1", "ht 1", False),
        ("12 parts", "12 parts 3", False),
        ("a -1", "a 1", False),
    ],
)
def test_texts_are_compared_but_for_spaces_and_last_digits(a, b, expected):
    assert notebooks.same(a, b) is expected
