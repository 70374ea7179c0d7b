"""Words of a command line that say several things."""

from __future__ import annotations

from collections.abc import Sequence

import mmdask as mm

__all__ = ["label", "pairs", "plain"]


def pairs(option: str, what: str, words: Sequence[str]) -> dict[str, str]:
    """What an option says of several names: ``ht=sum(jet_pt)``."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise mm.OptionError(f"{option} {word!r}: {what}")
        if name.strip() in found:
            raise mm.OptionError(f"{option}: {name.strip()} is given twice")
        found[name.strip()] = text
    return found


def plain(text: str) -> int | float | str:
    """A number, if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def label(text: str) -> bool | int | float | str:
    """A bool, if it is ``true`` or ``false``, or a number, if it is one."""
    return {"true": True, "false": False}.get(text.lower(), plain(text))
