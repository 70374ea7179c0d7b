"""Files of `to_root` as ROOT itself reads them, where it is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import mmdask as mm
from mmdask.export import root as root_module
from mmdask.schema import Field

if importlib.util.find_spec("ROOT") is None:
    pytest.skip("ROOT is not installed; pip install root", allow_module_level=True)

ROWS = 700

CHECK = r"""
    #include <ROOT/RNTupleReader.hxx>
    #include <optional>

    std::string text(int i) { std::string s; for (int k = 0; k < i % 300; k++) s += "\xc3\xa9"; return s; }

    int tree(const char* path) {
        TFile f(path);
        auto t = f.Get<TTree>("dir/events");
        static char s[2000], c[100];
        double x, p3[3]; ULong64_t u; bool b; int n; float pt[10]; bool ok[10];
        t->SetBranchAddress("s", s); t->SetBranchAddress("c", c); t->SetBranchAddress("x", &x);
        t->SetBranchAddress("u", &u); t->SetBranchAddress("b", &b); t->SetBranchAddress("p3", p3);
        t->SetBranchAddress("njet", &n); t->SetBranchAddress("jet_pt", pt); t->SetBranchAddress("jet_ok", ok);
        int bad = t->GetEntries() != ROWS;
        for (int i = 0; i < t->GetEntries(); i++) {
            t->GetEntry(i);
            bool good = s == text(i) && std::string(c) == (i % 3 ? "ttH" : "ttbb") && x == i / 8. && b == (i % 2 == 1);
            good &= u == 18446744073709551615ull - i && p3[0] == i && p3[2] == i + 2 && n == i % 4;
            for (int j = 0; j < n; j++) good &= pt[j] == i + j / 2.f && ok[j] == (j == 1);
            bad += !good;
        }
        return bad;
    }

    int ntuple(const char* path) {
        auto r = ROOT::RNTupleReader::Open("events", path);
        auto s = r->GetView<std::string>("s");
        auto c = r->GetView<std::string>("c");
        auto u = r->GetView<std::uint64_t>("u");
        auto p3 = r->GetView<std::array<double, 3>>("p3");
        auto pt = r->GetView<std::vector<float>>("jet_pt");
        auto lead = r->GetView<std::optional<float>>("lead");
        auto words = r->GetView<std::vector<std::string>>("words");
        auto deep = r->GetView<std::vector<std::vector<std::int32_t>>>("deep");
        auto some = r->GetView<std::optional<std::vector<std::optional<std::int16_t>>>>("some");
        auto image = r->GetView<std::vector<std::vector<std::uint8_t>>>("image");
        auto points = r->GetView<std::vector<std::array<double, 2>>>("points");
        int bad = r->GetNEntries() != ROWS;
        for (auto i : r->GetEntryRange()) {
            bool good = s(i) == text(i) && c(i) == (i % 3 ? "ttH" : "ttbb") && u(i) == 18446744073709551615ull - i;
            good &= p3(i)[0] == i && p3(i)[2] == i + 2 && pt(i).size() == i % 4;
            for (unsigned j = 0; j < pt(i).size(); j++) good &= pt(i)[j] == i + j / 2.f;
            good &= lead(i).has_value() == (i % 7 != 0) && (!lead(i) || *lead(i) == i);
            good &= words(i).size() == i % 4;
            for (unsigned j = 0; j < words(i).size(); j++) good &= words(i)[j] == std::string(j, 'a');
            good &= deep(i).size() == i % 4;
            for (unsigned j = 0; j < deep(i).size(); j++) {
                good &= deep(i)[j].size() == j % 3;
                for (int v : deep(i)[j]) good &= v == int(j);
            }
            good &= some(i).has_value() == (i % 5 != 0);
            if (some(i)) {
                good &= some(i)->size() == i % 4;
                for (unsigned j = 0; j < some(i)->size(); j++) {
                    auto v = (*some(i))[j];
                    good &= v.has_value() == (j % 2 == 0) && (!v || *v == int(j));
                }
            }
            good &= image(i).size() == i % 3;
            for (auto& line : image(i)) {
                good &= line.size() == i % 4;
                for (int v : line) good &= v == int(i % 256);
            }
            good &= points(i).size() == i % 3;
            for (unsigned j = 0; j < points(i).size(); j++) good &= points(i)[j][0] == i && points(i)[j][1] == j;
            bad += !good;
        }
        return bad;
    }
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    fields = [
        Field.dense("x", "f8"),
        Field.dense("u", "u8"),
        Field.dense("b", "?"),
        Field.dense("p3", "f8", (3,)),
        Field.ragged("jet_pt", "f4"),
        Field.ragged("jet_ok", "?"),
        Field.string("s"),
        Field.category("c", ["ttH", "ttbb"]),
        Field.dense("lead", "f4", optional=(0,)),
        Field.string("words", levels=1),
        Field.ragged("deep", "i4", levels=2),
        Field.ragged("some", "i2", optional=(0, 1)),
        Field.shaped("image", "u1", 2),
        Field.ragged("points", "f8", (2,)),
    ]
    path = tmp_path_factory.mktemp("in_root") / "s.mm"
    rows = range(ROWS)
    with mm.create(path, fields=fields) as w:
        w.extend(
            {
                "x": np.arange(ROWS) / 8,
                "u": np.uint64(2**64 - 1) - np.arange(ROWS, dtype="u8"),
                "b": np.arange(ROWS) % 2 == 1,
                "p3": np.arange(ROWS)[:, None] + np.arange(3.0),
                "jet_pt": [[i + j / 2 for j in range(i % 4)] for i in rows],
                "jet_ok": [[j == 1 for j in range(i % 4)] for i in rows],
                "s": ["é" * (i % 300) for i in rows],
                "c": ["ttH" if i % 3 else "ttbb" for i in rows],
                "lead": [None if i % 7 == 0 else float(i) for i in rows],
                "words": [["a" * j for j in range(i % 4)] for i in rows],
                "deep": [[[j] * (j % 3) for j in range(i % 4)] for i in rows],
                "some": [None if i % 5 == 0 else [None if j % 2 else j for j in range(i % 4)] for i in rows],
                "image": [np.full((i % 3, i % 4), i % 256, "u1") for i in rows],
                "points": [[[i, j] for j in range(i % 3)] for i in rows],
            }
        )
    return path


@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
def test_root_reads_what_was_written(tmp_path, store, monkeypatch, compression):
    monkeypatch.setattr(root_module, "BLOCK_NBYTES", 50_000)
    ds = mm.open(store)
    in_tree = [
        name for name, f in ds.schema.items() if f.levels < 2 and not f.optional and name not in ("image", "points")
    ]
    in_tree.remove("words")
    ds.to_root(tmp_path / "t.root", "dir/events", fields=in_tree, compression=compression, progress=False)
    ds.to_root(tmp_path / "n.root", format="rntuple", compression=compression, progress=False)
    script = """
        import sys
        import ROOT

        ROOT.gInterpreter.Declare(sys.argv[1])
        print("bad", ROOT.tree(sys.argv[2]), ROOT.ntuple(sys.argv[3]))
    """
    code = CHECK.replace("ROWS", str(ROWS))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), code, tmp_path / "t.root", tmp_path / "n.root"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "bad 0 0", done.stdout + done.stderr[-3000:]
