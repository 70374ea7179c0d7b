"""New names for the fields of an input: exact ones, and patterns whose wildcards go on standing for the same. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from mmdask.errors import OptionError, SchemaError
from mmdask.schema import check_name
from mmdask.short import short_names

__all__ = ["check_distinct", "check_rename", "new_names"]

_WILD = re.compile(r"\*|\?|\[[^]]*\]")


def check_rename(rename: Mapping[str, str] | None) -> dict[str, str]:
    """What a user's ``rename=`` says.

    Raises
    ------
    OptionError, SchemaError
        When it says nothing that can be done.
    """
    what = "rename maps names, or patterns, to new ones, as {'GEN.x': 'gen_x', 'jet_*': 'j_*'}"
    if rename is None:
        return {}
    if not isinstance(rename, Mapping):
        raise OptionError(f"{what}; got {rename!r}")
    for old, new in rename.items():
        if not isinstance(old, str) or not old or not isinstance(new, str):
            raise OptionError(f"{what}; got {old!r}: {new!r}")
        check_name(new)
        if new.count("*") > len(_WILD.findall(old)):
            raise OptionError(
                f"rename {old!r}: {new!r} has more '*' than {old!r} has wildcards; each of them takes what the next "
                "wildcard stands for"
            )
    return dict(rename)


def new_names(
    names: Iterable[str], rename: Mapping[str, str], fields: Collection[str] | None = None
) -> tuple[dict[str, str], set[str]]:
    """What some names become, and which entries of `rename` fit one.

    An exact name, or its short form, comes before that of an object or group that it is a member of, these before
    patterns, and of those the first that fits counts: the name itself rather than its object. Names of `fields`, by
    default all, are no objects.

    Raises
    ------
    SchemaError
        When a new name is none.

    Examples
    --------
    >>> new_names(["GEN.x", "jet_pt", "jet_eta", "met"], {"jet_*": "j_*", "GEN.x": "gen_x"})[0]
    {'GEN.x': 'gen_x', 'jet_pt': 'j_pt', 'jet_eta': 'j_eta', 'met': 'met'}
    >>> new_names(["p4.fP.fX", "p4.fE"], {"p4": "mu"})[0]
    {'p4.fP.fX': 'mu.fP.fX', 'p4.fE': 'mu.fE'}
    """
    names = list(names)
    fields = set(names) if fields is None else fields
    exact = {old: (old, new) for old, new in rename.items()}
    for short, meant in short_names(names).items():
        if short in rename and len(meant) == 1:
            exact.setdefault(meant[0], (short, rename[short]))
    patterns = [(old, _compiled(old), new) for old, new in rename.items() if _WILD.search(old)]
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        # itself first, then the objects around it, from the inside
        around = [name, *(o for o in _objects(name) if o not in fields)]
        at, entry, new = next(((o, *exact[o]) for o in around if o in exact), (name, "", ""))
        if not entry:
            at, entry, new = next(_fitting(around, patterns), (name, "", name))
        found[name] = new + name[len(at) :]
        if entry:
            check_name(found[name])
            used.add(entry)
    return found, used


def _objects(name: str) -> Iterator[str]:
    """The objects and groups that a name is a member of, the innermost first."""
    for at in range(len(name) - 2, 0, -1):
        if name[at] in "./":
            yield name[:at]


def _fitting(
    names: Iterable[str], patterns: Iterable[tuple[str, re.Pattern[str], str]]
) -> Iterator[tuple[str, str, str]]:
    """Names that a pattern fits, with it and what they become."""
    for name in names:
        for old, pattern, new in patterns:
            if match := pattern.fullmatch(name):
                yield name, old, _filled(new, match.groups())


def check_distinct(names: Mapping[str, str], where: str) -> None:
    """Raise `SchemaError` when two of the fields that are taken would have one name.

    Examples
    --------
    >>> check_distinct({"a": "x", "b": "b"}, "f.root")
    """
    origin: dict[str, str] = {}
    for old, new in names.items():
        if new in origin:
            raise SchemaError(
                f"{where}: {origin[new]!r} and {old!r} would both be called {new!r}; rename one of them, or leave it "
                "out (exclude)"
            )
        origin[new] = old


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of file names whose wildcards are groups."""
    pieces, at = [], 0
    for wild in _WILD.finditer(pattern):
        pieces.append(re.escape(pattern[at : wild.start()]))
        text = wild[0]
        if text in ("*", "?"):
            pieces.append("(.*)" if text == "*" else "(.)")
        else:
            inside = text[1:-1].replace("\\", "\\\\").replace("^", "\\^")
            negated = inside.startswith("!")
            pieces.append(f"([{'^' if negated else ''}{inside[negated:]}])" if inside[negated:] else re.escape(text))
        at = wild.end()
    return re.compile("".join([*pieces, re.escape(pattern[at:])]), re.DOTALL)


def _filled(new: str, parts: tuple[str, ...]) -> str:
    """A new name whose '*' are what the wildcards of the old one stood for, one after the other."""
    left = iter(parts)
    return re.sub(r"\*", lambda _: next(left), new)
