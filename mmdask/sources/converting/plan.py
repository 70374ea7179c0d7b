"""What a conversion has to do, from names alone: ids that are derived, and the order of parts that results.

The id of a layer is a hash of everything that decides its data: the file's path, size and time, the tree, the options.
So a layer that exists never needs to be made again, and what is missing is known without opening an input.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mmdask.errors import ConflictError
from mmdask.rows.upkeep.compact import MERGED
from mmdask.sources.converting.inputs import Input, Label, digest
from mmdask.store.manifest import Part

__all__ = [
    "arrange",
    "complete_groups",
    "data_id",
    "data_layer",
    "extra_layers",
    "group_id",
    "group_of",
    "is_merge",
    "label_id",
    "labels_id",
    "layer_ids",
    "merged_layer",
    "most_layers",
    "order_of",
    "rows_layer",
]

_DATA = re.compile(r"([0-9a-f]{32})-(\d+)-of-(\d+)")
_LABELS = "-labels"
_MERGE = re.compile(rf"[0-9a-f]{{32}}{MERGED}")


def group_id(source: Input, options: Mapping[str, Any], labels: Mapping[str, Label] | None = None) -> str:
    """The name that all layers of one input share. Of its labels only those play a part that its rows depend on."""
    values = [[k, type(v).__name__, v] for k, v in (labels or {}).items()]
    return digest(source.path, source.tree, source.size, source.mtime_ns, dict(options), *([values] if values else []))


def layer_ids(group: str, n: int) -> tuple[str, ...]:
    """Ids of the layers of an input that is cut into `n` row ranges.

    Examples
    --------
    >>> layer_ids("5f", 2)
    ('5f-0-of-2', '5f-1-of-2')
    """
    return tuple(f"{group}-{k}-of-{n}" for k in range(n))


def labels_id(labels: Sequence[tuple[str, Label]], data_id: str) -> str | None:
    """Id of the layer with the labels of a part; None when there are none."""
    return digest([[k, type(v).__name__, v] for k, v in labels], data_id) + _LABELS if labels else None


def group_of(data_id: str) -> str:
    """The group that a data layer belongs to."""
    return data_id.partition("-")[0]


def data_id(layers: Iterable[str]) -> str | None:
    """The one of some layers that a conversion wrote the rows of an input to; None if there is none."""
    return next((i for i in layers if _DATA.fullmatch(i)), None)


def label_id(layers: Iterable[str]) -> str | None:
    """The one of some layers that holds labels."""
    return next((i for i in layers if i.endswith(_LABELS)), None)


def data_layer(part: Part) -> str | None:
    """The layer of a part that a conversion wrote; None for rows that came otherwise."""
    return data_id(part.layers)


def merged_layer(part: Part) -> str | None:
    """The layer of a part that was merged from several."""
    return next((i for i in part.layers if i.endswith(MERGED)), None)


def rows_layer(part: Part) -> str | None:
    """The layer that has the converted rows of a part: one input's, or a merged one."""
    return data_layer(part) or merged_layer(part)


def is_merge(layer: str) -> bool:
    """Whether a layer was merged by a conversion, from inputs; `mmdask.compact` gives shorter names."""
    return _MERGE.fullmatch(layer) is not None


def extra_layers(part: Part) -> tuple[str, ...]:
    """Layers that were added to a converted part later."""
    first = (data_id(part.layers), label_id(part.layers), merged_layer(part))
    return tuple(i for i in part.layers if i not in first)


def complete_groups(ids: Iterable[str]) -> dict[str, int]:
    """Groups of which all layers are among `ids`, with their number of layers.

    Examples
    --------
    >>> a, b = "a" * 32, "b" * 32
    >>> complete_groups([f"{a}-0-of-2", f"{b}-0-of-2", f"{a}-1-of-2"]) == {a: 2}
    True
    """
    found: dict[tuple[str, int], set[int]] = {}
    for match in map(_DATA.fullmatch, ids):
        if match is not None:
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    return {group: n for (group, n), ks in found.items() if n and ks == set(range(n))}


def most_layers(ids: Iterable[str]) -> dict[str, int]:
    """Into how many layers each group is cut, as far as it is made.

    Examples
    --------
    >>> a = "a" * 32
    >>> most_layers([f"{a}-0-of-3", f"{a}-2-of-3", f"{a}-0-of-2"]) == {a: 3}
    True
    """
    found: dict[str, dict[int, int]] = {}
    for match in map(_DATA.fullmatch, ids):
        if match is not None:
            counts = found.setdefault(match[1], {})
            counts[int(match[3])] = counts.get(int(match[3]), 0) + 1
    return {group: max(counts, key=lambda n: (counts[n], n)) for group, counts in found.items()}


