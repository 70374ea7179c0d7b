"""The bar of a conversion, in decoded bytes."""

from __future__ import annotations

import os

from mmdask import display

__all__ = ["Progress"]


class Progress:
    """A bar in decoded bytes, which are known about; every field of every part moves it by its share."""

    def __init__(self, total: int, *, show: bool) -> None:
        self._bar = display.progress(total, "convert", "B", disable=not show)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.set_postfix_str("", refresh=False)
        self._bar.close()

    def tell(self, nbytes: int, path: str) -> None:
        """Count bytes that were done, of this file."""
        file = os.path.basename(path)
        # Behind the bar, and short, so that there is room for the bar.
        self._bar.set_postfix_str(display.terminal_safe(file if len(file) <= 20 else f"...{file[-17:]}"), refresh=False)
        self._bar.update(nbytes)
