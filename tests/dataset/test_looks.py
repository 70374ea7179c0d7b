"""What objects print in a terminal and in a notebook: short, in full where that fits, and never as markup."""

from __future__ import annotations

import html.parser
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import mmdask as mm
from mmdask.cli.look import _fitting
from mmdask.dataset.listing import History, Sources
from mmdask.store.layer import Source
from mmdask.store.manifest import Entry

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [SCRIPT, "$m_{jj}$", "a\u2066b", '" onload="x', "&lt;", "n" * 255, "東京"]
NAMES = [name for name in HOSTILE if name.isprintable()]


class Reader(html.parser.HTMLParser):
    """Tags, attributes, and all text; whether all of the text is where MathJax does not look."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attrs: set[str] = set()
        self.text = ""
        self.depth = 0
        self.exposed = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attrs.update(name for name, _ in attrs)
        if self.depth or "mathjax_ignore" in (dict(attrs).get("class") or ""):
            self.depth += 1

    def handle_endtag(self, tag):
        self.depth = max(self.depth - 1, 0)

    def handle_data(self, data):
        self.text += data
        if not self.depth:
            self.exposed += data.strip()


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    fields = [mm.Field.dense(name, "f4", unit=SCRIPT, doc=f"{SCRIPT} $x^2$") for name in NAMES]
    fields += [mm.Field.category("process", ["<i>ttH</i>", "$t$", "none"], doc="d" * 500)]
    fields += [mm.Field.ragged(f"<b>_{name}", "f4", record="<b>") for name in ("$pt$", "eta")]
    path = tmp_path_factory.mktemp("looks") / "<u>$store$.mm"
    rng = np.random.default_rng(1)
    with mm.create(path, fields=fields, aux={SCRIPT: [1.0]}) as w:
        for i in range(20):
            row = {name: float(np.float32(rng.random())) for name in NAMES}
            w.append(
                {
                    **row,
                    "process": ["<i>ttH</i>", "$t$"][i % 2],
                    "<b>_$pt$": [1.0] * (i % 3),
                    "<b>_eta": [2.0] * (i % 3),
                }
            )
    return mm.open(path)


def objects(ds):
    cut = ds.cut(f"`{SCRIPT}` > 0.5 & `$m_{{jj}}$` > 0.1 & process == '$t$'")
    cut.keep()
    source = Source(f"/data/{SCRIPT}$.root", "$tree$", 0, 5, cut="n > 1", rows=3)
    return {
        "dataset": ds,
        "selection": ds[cut],
        "computed": ds.assign(x=f"`{SCRIPT}` + 1"),
        "schema": ds.schema,
        "cut": cut,
        "cuts": ds.cuts,
        "ragged": ds["<b>_$pt$"],
        "records": ds.zip("<b>"),
        "cut flow": ds.cutflow({"<u>$all$": cut, SCRIPT: f"`{SCRIPT}` > 0"}, by="process", weight=f"`{SCRIPT}`"),
        "explain": ds.explain(f"`{SCRIPT}` > 0 & `$m_{{jj}}$` > 1"),
        "describe": ds.describe(),
        "sources": Sources([source]),
        "history": History([Entry(1, "2026", f"{SCRIPT} $", 3, 1, 2)]),
        "aux": ds.aux,
    }


KINDS = ["dataset", "selection", "computed", "schema", "cut", "cuts", "ragged", "records", "cut flow", "explain"]
KINDS += ["describe", "sources", "history", "aux"]


@pytest.fixture(scope="module")
def all_of(ds):
    found = objects(ds)
    assert list(found) == KINDS
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_from_a_store_is_markup_or_mathematics(all_of, kind):
    page = Reader(all_of[kind]._repr_html_())
    assert page.tags <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "b", "code", "small"}
    assert page.attrs <= {"style", "class"}
    assert page.exposed == "", "shown where MathJax looks for dollars"
    assert page.text.isprintable() or set(page.text) - {"\n"} <= {c for c in page.text if c.isprintable()}


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_harmless_and_not_endless(all_of, kind):
    lines = repr(all_of[kind]).split("\n")
    assert all(line.isprintable() for line in lines)
    longest = 2200 if kind in ("cut", "explain") else 400
    assert max(map(len, lines)) < longest


def test_a_wide_dataset_is_cut_off(tmp_path):
    wide = mm.from_arrays({f"x{i}_{'long' * 40}_{i}": [i] for i in range(1500)}, tmp_path / "wide.mm")
    for thing in (wide, wide.schema):
        assert "1,460 more fields" in repr(thing)
        assert "1,460 more fields" in thing._repr_html_()
        assert len(repr(thing)) < 10_000
        assert len(thing._repr_html_()) < 40_000
        # The ends of names tell them apart.
        assert "long_39 " in repr(thing)
    assert len(wide.describe()) == 1500
    assert "1,400 more fields" in repr(wide.describe())
    assert "1,400 more fields" in wide.describe()._repr_html_()


def test_a_field_says_what_it_is():
    assert repr(mm.Field.dense("met", "f4", unit="GeV", doc="missing")) == (
        "mm.Field<met, float32, unit GeV, doc missing>"
    )
    assert repr(mm.Field.category("process", ["ttbb", "ttH"])) == "mm.Field<process, category of 2, ttbb, ttH>"
    assert repr(mm.Field.ragged("a\u0301", "f4", doc="\x1b[2J")) == "mm.Field<a\u0301, ragged float32, doc \\x1b[2J>"
    assert repr(mm.Schema()) == "mm.Schema: 0 fields"


def test_sources_are_a_list_that_prints_as_a_table():
    some = [Source(f"/data/{name}.root", "t", 0, n, rows=n) for name, n in (("a", 1200), ("b", 7))]
    assert repr(Sources(some)).splitlines() == [
        "2 sources in /data",
        "source  tree   rows",
        "------  ----  -----",
        "a.root  t     1,200",
        "b.root  t         7",
    ]
    elsewhere = Sources([*some, Source("/other/c.root", "t", 0, 9, rows=9)])
    assert repr(elsewhere).splitlines()[0] == "3 sources"
    assert "/other/c.root" in repr(elsewhere)
    assert isinstance(elsewhere, list)
    assert elsewhere[1:] == [some[1], elsewhere[2]]
    many = Sources(some * 100)
    assert repr(many).splitlines()[-1] == "... and 160 more"
    assert "160 more" in many._repr_html_()
    assert repr(Sources()) == "0 sources"
    assert repr(History()) == ""


def test_a_batch_says_what_it_has(ds):
    fields = ["process", "<b>_$pt$"]
    batch = ds.batches(8, fields=fields, shuffle=False)[1]
    assert repr(batch).splitlines() == [
        "mm.Batch: 8 rows, number 1 of epoch 0",
        "entry     dtype           shape",
        "--------  --------------  -----",
        "process   int32           (8,)",
        "<b>_$pt$  ragged float32  (8,)",
    ]


def test_reports_print_as_text(ds):
    report = mm.verify(ds.path, show_progress=False)
    assert repr(report) == str(report)
    assert "no problem" in repr(report)


@pytest.mark.parametrize(
    ("width", "expected"),
    [(None, [(0, 4)]), (80, [(0, 4)]), (30, [(0, 2), (2, 4)]), (1, [(0, 1), (1, 2), (2, 3), (3, 4)])],
)
def test_rows_are_printed_side_by_side_as_far_as_there_is_room(width, expected):
    columns = [["12345678", "1"]] * 4
    assert list(_fitting(["met", "process"], columns, width)) == expected
    assert list(_fitting(["met"], [], width)) == [(0, 0)]


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path):
    mm.from_arrays({f"x{i:04d}_{'y' * 100}": [i] for i in range(3000)}, tmp_path / "wide.mm")
    command = [sys.executable, "-m", "mmdask", "info", str(tmp_path / "wide.mm")]
    root = os.path.dirname(os.path.dirname(mm.__file__))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"store")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(300) == 128 + signal.SIGPIPE
