"""How the fields of an input become those of the store: new names, wider types, blanks where it has none, one length.

`Shaping` is what the user asked for, a `Change` what that means for one field of one input; `shaped` reads by it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmdask.schema import Field
from mmdask.short import resolve
from mmdask.sources.agreeing.mismatch import Modes
from mmdask.sources.agreeing.padding import Pad

__all__ = ["Change", "Shaping"]


@dataclass(frozen=True)
class Shaping:
    """What the user asked for: `rename` and `pads` by name or pattern, and what is done where inputs differ."""

    rename: Mapping[str, str] = field(default_factory=dict)
    pads: Mapping[str, Pad] = field(default_factory=dict)
    modes: Modes = field(default_factory=Modes)

    def __bool__(self) -> bool:
        return bool(self.rename or self.pads or self.modes)

    @property
    def options(self) -> dict[str, Any]:
        """What decides how fields are stored, as JSON; empty if nothing was asked for."""
        options: dict[str, Any] = {}
        if self.rename:
            # of two patterns that fit the first counts
            options["rename"] = [list(pair) for pair in self.rename.items()]
        if self.pads:
            options["pad"] = [[name, *pad.option] for name, pad in self.pads.items()]
        return {**options, **self.modes.options}

    def pads_of(self, names: Mapping[str, str]) -> tuple[dict[str, Pad], set[str]]:
        """Which fields are padded, and which entries name one.

        Parameters
        ----------
        names : mapping
            From new names of fields to those in the input. New ones count first; a field named exactly goes before one
            whose object is named, and this before one that a pattern fits, of which the first counts.
        """
        found: dict[str, Pad] = {}
        used: set[str] = set()
        old = {before: new for new, before in names.items()}
        for key, pad in self.pads.items():
            if hit := resolve(key, names) or old.get(resolve(key, old) or ""):
                found.setdefault(hit, pad)
                used.add(key)
        for members in (True, False):
            for key, pad in self.pads.items():
                if key in used:
                    continue
                match = _members if members else fnmatch.filter
                hits = match(names, key) or [old[n] for n in match(old, key)]
                if hits:
                    used.add(key)
                for hit in hits:
                    found.setdefault(hit, pad)
        return found, used

    def is_exact(self, name: str, before: str) -> bool:
        """Whether a field that is padded was named, so that it is an error if it cannot be."""
        return name in self.pads or before in self.pads


@dataclass(frozen=True)
class Change:
    """How one field is made of one of the input.

    Parameters
    ----------
    origin : Field or None
        As the input has it, under its name there; None if it has none, or if it is computed.
    read : Field
        Under its new name and of the type that all inputs agreed on: what cuts, aliases and weights see.
    stored : Field
        After padding.
    pad : Pad, optional
        How it is padded.
    computed : bool
        Whether it is an alias.
    """

    origin: Field | None
    read: Field
    stored: Field
    pad: Pad | None = None
    computed: bool = False

    @property
    def note(self) -> str:
        """What is not in the store as it was in the input, in a few words; empty if that is nothing."""
        if self.computed:
            return ""
        if self.origin is None:
            return "not in this file, missing in all its rows"
        texts = []
        if self.origin.name != self.read.name:
            texts.append(f"called {self.origin.name} in the file")
        if not self.origin.same_layout(self.read):
            texts.append(f"{self.origin.describe()} in the file")
        return ", ".join(texts)


def _members(names: Iterable[str], name: str) -> list[str]:
    """Those of some names that are members of an object or group."""
    return [n for n in names if n.startswith((f"{name}.", f"{name}/"))]
