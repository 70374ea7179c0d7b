"""Rows by the values of fields that are keys: an index of each part, kept beside the store as cuts are.

An index is the hashes of a part's keys, ascending, and the row of each. It is made in one pass over the fields, is
named by the hash of what it is about, and stands in one file with that text and a checksum. What it finds is compared
with the values themselves, so that two keys of one hash do no harm.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import OptionError
from mmdask.kernels.hashing import GOLDEN, mix
from mmdask.rows.cuts.masks import cache_folder, make_folder, warn_not_kept
from mmdask.rows.cuts.passes import Runner, Task, run_serially
from mmdask.rows.cuts.sealed import SUM, read_sealed, sealed
from mmdask.rows.reading.part import read_part
from mmdask.schema import Field, FieldData
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.files import is_own_folder, open_file
from mmdask.store.snapshot import Snapshot
from mmdask.store.system import write_atomically

__all__ = ["Index", "check_keys_of", "hashes_of", "index_layers", "indexes"]

_MAGIC = b"mmdask-keys 1\n"
_FOLDER = "keys"
#: raised by hand when hashes mean something else
_VERSION = 1
#: bytes of the line of a file that says what it is
_MAX_HEAD = 1 << 20
#: rows whose keys are read together
_BLOCK_ROWS = 1 << 18
Hashes = npt.NDArray[np.uint64]


class Index(NamedTuple):
    """The keys of a part: hashes, ascending, and the row of each within the part."""

    hashes: Hashes
    rows: npt.NDArray[Any]  # uint32 or int64

    def find(self, wanted: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of some hashes there are, and in which rows: one entry for each such row."""
        first = np.searchsorted(self.hashes, wanted, side="left")
        counts = np.searchsorted(self.hashes, wanted, side="right") - first
        which = np.repeat(np.arange(len(wanted)), counts)
        places = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(which))
        return which, self.rows[places].astype(np.int64)


#: indexes that were read, by path
LOADED: Cache[Index] = Cache(512 << 20)


def check_keys_of(field: Field) -> None:
    """Raise `OptionError` unless rows can be found by the values of a field."""
    number = field.kind == "dense" and not field.shape and field.dtype.kind in "biumM"
    if not number and (field.kind not in ("string", "category") or field.levels):
        raise OptionError(
            f"rows are found by an integer, a boolean, a time, a text or a label; {field.name!r} is {field.describe()}"
        )


def hashes_of(keys: Sequence[FieldData]) -> Hashes:
    """A hash of each row of some key fields together. Equal numbers and equal texts have equal ones, however wide."""
    found: Hashes | None = None
    for data in keys:
        one = _words(data)
        found = mix(one if found is None else mix(found + np.uint64(GOLDEN)) ^ one)
    assert found is not None
    return found


def _words(data: FieldData) -> Hashes:
    digest: Any = xxhash.xxh3_64_intdigest
    if data.offsets:
        raw = np.ascontiguousarray(data.values).data
        bounds = data.offsets[-1].tolist()
        return np.array([digest(raw[a:b]) for a, b in itertools.pairwise(bounds)], np.uint64)
    if data.labels:
        return np.array([digest(label.encode()) for label in data.labels], np.uint64).take(data.values)
    if data.values.dtype.kind in "mM":
        return np.ascontiguousarray(data.values).view(np.uint64)
    return data.values.astype(np.int64 if data.values.dtype.kind == "i" else np.uint64).view(np.uint64)


