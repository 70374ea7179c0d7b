"""Read one array file from front to back, a piece at a time, and say which of its elements are wrong.

By plain reads, never by a map: a disk that cannot give a block back then is an error that names the place, where a map
would kill the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.store.claims import Claims
from mmdask.store.files import open_file, read_fully
from mmdask.store.npy import EXTENT, HEADER, ArraySpec, header

__all__ = ["Damage", "Place", "Use", "pieces_of", "read_elements", "read_entry", "runs_of", "scan", "size_problem"]

#: bytes read at once, so that they are hashed while they are in cache; a divisor of `EXTENT`
PIECE = 1 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """A file in a layer's folder, and what part.json says of it."""

    parts: str
    layer_id: str
    spec: ArraySpec

    def open(self) -> int:
        return open_file(self.parts, self.layer_id, self.spec.file)


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


def size_problem(place: Place, fd: int) -> str:
    """What is wrong with the size of a file; empty if nothing is."""
    size, expected = os.fstat(fd).st_size, HEADER + place.spec.nbytes
    return "" if size == expected else f"has {size} bytes, should have {expected}"


def scan(
    place: Place, use: Use, extents: Sequence[range], *, start: bool = True
) -> tuple[list[Damage], list[Damage], bool]:
    """Compare extents of an array with their checksums, and elements with the rules of their use.

    Parameters
    ----------
    place : Place
        The file, whose size was found right.
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
    fd = place.open()
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        # Where the kernel knows this, what is read once does not push out what others read often.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NOREUSE)
        scanner = _Scanner(place, use, fd)
        if start:
            scanner.header()
        for run in extents:
            scanner.run(run)
    finally:
        os.close(fd)
        for claims in use.claims:
            claims.close()
    return scanner.damage, scanner.kept, scanner.ascii


class _Scanner:
    def __init__(self, place: Place, use: Use, fd: int) -> None:
        self.spec, self.use, self.fd = place.spec, use, fd
        self.damage: list[Damage] = []
        self.kept: list[Damage] = []
        self.ascii = True
        self._buffer = np.empty(min(PIECE, max(place.spec.nbytes, 1)), np.uint8)
        self._width = max(self.spec.nbytes // self.spec.shape[0], 1) if self.spec.shape[0] else 1
        self._claims = [claims for claims in use.claims if _loads(claims)]

    def header(self) -> None:
        if os.pread(self.fd, HEADER, 0) != header(self.spec.dtype, self.spec.shape):
            self._add(0, 0, "the header is damaged (mmdask does not need it, numpy.load does)")

    def run(self, extents: range) -> None:
        last = None
        if self.use.offsets and extents.start:
            last = int.from_bytes(os.pread(self.fd, 8, HEADER + extents.start * EXTENT - 8), "little", signed=True)
        for number in extents:
            last = self._extent(number, last)

    def _extent(self, number: int, last: int | None) -> int | None:
        """Check one extent; `last` is the offset before it, and the one at its end is returned."""
        start, stop = number * EXTENT, min((number + 1) * EXTENT, self.spec.nbytes)
        hasher = xxhash.xxh3_64()
        for at in range(start, stop, PIECE):
            piece = self._buffer[: min(PIECE, stop - at)]
            try:
                _fill(self.fd, piece, HEADER + at)
            except OSError as error:
                self._add_bytes(start, stop, f"cannot be read: {error.strerror}")
                return None
            hasher.update(piece.data)
            last = self._look(piece, at, last)
        if hasher.hexdigest() != self.spec.checksums[number]:
            self._add_bytes(start, stop, "bytes differ from what was written")
        return last

    def _look(self, piece: Bytes, at: int, last: int | None) -> int | None:
        for claims in self._claims:
            self._compare(claims, piece.view(self.spec.dtype), at // self.spec.dtype.itemsize, last)
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
    except OSError:
        return False  # the file that cannot be read is reported for itself


def _fill(fd: int, buffer: Bytes, offset: int) -> None:
    try:
        read_fully(fd, buffer.data, offset)
    except EOFError:
        raise OSError(0, "the file ends before its data do") from None


def read_elements(fd: int, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[np.generic]:
    """Elements `start` to `stop` along the first axis, read into memory."""
    width = spec.nbytes // spec.shape[0] if spec.shape[0] else 0
    raw = np.empty((stop - start) * width, np.uint8)
    _fill(fd, raw, HEADER + start * width)
    return raw.view(spec.dtype).reshape(stop - start, *spec.shape[1:])


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
    fd = place.open()
    try:
        raw = os.pread(fd, 8, HEADER + 8 * (i % place.spec.shape[0]))
    finally:
        os.close(fd)
    return int.from_bytes(raw, "little", signed=True)


def pieces_of(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of runs of up to `size`."""
    return ((a, min(a + size, length)) for a in range(0, length, size))
