"""Check every byte of a store against what was committed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.display import progress
from mmdask.errors import CorruptStoreError, FormatError, SchemaError
from mmdask.schema import TEXT_DTYPE, FieldData
from mmdask.store.layer import Layer, StoredField, check_text
from mmdask.store.manifest import Manifest, history_path, parse_manifest, read_manifest, store_root
from mmdask.store.npy import EXTENT, HEADER, ArraySpec, checksum, header
from mmdask.store.snapshot import Snapshot, map_array

__all__ = ["Problem", "Report", "verify"]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as committed.

    `rows` are store row numbers, first and behind the last, that may be wrong; None where all rows of the part are.
    """

    file: str
    field: str
    rows: tuple[int, int] | None
    message: str

    def __str__(self) -> str:
        where = f" rows {self.rows[0]} to {self.rows[1] - 1}" if self.rows else ""
        return f"{self.file}:{f' {self.field}' if self.field else ''}{where}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes
    ----------
    ok : bool
        Whether nothing is wrong.
    problems : tuple of Problem
        Everything that is, with file, field and rows.
    n_parts, n_files, nbytes : int
        What was read.
    """

    path: str
    n_parts: int
    n_files: int
    nbytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        checked = f"{self.path}: {self.n_parts} parts, {self.n_files} files, {self.nbytes} bytes checked"
        if self.ok:
            return f"{checked}: no problem"
        return "\n".join([f"{checked}: {len(self.problems)} problems", *map(str, self.problems)])


def verify(path: str | os.PathLike[str], *, show_progress: bool = False) -> Report:
    """Read a whole store and compare it with its checksums.

    Parameters
    ----------
    path : path
        The store's folder.
    show_progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    Report
        ``.ok``, and ``.problems`` with file, field and rows. Every changed byte of a manifest, part.json or array is
        found, in the history too, and also what checksums cannot show: fields that are in no part, or stored as
        another type, offsets that do not ascend, codes without label, labels that the manifest does not have, text
        that is not UTF-8.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, FormatError
        When the manifest itself is missing or damaged.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [1, 2, 3]}, "checked.mm")
    >>> mm.verify("checked.mm").ok
    True
    """
    root = store_root(path)
    manifest = read_manifest(root)
    snapshot = Snapshot(root, manifest)
    past = _history(root, manifest.generation)
    problems = list(_history_problems(root, manifest, past))
    files, nbytes = 1 + len(past), 0
    total = sum(p.nbytes for p in manifest.parts)
    with progress(total, "verify", "B", unit_scale=True, disable=not show_progress) as bar:
        for number in range(len(manifest.parts)):
            checker = _PartChecker(snapshot, number, bar.update)
            problems += checker.problems()
            files, nbytes = files + checker.files, nbytes + checker.nbytes
    return Report(root, len(manifest.parts), files, nbytes, tuple(problems))


def _history(root: str, newest: int) -> list[int]:
    """Generations that the history holds; one behind the newest belongs to a writer that died before its commit."""
    try:
        names = os.listdir(os.path.join(root, "history"))
    except FileNotFoundError:
        return []
    generations = sorted(int(name[:-5]) for name in names if re.fullmatch(r"\d{8}|[1-9]\d{8,18}", name[:-5]))
    return [g for g in generations if g <= newest and f"{g:08d}.json" in names]


def _history_problems(root: str, manifest: Manifest, generations: list[int]) -> Iterator[Problem]:
    for generation in generations:
        path = history_path(root, generation)
        file = os.path.relpath(path, root)
        try:
            with open(path, "rb") as handle:
                past = parse_manifest(handle.read(), path)
        except FileNotFoundError:
            continue  # trimmed meanwhile
        except (OSError, FormatError) as error:
            yield Problem(file, "", None, str(error))
            continue
        if (past.uuid, past.generation) != (manifest.uuid, generation):
            yield Problem(file, "", None, f"holds generation {past.generation} of store {past.uuid}")
        elif generation == manifest.generation and past != manifest:
            yield Problem(file, "", None, "differs from manifest.json, which is of the same generation")


class _PartChecker:
    def __init__(self, snapshot: Snapshot, number: int, update: Callable[[int], Any]) -> None:
        self.snapshot, self.number, self.update = snapshot, number, update
        self.part, self.first_row = snapshot.parts[number], int(snapshot.starts[number])
        self.files = self.nbytes = 0

    def problems(self) -> Iterator[Problem]:
        readable = True
        for layer_id in self.part.layers:
            file, rows = f"parts/{layer_id}/part.json", self._rows(0, self.part.rows)
            try:
                layer = self.snapshot.layer(layer_id)
            except (CorruptStoreError, FormatError) as error:
                yield Problem(file, "", rows, str(error))
                readable = False
                continue
            self.files += 1
            if layer.rows != self.part.rows:
                yield Problem(file, "", rows, f"{layer.rows} rows, the manifest says {self.part.rows}")
                readable = False
                continue
            yield from self._layer(layer)
        if readable:
            for name in self.snapshot.schema:
                yield from self._as_committed(name)

    def _as_committed(self, name: str) -> Iterator[Problem]:
        """Whether a field of the manifest is in this part, and what the manifest says that it is."""
        field, rows = self.snapshot.schema[name], self._rows(0, self.part.rows)
        try:
            layer, stored = self.snapshot.stored(self.number, name)
        except (CorruptStoreError, FormatError) as error:
            yield Problem("manifest.json", name, rows, str(error))
            return
        file = f"parts/{layer.id}/part.json"
        if field.kind == "category":
            known = set(field.labels)
            unknown = [label for label in stored.labels if label not in known]
            if unknown:
                yield Problem(file, name, rows, f"{len(unknown)} labels are not in the manifest, as {unknown[0]!r}")
            if len(set(stored.labels)) != len(stored.labels):
                yield Problem(file, name, rows, "a label is there twice")

    def _rows(self, start: int, stop: int) -> tuple[int, int]:
        return self.first_row + start, self.first_row + stop

    def _layer(self, layer: Layer) -> Iterator[Problem]:
        users: dict[int, str] = {}
        for name, stored in layer.fields.items():
            for number in (*stored.offsets, *([] if stored.values is None else [stored.values])):
                users.setdefault(number, name)
        whole: dict[int, npt.NDArray[Any]] = {}
        damaged: dict[int, list[tuple[int, int, str]]] = {}
        for number, spec in enumerate(layer.arrays):
            file = f"parts/{layer.id}/{spec.file}"
            try:
                array = map_array(layer.path, spec)
            except CorruptStoreError as error:
                yield Problem(file, users.get(number, ""), self._rows(0, layer.rows), str(error))
                continue
            whole[number] = array
            damaged[number] = list(self._extents(layer, spec, array))
        for name, stored in layer.fields.items():
            yield from self._field(layer, name, stored, whole, damaged)

    def _extents(self, layer: Layer, spec: ArraySpec, array: npt.NDArray[Any]) -> Iterator[tuple[int, int, str]]:
        """Element ranges of an array whose bytes are wrong."""
        self.files += 1
        self.nbytes += spec.nbytes
        self.update(spec.nbytes)
        with open(os.path.join(layer.path, spec.file), "rb") as file:
            if file.read(HEADER) != header(spec.dtype, spec.shape):
                yield 0, 0, "the header is damaged (mmdask does not need it, numpy.load does)"
        data = array.reshape(-1).view(np.uint8).data if spec.nbytes else memoryview(b"")
        width = max(spec.nbytes // spec.shape[0], 1) if spec.shape[0] else 1
        for i, expected in enumerate(spec.checksums):
            start = i * EXTENT
            if checksum(data[start : start + EXTENT]) != expected:
                stop = min(start + EXTENT, spec.nbytes)
                yield start // width, -(-stop // width), "bytes differ from what was written"

    def _field(
        self,
        layer: Layer,
        name: str,
        stored: StoredField,
        whole: dict[int, npt.NDArray[Any]],
        damaged: dict[int, list[tuple[int, int, str]]],
    ) -> Iterator[Problem]:
        numbers = [*stored.offsets, *([] if stored.values is None else [stored.values])]
        sound = all(n in whole and not damaged[n] for n in stored.offsets)
        for depth, number in enumerate(numbers):
            for start, stop, message in damaged.get(number, []):
                if depth < len(stored.offsets):
                    start, stop = max(start - 1, 0), min(stop, layer.rows if depth == 0 else stop)
                above = [whole[n] for n in stored.offsets[:depth]] if sound else []
                rows = (0, layer.rows) if depth and not sound else _to_rows(above, start, stop)
                file = f"parts/{layer.id}/{layer.arrays[number].file}"
                yield Problem(file, name, self._rows(max(rows[0], 0), min(rows[1], layer.rows)), message)
        if sound and all(n in whole for n in numbers):
            yield from self._meaning(layer, name, stored, whole)

    def _meaning(
        self, layer: Layer, name: str, stored: StoredField, whole: dict[int, npt.NDArray[Any]]
    ) -> Iterator[Problem]:
        """What the checksums cannot show: a writer that wrote nonsense."""
        rows = self._rows(0, layer.rows)
        for i, number in enumerate(stored.offsets):
            o, file = whole[number], f"parts/{layer.id}/{layer.arrays[number].file}"
            below = stored.offsets[i + 1] if i + 1 < len(stored.offsets) else stored.values
            assert below is not None
            length = len(whole[below]) - (i + 1 < len(stored.offsets))
            if o[0] != 0 or o[-1] != length or (o[1:] < o[:-1]).any():
                yield Problem(file, name, rows, f"offsets do not ascend from 0 to {length}")
                return
        if stored.kind == "string" and stored.offsets and stored.values is not None:
            offsets = [whole[n] for n in stored.offsets]
            data = FieldData(whole[stored.values], (offsets[-1],))
            if data.values.dtype == TEXT_DTYPE and (wrong := _first_not_utf8(data)) is not None:
                file = f"parts/{layer.id}/{layer.arrays[stored.values].file}"
                start, stop = _to_rows(offsets[:-1], wrong, wrong + 1)
                yield Problem(file, name, self._rows(start, stop), "text that is not UTF-8")
        if stored.kind == "category" and stored.values is not None:
            codes = whole[stored.values]
            if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(stored.labels):
                file = f"parts/{layer.id}/{layer.arrays[stored.values].file}"
                yield Problem(file, name, rows, f"a code is beyond the {len(stored.labels)} labels")


def _first_not_utf8(strings: FieldData) -> int | None:
    """Number of the first string that is not UTF-8; None where all are."""
    offsets, start = strings.offsets[0], 0
    while start < len(strings):
        # as many strings as lie in the next extent, and at least one
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + EXTENT, side="right")) - 1)
        while not _utf8(strings[start:stop]):
            if stop == start + 1:
                return start
            middle = (start + stop) // 2
            start, stop = (middle, stop) if _utf8(strings[start:middle]) else (start, middle)
        start = stop
    return None


def _utf8(strings: FieldData) -> bool:
    try:
        check_text("", strings)
    except SchemaError:
        return False
    return True


def _to_rows(offsets: list[npt.NDArray[np.int64]], start: int, stop: int) -> tuple[int, int]:
    """The rows that elements `start` to `stop` below some levels of offsets belong to."""
    for o in reversed(offsets):
        start = int(np.searchsorted(o, start, side="right")) - 1
        stop = int(np.searchsorted(o, max(stop, 1), side="left"))
    return start, stop
