"""Short names: a field whose name is no identifier is also found by the identifier that is nearest to it. Pure.

``GEN.x`` is ``GEN_x``, ``event/nMuon`` is ``event_nMuon``. Stored names never change; a field that has the name wins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmdask.errors import FieldNotFoundError, did_you_mean

__all__ = [
    "ShortNamed",
    "ambiguous",
    "first_words",
    "members_of",
    "resolve",
    "short_name",
    "short_names",
    "whole_object",
]

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


def members_of(what: str, names: Iterable[str]) -> dict[str, str]:
    """The names that begin with ``what_``, each with what follows; if there are none, with ``what.`` or ``what/``.

    Members of an object within an object are called by their last part, where that is one member's alone. An object has
    a short name, too: ``mu_fP`` is ``mu.fP``.

    Raises
    ------
    FieldNotFoundError
        When it is short for several objects.

    Examples
    --------
    >>> members_of("jet", ["jet_pt", "jet_btag_score", "jet_", "jets"])
    {'jet_pt': 'pt', 'jet_btag_score': 'btag_score'}
    >>> members_of("mu", ["mu.fP.fX", "mu.fE", "mu.a.t", "mu.b.t"])
    {'mu.fP.fX': 'fX', 'mu.fE': 'fE', 'mu.a.t': 'a.t', 'mu.b.t': 'b.t'}
    >>> members_of("mu_fP", ["mu.fP.fX", "mu.fP.fY", "mu.fE"])
    {'mu.fP.fX': 'fX', 'mu.fP.fY': 'fY'}
    """
    names = list(names)
    begun = [name for name in names if len(name) > len(what) + 1 and name.startswith(what)]
    found = {name: name[len(what) + 1 :] for name in begun if name[len(what)] == "_"}
    if found:
        return found
    found = {name: name[len(what) + 1 :] for name in begun if name[len(what)] in "./"}
    if not found and (whole := whole_object(what, names)):
        return members_of(whole, names)
    last = [re.split("[./]", member)[-1] for member in found.values()]
    return {
        name: end if end and last.count(end) == 1 and end not in found.values() else member
        for (name, member), end in zip(found.items(), last, strict=True)
    }


def whole_object(what: str, names: Iterable[str]) -> str:
    """The object that a name is short for, of those that others are members of; empty if there is none.

    Raises
    ------
    FieldNotFoundError
        When it is short for several.

    Examples
    --------
    >>> whole_object("mu_fP", ["mu.fP.fX", "mu.fE"]), whole_object("mu", ["mu.fP.fX", "mu.fE"])
    ('mu.fP', '')
    """
    objects = {name[: m.start()]: None for name in names for m in re.finditer("[./]", name)}
    meant = [name for name in objects if name != what and short_name(name) == what]
    if len(meant) > 1:
        raise FieldNotFoundError(ambiguous(what, meant).replace("several fields", "several objects", 1))
    return meant[0] if meant else ""


def first_words(names: Iterable[str]) -> set[str]:
    """What names begin with, up to the first ``_``, ``.`` or ``/``.

    Examples
    --------
    >>> sorted(first_words(["jet_pt", "jet_eta", "mu.fE", "met"]))
    ['jet', 'met', 'mu']
    """
    return {re.split("[_./]", name, maxsplit=1)[0] for name in names}


class ShortNamed(dict[str, Any]):
    """Entries by name, which are also found by short names: by ``[]``, ``in``, `get` and `pop`. Keys are whole names.

    What is put in stands under the name as it is written.

    Examples
    --------
    >>> entries = ShortNamed({"GEN.x": 1.0, "met": 2.0})
    >>> entries["GEN_x"], "GEN_x" in entries, list(entries)
    (1.0, True, ['GEN.x', 'met'])
    """

    __slots__ = ()

    def __missing__(self, name: object) -> Any:
        names = [n for n in self if isinstance(n, str)]
        if isinstance(name, str) and (whole := resolve(name, names)) is not None:
            return self[whole]
        shorts = [short for short, meant in short_names(names).items() if len(meant) == 1]
        some = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
        near = did_you_mean(str(name), [*names, *shorts]) or f"; the entries are: {some or 'none'}"
        raise FieldNotFoundError(f"no entry {name!r}{near}")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and self._whole(name) is not None)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, or `default` if there is none."""
        whole = None if super().__contains__(name) else self._whole(name)
        return super().get(name if whole is None else whole, default)

    def pop(self, name: str, *default: Any) -> Any:
        """The entry, which is taken out, or `default` if there is none."""
        whole = None if super().__contains__(name) else self._whole(name)
        return super().pop(name if whole is None else whole, *default)

    def _whole(self, name: str) -> str | None:
        """The one entry that a name is short for."""
        names = [n for n in self if isinstance(n, str)] if isinstance(name, str) and short_name(name) == name else []
        meant = short_names(names).get(name, ())
        return meant[0] if len(meant) == 1 else None