def arrange(
    parts: Sequence[Part],
    wanted: Mapping[str, Sequence[tuple[str, str | None]]],
    made: Mapping[str, Part],
    replaced: Mapping[str, str],
    dropped: Collection[str],
    merged: Mapping[str, Sequence[str] | None] | None = None,
    *,
    within: Collection[str] = (),
    relabelled: Mapping[str, str | None] | None = None,
) -> tuple[Part, ...]:
    """The parts of the next manifest: inputs stay in their place, new ones come last.

    Parameters
    ----------
    parts : sequence of Part
        Of the newest manifest.
    wanted : mapping
        Per group, in the order in which new ones are appended: the data layer and the label layer of each part that
        is not within a merged one of `parts`. Groups that become one part together have the same pair.
    made : mapping
        Rows and bytes of data layers that are not in `parts`.
    replaced : mapping
        Data layers in `parts` that give way to the group of their input.
    dropped : collection
        Data layers in `parts` that go.
    merged : mapping, optional
        Merged layers in `parts` of converted rows: None for one that stays, else the data layers that come back in
        its place.
    within : collection
        Data layers whose rows are in a merged layer of `wanted`.
    relabelled : mapping, optional
        Merged layers that stay, with the layer that has their labels beside them from now on.

    Raises
    ------
    ConflictError
        When `parts` hold converted rows that the plan did not see, or miss some that it kept.
    """
    merged = merged or {}
    known = {data: part for part in parts if (data := data_layer(part)) is not None}
    ours = {data for pairs in wanted.values() for data, _ in pairs}.union(within)

    def part_of(data: str, labels: str | None) -> Part:
        old = known.get(data)
        if old is None and data not in made:
            raise ConflictError("another process took converted parts out of the store; call again")
        base = old or made[data]
        extra = extra_layers(base)
        return Part(base.rows, (data, *([labels] if labels else []), *extra), base.nbytes)

    result: list[Part] = []
    placed: set[str] = set()

    def place(data: str) -> None:
        if data in dropped:
            return
        if data not in replaced and data not in ours:
            raise ConflictError("another process converted other inputs into the store meanwhile; call again")
        group = replaced.get(data, group_of(data))
        if group not in placed:
            put(group)

    def put(group: str) -> None:
        placed.add(group)
        for pair in wanted[group]:
            if pair[0] not in placed:  # not with its neighbour already
                placed.add(pair[0])
                result.append(part_of(*pair))

    there = set()
    for part in parts:
        data, whole = data_layer(part), merged_layer(part)
        if data is not None:
            place(data)
        elif whole is None or merged.get(whole, ()) is None:
            if whole is not None and whole in (relabelled or {}):
                labels = (relabelled or {})[whole]
                part = Part(part.rows, (whole, *([labels] if labels else []), *extra_layers(part)), part.nbytes)
            result.append(part)
            there.add(whole)
        elif whole in merged:
            for piece in merged[whole] or ():
                place(piece)
        else:
            raise ConflictError("another process merged parts of the store meanwhile; call again")
    if any(inside is None and whole not in there for whole, inside in merged.items()):
        raise ConflictError("another process took converted parts out of the store; call again")
    for group in wanted:
        if group not in placed:
            put(group)
    return tuple(result)


def order_of(
    parts: Sequence[Part],
    groups: Iterable[str],
    kept: Collection[str],
    replaced: Mapping[str, str],
    dropped: Collection[str],
    merged: Mapping[str, Sequence[str] | None],
) -> list[str | None]:
    """The groups that are not kept, in the order in which `arrange` will put them; None for other rows between them.

    Parameters are those of `arrange`; `groups` are all, `kept` those whose rows stay as they are.
    """
    order: list[str | None] = []
    placed: set[str] = set(kept)
    for part in parts:
        data, whole = data_layer(part), merged_layer(part)
        inside = [data] if data is not None else (merged.get(whole) or ()) if whole is not None else ()
        if not inside:
            order.append(None)
        for piece in inside:
            if piece in dropped:
                continue
            group = replaced.get(piece, group_of(piece))
            if group in kept:
                order.append(None)
            elif group not in placed:
                placed.add(group)
                order.append(group)
    return order + [group for group in groups if group not in placed]
