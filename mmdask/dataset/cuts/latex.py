"""Text, numbers and lines of a table as LaTeX source."""

from __future__ import annotations

from collections.abc import Sequence

from mmdask import display

__all__ = ["latex_number", "latex_row", "latex_text"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # two of them would be a dash, and quotes differ between encodings
    "-": "-{}",
    '"': "''",
    # after the end of a row these are arguments of it
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{c: f"\\{c}" for c in "#$%&_{}"},
}


def latex_text(text: object) -> str:
    r"""Text as LaTeX source in which no character has a meaning of its own.

    Examples
    --------
    >>> print(latex_text("jet_pt > 100 & 50%"))
    jet\_pt \textgreater{} 100 \& 50\%
    """
    return "".join([_SPECIAL.get(c, c) for c in display.terminal_safe(text)])


def latex_number(cell: str) -> str:
    """A cell of numbers as LaTeX source: with an error it is mathematics."""
    if r"\pm" in cell:
        return f"${cell.replace(',', '{,}')}$"
    return cell.replace("%", r"\%")


def latex_row(cells: Sequence[str]) -> str:
    """The line of a table."""
    return " & ".join(cells) + r" \\"