def indexes(snapshot: Snapshot, names: Sequence[str], run: Runner = run_serially) -> list[Index]:
    """The index of each part over some fields: read where it is kept, else made in one pass, and kept.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    names : sequence of str
        The fields, stored ones, which `check_keys_of` lets pass.
    run : callable
        Runs the tasks, one for each part whose index is not kept.
    """
    files = _Files(snapshot)
    found: dict[int, Index] = {}
    tasks: list[Task] = []
    left = []
    for part, p in enumerate(snapshot.parts):
        index = files.load(part, names) if p.rows else _sorted(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        if index is None:
            left.append(part)
            tasks.append((_index, (snapshot, part, tuple(names))))
        else:
            found[part] = index

    def done(number: int, index: Index) -> None:
        found[left[number]] = index
        files.save(left[number], names, index)

    if tasks:
        run(tasks, done)
    return [found[part] for part in range(len(snapshot.parts))]


def _index(snapshot: Snapshot, part: int, names: tuple[str, ...]) -> Index:
    """One task: the index of a part. Rows in which a key is missing are not in it."""
    hashes, rows = [], []
    for a in range(0, snapshot.parts[part].rows, _BLOCK_ROWS):
        b = min(a + _BLOCK_ROWS, snapshot.parts[part].rows)
        data = [read_part(snapshot, part, name, a, b) for name in names]
        there = np.ones(b - a, np.bool_)
        for one in data:
            valid = one.valid_at(0)
            there &= True if valid is None else valid
            if one.values.dtype.kind in "mM":
                there &= ~np.isnat(one.values)
        hashes.append(hashes_of(data)[there])
        rows.append(np.flatnonzero(there) + a)
    return _sorted(np.concatenate(hashes), np.concatenate(rows))


def _sorted(hashes: Hashes, rows: npt.NDArray[np.int64]) -> Index:
    order = np.argsort(hashes, kind="stable")
    small = not len(rows) or int(rows.max()) < 1 << 32
    return Index(hashes[order], rows[order].astype(np.uint32 if small else np.int64))


class _Files:
    """The files of the indexes of a snapshot, each with the store that its part is in."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._above = {store.key: cache_folder(store) for store in snapshot.stores}
        self._broken = False

    def _text(self, part: int, names: Sequence[str]) -> str:
        sources = [self.snapshot.source(part, name) for name in names]
        layers = [below.stored(number, name)[0].id for below, number, name in sources]
        fields = [[name, layer] for (_, _, name), layer in zip(sources, layers, strict=True)]
        return json.dumps({"keys": _VERSION, "fields": fields, "rows": self.snapshot.parts[part].rows})

    def _place(self, part: int, text: str) -> tuple[str, str, str]:
        """The cache folder, and the folder and the file below its folder of indexes."""
        name = xxhash.xxh3_128_hexdigest(text.encode())
        return self._above[self.snapshot.home(part).key], name[:2], f"{name}.keys"

    def load(self, part: int, names: Sequence[str]) -> Index | None:
        """A kept index, if it is whole and is what its name says."""
        text = self._text(part, names)
        above, folder, name = self._place(part, text)
        path = os.path.join(above, _FOLDER, folder, name)
        found = LOADED.get(path)
        if found is None and self.snapshot.home(part).on_disk:
            found = _read(above, folder, name, text, self.snapshot.parts[part].rows)
            if found is not None:
                LOADED.put(path, found, found.hashes.nbytes + found.rows.nbytes + 512)
        return found

    def save(self, part: int, names: Sequence[str], index: Index) -> None:
        """Keep an index. A disk that takes nothing is a warning: rows are found all the same."""
        text = self._text(part, names)
        above, folder, name = self._place(part, text)
        path = os.path.join(above, _FOLDER, folder, name)
        LOADED.put(path, index, index.hashes.nbytes + index.rows.nbytes + 512)
        if self._broken or not self.snapshot.home(part).on_disk:
            return
        head = json.dumps({"text": text, "n": len(index.hashes), "rows": index.rows.dtype.str}).encode()
        head += b" " * (-(len(_MAGIC) + SUM + len(head) + 1) % 8) + b"\n"
        body: list[Any] = [head, index.hashes.view(np.uint8), index.rows.view(np.uint8)]
        try:
            if not is_own_folder(above, _FOLDER, folder):
                raise OSError("a link, which is not followed in a store")
            make_folder(os.path.dirname(path))
            write_atomically(path, sealed(_MAGIC, body), durable=False)
        except OSError as error:
            self._broken = True
            warn_not_kept(above, error)


def _read(above: str, folder: str, name: str, text: str, rows: int) -> Index | None:
    start = len(_MAGIC) + SUM
    data = read_sealed(_MAGIC, start + 16 * rows + 4 * len(text) + 1024, above, _FOLDER, folder, name)
    if data is None:
        return None
    end = data.find(b"\n", start)
    try:
        head = json.loads(data[start:end])
        n, dtype = head["n"], np.dtype({"<u4": "<u4", "<i8": "<i8"}[head["rows"]])
        sound = head["text"] == text and type(n) is int and len(data) == end + 1 + n * (8 + dtype.itemsize)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not sound:
        return None
    found = Index(np.frombuffer(data, "<u8", n, end + 1), np.frombuffer(data, dtype, n, end + 1 + 8 * n))
    inside = not n or (int(found.rows.min()) >= 0 and int(found.rows.max()) < rows)
    return found if inside and bool((found.hashes[1:] >= found.hashes[:-1]).all()) else None


def index_layers(path: str) -> set[str] | None:
    """The layers that a kept index is of; None when it is none, or damaged. Reads its head alone; follows no link."""
    try:
        with open(open_file(os.path.dirname(path), os.path.basename(path)), "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            file.read(SUM)
            about = json.loads(json.loads(file.readline(_MAX_HEAD))["text"])
        return {str(layer) for _, layer in about["fields"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
