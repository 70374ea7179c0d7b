"""Which entries the batches of several loaders have, which have to be the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdask.errors import OptionError

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader

__all__ = ["check_entries", "flags_of"]


def check_entries(loaders: Mapping[str, Loader]) -> None:
    """Raise where loaders have other entries, unless functions of theirs may add what others have, or other labels.

    Raises
    ------
    OptionError
        Which names the entries, or the field and its labels.
    """
    _check_labels(loaders)
    if any(loader.transform is not None for loader in loaders.values()):
        return
    found = {name: {*_entries(loader)} - {*flags_of(loader)} for name, loader in loaders.items()}
    first, expected = next(iter(found.items()))
    for name, entries in found.items():
        if entries != expected:
            raise OptionError(
                f"batches of {name!r} have the entries {sorted(entries)}, those of {first!r} {sorted(expected)}; make "
                "the loaders with the same fields= and collate="
            )


def _check_labels(loaders: Mapping[str, Loader]) -> None:
    """Raise where codes of labels would mean different labels in one array."""
    known: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, loader in loaders.items():
        for field in [loader.rows.schema[f] for f in loader.fields]:
            if field.kind != "category":
                continue
            other, labels = known.setdefault(field.name, (name, field.labels))
            if labels != field.labels:
                raise OptionError(
                    f"the codes of {field.name!r} mean other labels in {name!r} than in {other!r}: {field.labels} and "
                    f"{labels}; leave it out of fields=, for batch.source says which loader a row is of"
                )


def _entries(loader: Loader) -> list[str]:
    """Names of the entries of its batches, as far as no function changes them."""
    return [name for group in loader.plan.groups for name in group.names]


def flags_of(loader: Loader) -> list[str]:
    """Names of the entries of its batches that say which rows are missing."""
    names = []
    for group in loader.plan.groups:
        fields = [chain.field for chain in group.chains]
        own = {f"{name}_valid" for name in (group.name, *(f.name for f in fields if 0 in f.optional))}
        names += [name for name in group.names if name in own and any(0 in f.optional for f in fields)]
    return names
