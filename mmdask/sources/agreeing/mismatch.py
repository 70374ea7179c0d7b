"""What is done with fields that the inputs of a conversion do not have alike. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdask.errors import OptionError
from mmdask.schema import stored_dtype

__all__ = ["MODES", "Modes", "make_modes"]

#: raise; take only what all have alike; take what holds the values of all, with missing ones where an input has none
MODES = ("error", "common", "promote")


@dataclass(frozen=True)
class Modes:
    """One of `MODES`, or a dtype that was asked for, by name or pattern; "error" for fields of none."""

    asked: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Whether inputs may differ in anything."""
        return any(mode != "error" for _, mode in self.asked)

    def of(self, name: str) -> str:
        """That of a field: of its name, else of the first pattern that fits.

        Examples
        --------
        >>> modes = make_modes({"*": "promote", "event*": "common", "eventNumber": "f8"})
        >>> modes.of("met"), modes.of("eventNumber")
        ('promote', 'f8')
        """
        for key, mode in self.asked:
            if key == name:
                return mode
        for key, mode in self.asked:
            if fnmatch.fnmatchcase(name, key):
                return mode
        return "error"

    @property
    def fills(self) -> bool:
        """Whether an input may lack what others have, so that expressions are checked when all are known."""
        return any(mode not in ("error", "common") for _, mode in self.asked)

    @property
    def lenient(self) -> bool:
        """Whether a name or pattern may fit nothing in one of several inputs."""
        return bool(self)

    @property
    def options(self) -> dict[str, Any]:
        """As JSON; empty if inputs may not differ."""
        return {"on_mismatch": [list(pair) for pair in self.asked]} if self else {}


def make_modes(on_mismatch: str | Mapping[str, str]) -> Modes:
    """What a user's ``on_mismatch=`` says: a mode for all fields, or by name or pattern a mode or a dtype.

    Raises
    ------
    OptionError
        When it says nothing that can be done.
    """
    pairs = on_mismatch.items() if isinstance(on_mismatch, Mapping) else [("*", on_mismatch)]
    asked = []
    for name, mode in pairs:
        if not isinstance(name, str) or not name or not isinstance(mode, str):
            raise OptionError(f"on_mismatch is {_listed()}, or a mapping of names to these; got {on_mismatch!r}")
        if mode not in MODES:
            try:
                if name == "*":
                    raise TypeError
                mode = stored_dtype(mode).str[1:] if np.dtype(mode).kind in "biufc" else ""
            except (TypeError, ValueError):
                mode = ""
            if not mode:
                raise OptionError(
                    f"on_mismatch is {_listed()}, or for some fields a dtype of numbers, as in "
                    f"{{'*': 'promote', 'eventNumber': 'float64'}}; got {on_mismatch!r}"
                )
        asked.append((name, mode))
    return Modes(tuple(asked))


def _listed() -> str:
    return ", ".join(map(repr, MODES[:-1])) + f" or {MODES[-1]!r}"
