"""Text for people: sizes, counts, tables, progress bars, and names from a store made harmless.

Whatever comes from a store may come from a stranger. Tables escape every cell for where it is shown.
"""

from __future__ import annotations

import functools
import html
import os
import re
import threading
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from mmdask.errors import OptionError

__all__ = [
    "amount",
    "count_text",
    "html_block",
    "html_table",
    "html_text",
    "nbytes_text",
    "parse_nbytes",
    "plot_text",
    "progress",
    "terminal_safe",
    "text_table",
]

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)(e\d{1,2})?\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_PREFIXES = "kmgtpe"
_UNITS = {"": 1, "b": 1}
_UNITS.update({f"{p}ib": 1024**i for i, p in enumerate(_PREFIXES, 1)})
_UNITS.update({f"{p}b": 1000**i for i, p in enumerate(_PREFIXES, 1)})
_LARGEST = 2**63 - 1
#: characters of a cell of a table; names of fields have fewer
_CELL_LENGTH = 256


def nbytes_text(n: float) -> str:
    """Return a number of bytes in binary units, with two to four digits.

    Examples
    --------
    >>> nbytes_text(640), nbytes_text(1_400_000_000), nbytes_text(256 * 2**20)
    ('640 B', '1.3 GiB', '256 MiB')
    """
    if abs(n) < 1023.5:
        return f"{n:.0f} B"
    for prefix in "KMGTPE":
        n /= 1024
        if abs(n) < 9.95:
            return f"{n:.1f} {prefix}iB"
        if abs(n) < 1023.5:
            return f"{n:.0f} {prefix}iB"
    return f"{n:.0f} EiB"


def parse_nbytes(size: int | str) -> int:
    """Return the number of bytes that a size means.

    Parameters
    ----------
    size : int or str
        A number of bytes, or a number with a unit: ``B``, ``KiB`` to ``EiB`` in steps of 1024, ``kB`` to
        ``EB`` in steps of 1000. Case and spaces around the unit do not matter.

    Raises
    ------
    OptionError
        For anything else, negative numbers and numbers past 63 bits.

    Examples
    --------
    >>> parse_nbytes("256MiB"), parse_nbytes("1 GB"), parse_nbytes(4096)
    (268435456, 1000000000, 4096)
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        factor = _UNITS.get(match[3].lower()) if match else None
        n = round(float(match[1] + (match[2] or "")) * factor) if match and factor else None
        if match and factor and match[1].isdigit() and not match[2]:
            n = int(match[1]) * factor  # exact where a float is not
    else:
        n = int(size) if hasattr(size, "__index__") and not isinstance(size, bool) else None
    if n is None or not 0 <= n <= _LARGEST:
        raise OptionError(f"a size is a number of bytes like 4096, '256MiB' or '1.5 GB', got {size!r}")
    return n


def count_text(n: int) -> str:
    """Return a count with commas.

    Examples
    --------
    >>> count_text(1234567)
    '1,234,567'
    """
    return f"{n:,d}"


def amount(n: int, noun: str) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> amount(1, "part"), amount(1200, "row")
    ('1 part', '1,200 rows')
    """
    return f"{count_text(n)} {noun}{'' if n == 1 else 's'}"


def terminal_safe(text: object) -> str:
    r"""Return `text` with every character that a terminal would act on shown as its escape.

    That is control characters (so no escape sequence starts), line breaks, text direction marks and lone
    surrogates. Printable characters stay, in any script.

    Examples
    --------
    >>> print(terminal_safe("jet\x1b[2J_pt"))
    jet\x1b[2J_pt
    """
    t = str(text)
    if t.isprintable():
        return t
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in t])


def _width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _cut(cell: object, longest: int = _CELL_LENGTH) -> str:
    """Text of a cell, which a store may have made as long as it likes; its end tells names apart."""
    text = str(cell)
    if len(text) <= longest:
        return text
    tail = longest // 4
    return f"{text[: longest - tail - 3]}...{text[-tail:]}"


def _align_of(align: str, n: int) -> str:
    if set(align) - {"l", "r"} or len(align) > n:
        raise OptionError(f"align is one 'l' or 'r' for each of {n} columns, got {align!r}")
    return align.ljust(n, "l")


