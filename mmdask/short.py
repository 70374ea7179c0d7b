"""Short names: a field whose name is no identifier is also found by the identifier that is nearest to it. Pure.

``GEN.x`` is ``GEN_x``, ``event/nMuon`` is ``event_nMuon``. Stored names never change; a field that has the name wins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from mmdask.errors import FieldNotFoundError

__all__ = ["ambiguous", "resolve", "short_name", "short_names"]

_OTHERS = re.compile("[^A-Za-z0-9_]+")


def short_name(name: str) -> str:
    """The identifier that stands for a name: runs of other characters become one ``_``; empty if nothing is left.

    Examples
    --------
    >>> short_name("GEN.x"), short_name("group/branch[3]"), short_name("4th jet"), short_name("met"), short_name("@")
    ('GEN_x', 'group_branch_3', '_4th_jet', 'met', '')
    """
    if not _OTHERS.search(name):
        return f"_{name}" if name[:1].isdigit() else name
    short = _OTHERS.sub("_", name)
    # what stands at an end becomes nothing, but underscores of the name itself stay
    short = short[bool(_OTHERS.match(name)) : len(short) - bool(_OTHERS.match(name[-1]))]
    return f"_{short}" if short[:1].isdigit() else short


def short_names(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Short names that are no name, each with all that it could mean.

    Examples
    --------
    >>> short_names(["GEN.x", "GEN/x", "a b", "a_b", "met"])
    {'GEN_x': ('GEN.x', 'GEN/x')}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        short = short_name(name)
        if short and short != name and short not in names:
            found.setdefault(short, []).append(name)
    return {short: tuple(meant) for short, meant in found.items()}


def resolve(name: str, names: Collection[str], shorts: Mapping[str, tuple[str, ...]] | None = None) -> str | None:
    """The one of some names that is meant: itself, or the one that it is short for; None if it is none.

    Raises
    ------
    FieldNotFoundError
        When it is short for several.

    Examples
    --------
    >>> resolve("GEN_x", ["GEN.x", "met"]), resolve("met", ["met"]), resolve("mett", ["met"])
    ('GEN.x', 'met', None)
    """
    if name in names:
        return name
    meant = (short_names(names) if shorts is None else shorts).get(name, ())
    if len(meant) > 1:
        raise FieldNotFoundError(ambiguous(name, meant))
    return meant[0] if meant else None


def ambiguous(name: str, meant: Iterable[str]) -> str:
    """The message for a name that is short for several."""
    candidates = list(map(repr, meant))
    more = f", ... ({len(candidates)} in all)" if len(candidates) > 10 else ""
    return f"{name!r} is short for several fields: {', '.join(candidates[:10])}{more}; write the whole name"
