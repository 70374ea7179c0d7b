"""What a conversion warns of: fields that were left out, cuts that no row passes, and sums that are no numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

from mmdask import display
from mmdask.errors import DroppedItemsWarning, SkippedFieldsWarning
from mmdask.sources.agreeing.settled import NOT_COMMON
from mmdask.sources.agreeing.shaped import cut_text
from mmdask.sources.converting.table import UNREADABLE
from mmdask.store.layer import Layer

__all__ = ["warn_of"]


def warn_of(root: str, layers: Sequence[Layer]) -> None:
    """One warning for all fields that were left out, those that cannot be read first; and one for each other thing."""
    unread: dict[str, str] = {}
    others: dict[str, dict[str, str]] = {}  # by the file where they were seen first, if it is one file that has them so
    seen: set[str] = set()
    for layer in layers:
        for source in layer.sources:
            for name, why in source.skipped:
                if why.startswith(UNREADABLE):
                    unread.setdefault(name, f"{name!r} in {source.uri}: {why.removeprefix(UNREADABLE)}")
                elif name not in seen:
                    seen.add(name)
                    where = "" if why.startswith(NOT_COMMON) else f", seen in {source.uri}"
                    others.setdefault(where, {})[name] = f"{name!r}: {why}"
    texts = []
    if unread:
        texts.append(
            f"the data of {_count(unread)} cannot be read, left out for all rows: {_some(unread)}. "
            "When a file is repaired, the same call reads it again"
        )
    texts += [f"{_count(reasons)} left out{where}: {_some(reasons)}" for where, reasons in others.items()]
    # _convert, convert, convert_root, mm.from_root, the caller
    if texts:
        warnings.warn(f"{root}: {'. '.join(texts)}", SkippedFieldsWarning, stacklevel=6)
    if cut := cut_text(p for layer in layers for source in layer.sources for p in source.padded):
        warnings.warn(f"{root}: {cut}", DroppedItemsWarning, stacklevel=6)
    entries = sum(source.stop - source.start for layer in layers for source in layer.sources if source.cut)
    if entries and not any(layer.rows for layer in layers):
        cut = next(source.cut for layer in layers for source in layer.sources if source.cut)
        warnings.warn(
            f"{root}: no row of {display.count_text(entries)} passed the cut {cut!r}; are its numbers in the units of "
            "the file?",
            RuntimeWarning,
            stacklevel=6,
        )
    sums = [(source.uri, w) for layer in layers for source in layer.sources for w in source.weights]
    if wrong := [(uri, w.weight) for uri, w in sums if not math.isfinite(w.sum + w.sum2)]:
        (uri, weight), more = wrong[0], f", and {len(wrong) - 1} more like it" if len(wrong) > 1 else ""
        warnings.warn(
            f"{root}: the sum of the weight {weight!r} over {uri}{more} is no finite number, so that nothing can be "
            "normalised by it; a row has nan or an infinity: see ds.sources",
            RuntimeWarning,
            stacklevel=6,
        )


def _count(reasons: Mapping[str, str]) -> str:
    return f"{len(reasons)} field{'s' * (len(reasons) > 1)}"


def _some(reasons: Mapping[str, str]) -> str:
    some = "; ".join(list(reasons.values())[:10])
    return some + (f"; and {len(reasons) - 10} more, listed in the store's sources" if len(reasons) > 10 else "")
