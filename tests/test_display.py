from __future__ import annotations

import html.parser
import io
import os
import signal
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask import display
from mmdask.display import (
    count_text,
    html_table,
    nbytes_text,
    parse_nbytes,
    progress,
    terminal_safe,
    text_table,
)
from mmdask.errors import OptionError

ANY_TEXT = st.text(st.characters(), max_size=30)
NASTY = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\nb\r\tc",
    "\u202eevil",
    "\ud800",
    "\x00",
    "\u2028",
]


class TestSizes:
    @pytest.mark.parametrize(
        ("n", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * 1024, "10 KiB"),
            (1_400_000_000, "1.3 GiB"),
            (2**20 - 1, "1.0 MiB"),
            (2**63, "8.0 EiB"),
            (2**73, "8192 EiB"),
            (1536.7, "1.5 KiB"),
            (-2048, "-2.0 KiB"),
        ],
    )
    def test_text(self, n: float, text: str) -> None:
        assert nbytes_text(n) == text

    @pytest.mark.parametrize(
        ("size", "n"),
        [
            (0, 0),
            ("0", 0),
            ("256MiB", 2**28),
            ("1 GB", 10**9),
            ("1.5 kib", 1536),
            (" .5KB ", 500),
            ("1e3", 1000),
            ("2e9 B", 2 * 10**9),
            ("9007199254740993 B", 2**53 + 1),
            (2**63 - 1, 2**63 - 1),
        ],
    )
    def test_parse(self, size: int | str, n: int) -> None:
        assert parse_nbytes(size) == n

    @pytest.mark.parametrize(
        "size",
        [
            "",
            "MiB",
            "-1",
            "1 XB",
            "1 M",
            "1,000",
            "nan",
            "inf",
            "1e99",
            "9 EiB",
            "1 GB GB",
            "\u0661",
            -1,
            2**63,
            True,
            None,
            1.5,
            [],
            b"1",
        ],
    )
    def test_parse_refuses(self, size: object) -> None:
        with pytest.raises(OptionError, match="a size is a number of bytes"):
            parse_nbytes(size)  # type: ignore[arg-type]

    @given(st.integers(0, 2**62))
    def test_round_trip(self, n: int) -> None:
        assert parse_nbytes(n) == parse_nbytes(str(n)) == parse_nbytes(f"{n} B") == n
        # two digits at least: 5 % at worst, where 9.5 is rounded
        assert abs(parse_nbytes(nbytes_text(n)) - n) <= 0.051 * n

    @given(st.integers(-(10**30), 10**30))
    def test_count(self, n: int) -> None:
        assert int(count_text(n).replace(",", "")) == n
        assert all(len(group) == 3 for group in count_text(n).split(",")[1:])


class TestTerminal:
    @pytest.mark.parametrize("text", NASTY)
    def test_nasty(self, text: str) -> None:
        safe = terminal_safe(text)
        assert safe.isprintable()
        assert safe != text

    @given(ANY_TEXT)
    def test_printable_and_kept(self, text: str) -> None:
        safe = terminal_safe(text)
        assert safe.isprintable()
        safe.encode()
        # independent of the code: what is left after undoing the escapes is the text itself
        if "\\" not in text:
            undone = safe.encode("ascii", "backslashreplace").decode("unicode_escape")
            assert undone == text
        if text.isprintable():
            assert safe == text

    def test_scripts_stay(self) -> None:
        assert terminal_safe("Zürich 東京 µ±") == "Zürich 東京 µ±"
        assert terminal_safe(12) == "12"


class TestTextTable:
    def test_layout(self) -> None:
        table = text_table([("met", 1200, "x"), ("jet_pt", 31, "")], ("field", "rows", ""), "lr")
        assert table.splitlines() == [
            "field   rows",
            "------  ----  -",
            "met     1200  x",
            "jet_pt    31",
        ]

    def test_wide_characters(self) -> None:
        lines = text_table([("東京", 1), ("e\u0301", 2)], ("a", "b"), "lr").splitlines()
        assert lines[2] == "東京  1"
        assert lines[3] == "e\u0301     2"

    def test_empty(self) -> None:
        assert text_table([], ("a", "bc")) == "a  bc\n-  --"

    @given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=5))
    def test_one_line_each(self, rows: list[tuple[str, str]]) -> None:
        lines = text_table(rows, ("a", "b")).split("\n")
        assert len(lines) == len(rows) + 2
        assert all(line.isprintable() for line in lines)

    def test_refuses(self) -> None:
        with pytest.raises(OptionError, match="2 headers got a row of 1"):
            text_table([("a",)], ("a", "b"))
        with pytest.raises(OptionError, match="2 headers got a row of 1"):
            html_table([("a",)], ("a", "b"))
        for align in ("c", "lll"):
            with pytest.raises(OptionError, match="align"):
                text_table([], ("a", "b"), align)


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and the text of every cell."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attrs: set[str] = set()
        self.cells: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attrs.update(name for name, _ in attrs)
        if tag in ("td", "th", "caption"):
            self.cells.append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.cells[-1] += data


class TestHtmlTable:
    @given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=4), ANY_TEXT)
    def test_nothing_is_markup(self, rows: list[tuple[str, str]], title: str) -> None:
        reader = Reader()
        reader.feed(html_table(rows, (title, "b"), "lr"))
        reader.close()
        assert reader.tags == ["div", "table", "thead", "tr", "th", "th", "tbody"] + ["tr", "td", "td"] * len(rows)
        assert reader.attrs == {"style", "class"}
        assert reader.cells == [terminal_safe(c) for row in [(title, "b"), *rows] for c in row]

    @pytest.mark.parametrize("text", ["<script>alert(1)</script>", '" onload="x', "</td>", "&lt;", "'"])
    def test_attacks(self, text: str) -> None:
        reader = Reader()
        reader.feed(html_table([(text,)], (text,), caption=text))
        assert reader.cells == [text] * 3
        assert "script" not in reader.tags

    def test_no_colours(self) -> None:
        out = html_table([(1,)], ("a",))
        assert "#" not in out
        assert "rgb" not in out
        assert "currentColor" in out


class TestProgress:
    def test_counts_and_hides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        with progress(3000, "convert \x1b[2J", "rows", unit_scale=True) as bar:
            bar.update(1000)
            bar.update(2000)
            assert bar.n == 3000
        text = out.getvalue()
        assert "convert \\x1b[2J" in text
        assert "3.00k/3.00k" in text
        assert "100%" in text
        with progress(3, "quiet", disable=True) as bar:
            bar.update(3)
        assert out.getvalue() == text

    def test_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        with progress(2048, "write", "B") as bar:
            bar.update(2048)
        assert "2.00k/2.00k" in out.getvalue()
        assert "B/s" in out.getvalue()

    def test_delay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        with progress(3, "short", delay=60) as bar:
            bar.update(3)
        assert out.getvalue() == ""

    def test_leaves_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        before = set(threading.enumerate())
        with progress(None, "work") as bar:
            bar.update(1)
        assert set(threading.enumerate()) <= before
        assert type(bar).monitor is None  # one that another bar of this process started would hide a new one


def test_a_killed_child_does_not_stop_the_bars_of_its_parent():
    """Lock of a bar held by a forked child that is killed."""
    with display.progress(1, "first", disable=True):
        pass
    read, write = os.pipe()
    child = os.fork()
    if not child:
        display._bar_class().get_lock().acquire()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    free = threading.Event()

    def use():
        with display.progress(1, "second", disable=True):
            free.set()

    threading.Thread(target=use, daemon=True).start()
    assert free.wait(120)