def text_table(
    rows: Iterable[Sequence[object]], headers: Sequence[object], align: str = "", *, longest: int = _CELL_LENGTH
) -> str:
    """Return an aligned table as plain text, without a line break at the end.

    Parameters
    ----------
    rows : iterable of sequences
        Cells, shown by ``str`` and made harmless by `terminal_safe`; one for each header.
    headers : sequence
        Titles.
    align : str
        ``"l"`` or ``"r"`` for each column; left where it is shorter.
    longest : int
        Characters of a cell; of longer ones the middle is left out.

    Raises
    ------
    OptionError
        For other letters in `align`, and for a row of another length than the headers.

    Examples
    --------
    >>> print(text_table([("met", 1200), ("jet_pt", 31)], ("field", "rows"), "lr"))
    field   rows
    ------  ----
    met     1200
    jet_pt    31
    """
    cells = [[terminal_safe(_cut(c, longest)) for c in row] for row in (headers, *rows)]
    sides = _align_of(align, len(headers))
    for row in cells:
        if len(row) != len(headers):
            raise OptionError(f"a table with {len(headers)} headers got a row of {len(row)} cells: {row}")
    widths = [max(_width(row[i]) for row in cells) for i in range(len(headers))]
    cells.insert(1, ["-" * w for w in widths])
    lines = []
    for row in cells:
        gaps = [" " * (w - _width(c)) for c, w in zip(row, widths, strict=True)]
        padded = [g + c if s == "r" else c + g for c, g, s in zip(row, gaps, sides, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


# Names of classes that MathJax leaves alone, in JupyterLab and elsewhere: a dollar in a name is one.
_PLAIN = 'class="tex2jax_ignore mathjax_ignore"'
_TABLE_STYLE = "border-collapse:collapse;margin:.4em 0;width:auto;font-size:.92em;font-variant-numeric:tabular-nums"
# currentColor follows the theme, light or dark; no colour and no background is set anywhere.
_HEAD_STYLE = "border-bottom:1px solid currentColor;font-weight:600"
_GROUP_STYLE = "border-top:1px dotted currentColor"
_CELL_STYLE = "padding:.15em .8em;vertical-align:top;background:none"
# Numbers and names stay on one line, with their spaces; long text is broken, wherever it has to be.
_SHORT_STYLE = "white-space:pre"
_LONG_STYLE = "white-space:pre-wrap;overflow-wrap:anywhere;min-width:18em"
_SHORT = 48


def html_table(
    rows: Iterable[Sequence[object]],
    headers: Sequence[object],
    align: str = "",
    *,
    caption: object = "",
    group: int = 0,
) -> str:
    """Return a small table in HTML for a notebook; it follows light and dark themes, and scrolls where it is wide.

    Every cell is shown by ``str`` and escaped, so that nothing from a store is taken for markup, nor for mathematics.

    Parameters
    ----------
    rows, headers, align
        As in `text_table`. Headers that are all empty are not shown.
    caption : object
        A line above the table.
    group : int
        So many rows belong together; a thin line is between them and the next ones. 0 for none.

    Raises
    ------
    OptionError
        As `text_table`.

    Examples
    --------
    >>> "<b>" in html_table([("<b>met</b>",)], ("field",))
    False
    """
    sides = _align_of(align, len(headers))

    def line(tag: str, row: Sequence[object], more: str = "") -> str:
        if len(row) != len(headers):
            raise OptionError(f"a table with {len(headers)} headers got a row of {len(row)} cells: {list(row)}")
        cells = [_html_cell(tag, c, side, more) for c, side in zip(row, sides, strict=True)]
        return f'<tr style="background:none">{"".join(cells)}</tr>'

    title = f'<caption style="text-align:left;opacity:.75">{html_text(caption)}</caption>' if caption else ""
    head = f"<thead>{line('th', headers, f';{_HEAD_STYLE}')}</thead>" if any(headers) else ""
    lines = [line("td", row, f";{_GROUP_STYLE}" if group and i and not i % group else "") for i, row in enumerate(rows)]
    body = "\n".join(lines)
    table = f'<table style="{_TABLE_STYLE}">{title}{head}<tbody>\n{body}</tbody></table>'
    return f'<div {_PLAIN} style="overflow-x:auto">{table}</div>'


def _html_cell(tag: str, cell: object, side: str, more: str) -> str:
    text = terminal_safe(_cut(cell))
    space = _SHORT_STYLE if len(text) <= _SHORT else _LONG_STYLE
    style = f"{_CELL_STYLE};{space};text-align:{'right' if side == 'r' else 'left'}{more}"
    return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'


def html_text(text: object) -> str:
    """Return text for HTML, made harmless by `terminal_safe` and escaped, at most 256 characters of it.

    Examples
    --------
    >>> html_text("a < b")
    'a &lt; b'
    """
    return html.escape(terminal_safe(_cut(text)))


def html_block(*pieces: str) -> str:
    """Return pieces of HTML as one block, in which a dollar is a dollar."""
    return f"<div {_PLAIN}>{''.join(pieces)}</div>"


def plot_text(text: object, longest: int = _CELL_LENGTH) -> str:
    r"""Return text in which matplotlib sees no mathematics, and no name that is to be hidden.

    Examples
    --------
    >>> print(plot_text("$m_{jj}$"))
    \$m_{jj}\$
    """
    safe = terminal_safe(_cut(text, longest))
    return f"{' ' * safe.startswith('_')}{safe}".replace("$", r"\$")


@functools.cache
def _bar_class() -> Any:
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        # In a notebook without ipywidgets the bar is text, and that is all right.
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm

    # No watcher thread: it would outlive the bar. `miniters=1` below makes up for it.
    bar: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
    # tqdm's own lock is shared with forked children: one that is killed while it holds it would stop all others.
    bar.set_lock(threading.RLock())
    os.register_at_fork(after_in_child=lambda: bar.set_lock(threading.RLock()))
    return bar


def progress(
    total: int | None,
    desc: str,
    unit: str = "rows",
    *,
    unit_scale: bool = False,
    disable: bool = False,
    delay: float = 0,
    leave: bool = True,
) -> Any:
    """Return a progress bar, a context manager with ``update(n)``; in a notebook, a widget.

    Parameters
    ----------
    total : int or None
        The end, in units; None where it is not known.
    desc : str
        What is going on; names from a store are made harmless.
    unit : str
        What is counted. Bytes (``"B"``) are shown in steps of 1024.
    unit_scale : bool
        Whether large numbers are shown as ``1.23M``.
    disable : bool
        Whether nothing is shown at all.
    delay : float
        Seconds before the bar appears; work that ends sooner shows none.
    leave : bool
        Whether the bar stays when all is done.

    Examples
    --------
    >>> with progress(10, "convert", disable=True) as bar:
    ...     bar.update(10) is None
    True
    """
    nbytes = unit == "B"
    return _bar_class()(
        total=total,
        desc=terminal_safe(desc),
        unit=unit if nbytes else f" {unit}",
        unit_scale=unit_scale or nbytes,
        unit_divisor=1024 if nbytes else 1000,
        dynamic_ncols=True,
        miniters=1,
        disable=disable,
        delay=delay,
        leave=leave,
    )
