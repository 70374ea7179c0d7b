"""Every example runs: docstrings, README, the pages in docs/, and the scripts in examples/."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import mmdask

ROOT = Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(mmdask.__path__, "mmdask.") if not m.name.endswith("__main__"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [p for p in TEXTS if BLOCK.search(p.read_text())]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        pytest.skip("torch is not installed; pip install 'mmdask[torch]'")
    # Examples of one module may build on each other's stores, so they run in the order of the file.
    tests = [t for t in doctest.DocTestFinder().find(module) if t.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in sorted(tests, key=lambda t: (t.filename or "", t.lineno or 0)):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text()) if not re.match(r"\w+:", link)]
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page):
    """What GitHub calls the sections of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_to_sections_lead_to_one(page):
    wrong = []
    for link, section in ANCHOR.findall(page.read_text()):
        target = page.parent / link if link else page
        if not re.match(r"\w+:", link) and target.suffix == ".md" and section not in anchors(target):
            wrong.append(f"{link}#{section}")
    assert wrong == []


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_lines_of_a_table_have_as_many_cells(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_powers_are_not_read_as_bold(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=[-*|] |\d+\. |\|)", text):
        bare = re.sub(r"`[^`]*`", "", paragraph)
        opened = [m.start() for m in re.finditer(r"\*\*", bare)]
        for i, at in enumerate(opened):
            # the second of a pair closes it, wherever it stands: two powers make all between them bold
            assert i % 2 or i + 1 == len(opened) or not bare[at - 1 : at].isdigit(), paragraph[:80]


def test_the_readme_names_every_page():
    linked = {(ROOT / link).resolve() for link in LINK.findall((ROOT / "README.md").read_text())}
    assert set((ROOT / "docs").glob("*.md")) <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_blocks_of_pages_run(page, tmp_path, monkeypatch):
    """In order, in an empty folder, and with nothing but what the page itself defines."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for i, block in enumerate(BLOCK.findall(page.read_text())):
        code = compile(block, f"{page.name}, block {i + 1}", "exec")
        exec(code, names)
