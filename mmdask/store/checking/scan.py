"""Read one array from front to back, a piece at a time, and say which of its elements are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.checking.claims import Claims
from mmdask.store.checking.opened import OpenArray, Place, extent_nbytes, why_unread

__all__ = ["Damage", "Use", "pieces_of", "read_entry", "runs_of", "scan"]

#: bytes read at once, so that they are hashed while they are in cache; of whole elements
PIECE = 1 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Use:
    """What an array is for; each use has rules of its own.

    `n_labels` is the least number of labels of the categories whose codes it holds, None where it holds none; `claims`
    are what is kept of its elements, for each field or all of them together.
    """

    offsets: bool = False
    flags: bool = False
    text: bool = False
    n_labels: int | None = None
    claims: tuple[Claims, ...] = ()


@dataclass(frozen=True)
class Damage:
    """Elements `start` to `stop` along the first axis of an array that are wrong."""

    start: int
    stop: int
    message: str


def scan(
    place: Place, use: Use, extents: Sequence[range], *, start: bool = True
) -> tuple[list[Damage], list[Damage], bool]:
    """Compare extents of an array with their checksums, and elements with the rules of their use.

    Parameters
    ----------
    place : Place
        The array, whose size was found right.
    use : Use
        What it is for.
    extents : sequence of range
        Runs of extents, ascending.
    start : bool
        Whether the header is looked at, too.

    Returns
    -------
    list of Damage
        Ascending; neighbours that are wrong in the same way are one.
    list of Damage
        Where elements are not as is kept of them. What damages elements does that, too.
    bool
        Whether all bytes read are ASCII.
    """
    file = place.open()
    try:
        scanner = _Scanner(place.spec, use, file)
        if start:
            scanner.header()
        for run in extents:
            scanner.run(run)
    finally:
        file.close()
        for claims in use.claims:
            claims.close()
    return scanner.damage, scanner.kept, scanner.ascii


class _Scanner:
    def __init__(self, spec: ArraySpec, use: Use, file: OpenArray) -> None:
        self.spec, self.use, self.file = spec, use, file
        self.extent_nbytes = extent_nbytes(spec)
        self.damage: list[Damage] = []
        self.kept: list[Damage] = []
        self.ascii = True
        self._buffer = np.empty(min(PIECE, max(spec.nbytes, 1)), np.uint8)
        self._width = max(self.spec.nbytes // self.spec.shape[0], 1) if self.spec.shape[0] else 1
        self._claims = [claims for claims in use.claims if _loads(claims)]

    def header(self) -> None:
        if problem := self.file.header_problem():
            self._add(0, 0, problem)

    def run(self, extents: range) -> None:
        last = None
        if self.use.offsets and extents.start:
            last = _entry(self.file, extents.start * self.extent_nbytes - 8)
        for number in extents:
            last = self._extent(number, last)

    def _extent(self, number: int, last: int | None) -> int | None:
        """Check one extent; `last` is the offset before it, and the one at its end is returned."""
        start, stop = number * self.extent_nbytes, min((number + 1) * self.extent_nbytes, self.spec.nbytes)
        if problem := self.file.extent_problem(number):
            chunks = 1 if self.spec.zarr is None else self.spec.zarr.shards
            self._add_bytes(start, min((number + chunks) * self.extent_nbytes, self.spec.nbytes), problem)
        hasher = xxhash.xxh3_64()
        for at in range(start, stop, PIECE):
            piece = self._buffer[: min(PIECE, stop - at)]
            try:
                self.file.fill(piece, at)
            except OSError as error:
                self._add_bytes(start, stop, why_unread(error))
                return None
            hasher.update(piece.data)
            last = self._look(piece, at, last)
        if hasher.hexdigest() != self.spec.checksums[number]:
            self._add_bytes(start, stop, "bytes differ from what was written")
        return last

    def _look(self, piece: Bytes, at: int, last: int | None) -> int | None:
        for claims in list(self._claims):
            try:
                self._compare(claims, piece.view(self.spec.dtype), at // self.spec.dtype.itemsize, last)
            except OSError as error:
                why_unread(error)
                self._claims.remove(claims)  # the array that cannot be read is reported for itself
        if self.use.offsets:
            return self._offsets(piece.view("<i8"), at // 8, last)
        if self.use.flags and piece.max(initial=0) > 1:
            wrong = np.flatnonzero(piece > 1)
            self._add_bytes(at + int(wrong[0]), at + int(wrong[-1]) + 1, "a bool is neither 0 nor 1")
        if self.use.text and self.ascii:
            self.ascii = int(piece.max(initial=0)) < 0x80
        if self.use.n_labels is not None:
            codes, first = piece.view(self.spec.dtype), at // self.spec.dtype.itemsize
            if not 0 <= int(codes.min()) <= int(codes.max()) < self.use.n_labels:
                wrong = np.flatnonzero((codes < 0) | (codes >= self.use.n_labels))
                message = f"a code is beyond the {self.use.n_labels} labels"
                self._add(first + int(wrong[0]), first + int(wrong[-1]) + 1, message)
        return None

    def _compare(self, claims: Claims, elements: npt.NDArray[np.generic], first: int, last: int | None) -> None:
        n = self._width // self.spec.dtype.itemsize
        if self.use.offsets:  # what is kept is of the counts
            if last is not None:
                elements, first = np.concatenate([np.array([last], elements.dtype), elements]), first - 1
            elements = np.diff(elements)
        for start, stop, message in claims.wrong(elements, first):
            # row i is between the offsets i and i + 1
            self.kept.append(Damage(start // n + self.use.offsets, -(-stop // n), message))

    def _offsets(self, offsets: npt.NDArray[np.int64], first: int, last: int | None) -> int:
        if first == 0 and offsets[0] != 0:
            self._add(0, 1, "offsets do not begin with 0")
        if last is not None and offsets[0] < last:
            self._add(first - 1, first + 1, "offsets decrease")
        down = offsets[1:] < offsets[:-1]
        if down.any():
            wrong = np.flatnonzero(down)
            self._add(first + int(wrong[0]), first + int(wrong[-1]) + 2, "offsets decrease")
        return int(offsets[-1])

    def _add_bytes(self, start: int, stop: int, message: str) -> None:
        self._add(start // self._width, -(-stop // self._width), message)

    def _add(self, start: int, stop: int, message: str) -> None:
        if self.damage and self.damage[-1].message == message and self.damage[-1].stop >= start:
            start = min(start, self.damage.pop().start)
        self.damage.append(Damage(start, stop, message))


def _loads(claims: Claims) -> bool:
    try:
        return claims.load()
    except OSError as error:
        why_unread(error)
        return False  # the file that cannot be read is reported for itself


def runs_of(numbers: Sequence[int]) -> list[range]:
    """Ascending numbers as runs.

    Examples
    --------
    >>> runs_of([0, 1, 2, 7, 9, 10])
    [range(0, 3), range(7, 8), range(9, 11)]
    """
    runs: list[range] = []
    for n in numbers:
        if runs and runs[-1].stop == n:
            runs[-1] = range(runs[-1].start, n + 1)
        else:
            runs.append(range(n, n + 1))
    return runs


def read_entry(place: Place, i: int) -> int:
    """One entry of an array of offsets, from the front or, if negative, from the end."""
    file = place.open()
    try:
        return _entry(file, 8 * (i % place.spec.shape[0]))
    finally:
        file.close()


def _entry(file: OpenArray, offset: int) -> int:
    raw = np.empty(8, np.uint8)
    file.fill(raw, offset)
    return int(raw.view("<i8")[0])


def pieces_of(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of runs of up to `size`."""
    return ((a, min(a + size, length)) for a in range(0, length, size))
