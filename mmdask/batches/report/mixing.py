"""`Mixing`: what a report says, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from mmdask.display import html_block, html_table, nbytes_text, text_table

__all__ = ["Mixing"]


@dataclass(frozen=True)
class Mixing:
    """How well the batches of a loader mix the values of a field; prints as a table. Made by `Loader.report`.

    Attributes
    ----------
    field : str
    classes : int
        Labels, distinct numbers, or ranges of equally many values.
    predicted : float
        The variance of the counts of the classes in batches, as times that of a true shuffle, that the design has with
        these settings and these data, in the mean over all seeds; nan where nothing is predicted.
    measured : float
        That of batches of this epoch.
    precision : float
        By how much a measured ratio of 1 varies.
    amplification : float
        Bytes of the pages that a cold read of the fields touches, as times those that are wanted.
    window_rows, window_blocks, block_rows : int
        What is mixed together, of how many blocks; rows of a block. All 0 where there are no windows.
    window_nbytes : int
        Stored bytes of the window, of all fields.
    ahead_nbytes : int
        Bytes of batches that are read together or ahead at most.
    why : str
        Why nothing is predicted; empty if something is.
    advice : tuple of str
        What to change where a target cannot be met.
    """

    field: str
    classes: int
    predicted: float
    measured: float
    precision: float
    amplification: float
    window_rows: int
    window_blocks: int
    block_rows: int
    window_nbytes: int
    ahead_nbytes: int
    why: str
    advice: tuple[str, ...]

    def _lines(self) -> list[tuple[str, str]]:
        predicted = f"none: {self.why}" if self.why else f"{self.predicted:.2f}"
        lines = [
            ("classes", str(self.classes)),
            ("variance in batches / that of a true shuffle, predicted", predicted),
            ("measured", f"{self.measured:.2f} +- {self.precision:.2f}"),
            ("bytes read cold / bytes wanted", f"{self.amplification:.2f}"),
        ]
        if self.window_rows:
            window = f"{self.window_rows:,} rows in {self.window_blocks:,} blocks of {self.block_rows:,}"
            lines.append(("window", f"{window}, {nbytes_text(self.window_nbytes)}"))
        lines.append(("batches read together and ahead", f"up to {nbytes_text(self.ahead_nbytes)}"))
        return lines

    def _headers(self) -> tuple[str, str]:
        return f"mixing of {self.field}", ""

    def __str__(self) -> str:
        return "\n".join([text_table(self._lines(), self._headers()), *self.advice])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = html_table(self._lines(), self._headers())
        return html_block(table, *(html_table([(line,)], ("",)) for line in self.advice))
