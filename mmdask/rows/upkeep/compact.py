"""Merge small neighbouring parts into larger ones, with one layer each. Rows keep their numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask import display
from mmdask.errors import ConflictError, OptionError
from mmdask.rows.blocks import row_blocks
from mmdask.rows.reading.part import read_part
from mmdask.schema import CODE_DTYPE, Field, FieldData
from mmdask.store.checking.verify import check_parts
from mmdask.store.commit import amount, commit, discard_layers, same_store
from mmdask.store.folder import restore_form
from mmdask.store.layer import Layer, Merged, OldLayer, Scalar, new_id
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.manifest import CONVERSION, Manifest, Part, part_keys, read_manifest, store_root
from mmdask.store.outcome import writing
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import storage_of

__all__ = ["MERGED", "compact", "constant_of", "used_labels"]

#: how the ids of merged layers end, so that a conversion knows which part.json tell of its inputs
MERGED = "-merged"


def compact(path: str | os.PathLike[str], *, part_nbytes: int | str = "1 GiB", progress: bool = True) -> None:
    """Merge runs of neighbouring parts that are smaller than a target into parts of about that. Eager; one commit.

    Many small parts make a store slow to read. Rows keep their numbers and values; the data of fields that were
    dropped or replaced are left behind, also in large parts. Everything is copied once, in bounded memory.

    Parameters
    ----------
    path : path
        The store.
    part_nbytes : int or str
        Bytes of a part, as ``"1 GiB"``.
    progress : bool
        Whether a progress bar is shown.

    Raises
    ------
    CorruptStoreError
        When what would be merged does not fit its checksums; nothing is changed then.
    ConflictError
        When another process changed the merged parts meanwhile; nothing is changed then. Rows that others append
        meanwhile do no harm.
    OptionError
        When `part_nbytes` is no number of bytes.

    Notes
    -----
    Older generations keep the parts that they had: their space is free when `mmdask.vacuum` has removed them. Kept
    cuts of merged parts are computed again when they are used.

    Rows that were converted are not merged with rows that were appended, so that a conversion can still replace them.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [1, 2]}, "merged.mm")
    >>> with mm.append("merged.mm") as w:
    ...     w.append({"x": 3})
    >>> mm.compact("merged.mm")
    >>> mm.open("merged.mm")["x"].compute()
    array([1, 2, 3])
    """
    target = display.parse_nbytes(part_nbytes)
    if target < 1:
        raise OptionError(f"part_nbytes is a number of bytes, 1 or more, got {part_nbytes!r}")
    root = store_root(path)
    base = read_manifest(root)
    snapshot = Snapshot(root, base)
    runs = _plan(snapshot, target)
    if not runs:
        return
    layers: list[Layer] = []
    total = sum(n for run in runs for n in run.nbytes)
    try:
        with (
            writing(root, "nothing was compacted"),
            display.progress(total, "compact", "B", unit_scale=True, disable=not progress, delay=0.5) as bar,
        ):
            restore_form(root, base.zarr)
            for run in runs:
                # New checksums would hide what the old ones show.
                check_parts(root, replace(base, parts=base.parts[run.start : run.stop]))
                layers.append(_merge(snapshot, run, bar.update))
                bar.set_postfix_str(f"{len(layers)} of {amount(len(runs), 'part')}", refresh=False)

        def change(newest: Manifest | None) -> Manifest:
            newest = same_store(root, newest, base)
            return replace(newest, parts=_replaced(root, newest.parts, base.parts, runs, layers))

        n = sum(run.stop - run.start for run in runs)
        commit(root, change, action=f"compact {amount(n, 'part')} to {len(runs)}")
    except BaseException:
        discard_layers(root, [layer.id for layer in layers])
        raise


@dataclass(frozen=True)
class _Run:
    """Parts `start` to `stop`, to become one; the bytes of each that are still in use."""

    start: int
    stop: int
    nbytes: tuple[int, ...]


def _plan(snapshot: Snapshot, target: int) -> list[_Run]:
    """The runs of parts to be rewritten."""
    runs: list[_Run] = []
    start = 0
    nbytes: list[int] = []
    converted = storage_of(snapshot.path).has(CONVERSION)
    wastes: list[bool] = []

    def close(stop: int) -> None:
        nonlocal start
        if stop - start > 1 or (stop > start and wastes[start]):
            runs.append(_Run(start, stop, tuple(nbytes)))
        start = stop
        nbytes.clear()

    kind = False
    for number, part in enumerate(snapshot.parts):
        alive, stored = _used(snapshot, number)
        wastes.append(alive < stored)
        of_kind = converted and any(snapshot.layer(i).sources for i in part.layers)
        held = sum(nbytes)
        full = held >= target or (held >= target // 2 and held + alive > target + target // 2)
        if nbytes and (full or alive >= target or of_kind != kind):
            close(number)
        kind = of_kind
        nbytes.append(alive)
    close(len(snapshot.parts))
    return runs


def _used(snapshot: Snapshot, part: int) -> tuple[int, int]:
    """Bytes of a part that the fields of the store are in, and bytes of all the rows that it stores."""
    used: dict[str, set[int]] = {}
    for name in snapshot.schema:
        layer, stored = snapshot.stored(part, name)
        if stored.values is not None:
            used.setdefault(layer.id, set()).update(stored.arrays)
    alive = sum(snapshot.layer(i).arrays[n].nbytes for i, numbers in used.items() for n in numbers)
    return alive, sum(snapshot.layer(i).rows_nbytes for i in snapshot.parts[part].layers)


def _merge(snapshot: Snapshot, run: _Run, update: Callable[[int], Any]) -> Layer:
    """Write the rows of some parts as one layer, field by field."""
    parts = range(run.start, run.stop)
    rows = sum(snapshot.parts[p].rows for p in parts)
    with LayerWriter(snapshot.path, new_id() + MERGED) as w:
        for field in snapshot.schema.values():
            constant = constant_of(snapshot, parts, field)
            if constant is not None:
                w.constant(field, constant)
                continue
            field, codes = used_labels(snapshot, parts, field)
            writer = w.field(field)
            for p in parts:
                _copy(snapshot, p, field, codes, writer, update)
            writer.close()
        return w.finish(rows, merged=_joined([m for p in parts for m in _origins(snapshot, p)]))


def constant_of(snapshot: Snapshot, parts: Sequence[int], field: Field) -> Scalar | None:
    """The value that all rows of a field have, if each part has it as a constant."""
    values = {p: snapshot.stored(p, field.name)[1].constant for p in parts}
    first = values[parts[0]]
    # by repr, because 0.0 is not -0.0 and 1 is not True
    same = all(v is not None and repr(v) == repr(first) for v in values.values())
    return first if same else None


def used_labels(snapshot: Snapshot, parts: Sequence[int], field: Field) -> tuple[Field, Any]:
    """The field with only the labels that some parts know, and for each label of the store its number among them."""
    if field.kind != "category":
        return field, None
    known = {label for p in parts for label in snapshot.stored(p, field.name)[1].labels}
    labels = [label for label in field.labels if label in known]
    number = {label: i for i, label in enumerate(labels)}
    return field.with_labels(labels), np.array([number.get(label, 0) for label in field.labels], CODE_DTYPE)


def _copy(
    snapshot: Snapshot, part: int, field: Field, codes: Any, writer: FieldWriter, update: Callable[[int], Any]
) -> None:
    layer, stored = snapshot.stored(part, field.name)
    rows = snapshot.parts[part].rows
    own = layer.arrays[stored.values].nbytes if stored.values is not None else 0
    for a, b in row_blocks(snapshot, part, [field.name]):
        data = read_part(snapshot, part, field.name, a, b)
        if codes is not None and len(field.labels):
            data = FieldData(codes.take(data.values), labels=field.labels, valid=data.valid)
        writer.write(data)
        update(own * b // rows - own * a // rows)


def _origins(snapshot: Snapshot, part: int) -> list[Merged]:
    """The parts that a part was made of, or itself, with the layers that they had."""
    layers = [snapshot.layer(i) for i in snapshot.parts[part].layers]
    old = tuple(OldLayer(x.id, tuple(x.fields), x.source, _constants(x)) for x in layers if not x.merged)
    merged = next((x.merged for x in layers if x.merged), None)
    if merged is None:
        return [Merged(snapshot.parts[part].rows, old)]
    return [Merged(m.rows, (*m.layers, *old)) for m in merged]


def _constants(layer: Layer) -> tuple[tuple[str, Scalar], ...]:
    return tuple((name, s.constant) for name, s in layer.fields.items() if s.constant is not None)


def _joined(merged: Sequence[Merged]) -> list[Merged]:
    """Parts of which nothing is known but their rows, as one: a store that is appended to for years has many."""
    joined: list[Merged] = []
    for m in merged:
        known = any(layer.source for layer in m.layers)
        if not known and joined and not joined[-1].layers:
            joined[-1] = Merged(joined[-1].rows + m.rows, ())
        else:
            joined.append(m if known else Merged(m.rows, ()))
    return joined


def _replaced(
    root: str, parts: Sequence[Part], base: Sequence[Part], runs: Sequence[_Run], layers: Sequence[Layer]
) -> tuple[Part, ...]:
    """The parts of the newest manifest, with the layer of each run in the place of what the run was in `base`."""
    at = {key: i for i, key in enumerate(part_keys(parts))}
    keys = list(part_keys(base))
    result = list(parts)
    cuts: list[tuple[int, int, Layer]] = []
    for run, layer in zip(runs, layers, strict=True):
        start = at.get(keys[run.start], len(parts))
        stop = start + run.stop - run.start
        if tuple(parts[start:stop]) != tuple(base[run.start : run.stop]):
            raise ConflictError(
                f"{root}: another process changed parts that were being merged; nothing was changed: call again"
            )
        cuts.append((start, stop, layer))
    for start, stop, layer in sorted(cuts, key=lambda c: c[0], reverse=True):
        result[start:stop] = [Part(layer.rows, (layer.id,), layer.nbytes)]
    return tuple(result)
