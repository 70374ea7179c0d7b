"""Elements of the columns of an RNTuple, decoded from just those pages, or pieces of large pages, that hold them.

In here alone is called what uproot keeps to itself: the records of its RNTuple model, and its decoding of one page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.sources.converting.table import UnreadableError

__all__ = ["Pages", "Stored", "check_page_lists", "row_offsets"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

#: decoded bytes of a large page that are decoded at once
PIECE_NBYTES = 2 << 20
#: elements of a piece: uproot takes many bytes of memory for each of these
_PACKED_ELEMENTS = 1 << 17
#: decompressed blocks of large pages, and pieces of which a part was needed, that are kept
RECENT_NBYTES = 64 << 20
#: bytes of pages that are read together, and bytes between two of them that are read for nothing
_TOGETHER, _GAP = 4 << 20, 1 << 12

_CHECKSUM = struct.Struct("<Q")
#: algorithm, method, then compressed and uncompressed bytes in three bytes each
_BLOCK = struct.Struct("<3s3B3B")


@dataclass(frozen=True)
class Stored:
    """The column of a field, in one or more representations of which each cluster has one.

    `first` is the first element that was written at all: a field that was added late is zero before. `per_row` is the
    number of elements per row, 0 within lists.
    """

    columns: tuple[int, ...]
    first: int = 0
    per_row: int = 0


def row_offsets(ntuple: Any) -> npt.NDArray[np.int64]:
    """The first row of each cluster, and the end of the last."""
    starts = [0]
    for cluster in ntuple.cluster_summaries:
        if cluster.num_first_entry != starts[-1]:
            raise ValueError(f"a cluster begins with row {cluster.num_first_entry}, should be {starts[-1]}")
        starts.append(starts[-1] + int(cluster.num_entries))
    if len(ntuple.page_link_list) != len(starts) - 1:
        raise ValueError(f"{len(starts) - 1} clusters, and pages of {len(ntuple.page_link_list)}")
    return np.array(starts, np.int64)


def check_page_lists(ntuple: Any) -> None:
    """Raise unless the page lists are as they were written, and of a version that is known."""
    for what, record in (("header", ntuple.header), ("footer", ntuple.footer)):
        if record.feature_flag:
            raise ValueError(f"its {what} asks for features that are not known, {record.feature_flag:#x}")
    for group in ntuple.footer.cluster_group_records:
        link = group.page_list_link
        chunk, _ = ntuple.read_locator(link.locator, link.env_uncomp_size)
        if not _intact(chunk.raw_data[: link.env_uncomp_size]):
            raise ValueError("the checksum of a list of pages does not match")


class Pages:
    """Reads the pages of an RNTuple of uproot. Not for several threads at a time."""

    def __init__(self, ntuple: Any) -> None:
        self._ntuple = ntuple
        self._links: Sequence[Any] = ntuple.page_link_list
        self.rows = row_offsets(ntuple)
        self._recent = _Recent(RECENT_NBYTES)
        self._starts: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        #: what the offsets of a large page have come to at the end of each piece
        self._carried: dict[tuple[int, int, int], list[int]] = {}
        self._checked: set[tuple[int, int, int]] = set()

    @property
    def path(self) -> str:
        """Of the file."""
        return str(self._ntuple.file.file_path)

    @property
    def n_pages(self) -> int:
        """How many it has in all."""
        return sum(len(column.pages) for columns in self._links for column in columns)

    def dtype(self, column: int) -> np.dtype[Any]:
        """How the elements of a column are in memory."""
        dtype: np.dtype[Any] = self._ntuple.get_field_metadata(column).dtype
        return dtype

    def count(self, cluster: int, stored: Stored) -> int:
        """How many elements a cluster has, which needs no reading."""
        column = self._column(cluster, stored)
        written = 0 if column is None else int(self._first_elements(cluster, column)[-1])
        return self._before(cluster, stored) + written

    def item(self, cluster: int, stored: Stored, at: int) -> int:
        """One element of a column of integers."""
        out = np.empty(1, np.int64)
        self.fill(cluster, stored, at, out)
        return int(out[0])

    def fill(self, cluster: int, stored: Stored, start: int, out: Array) -> None:
        """Write the elements from `start` of the cluster on into an array, one after the other, cast to its dtype."""
        stop = start + len(out)
        if stop > self.count(cluster, stored) or start < 0:
            raise UnreadableError(
                f"damaged: elements {start} to {stop} of a column are asked for, of {self.count(cluster, stored)}"
            )
        before = self._before(cluster, stored)
        out[: max(0, before - start)] = np.zeros(1, out.dtype)
        column = self._column(cluster, stored)
        out = out[max(0, before - start) :]
        if column is not None and len(out):
            self._fill(cluster, column, max(0, start - before), out)

    # Which pages ----------------------------------------------------------------------------------------------------

    def _column(self, cluster: int, stored: Stored) -> int | None:
        """The representation that a cluster has; None where the column did not exist yet."""
        links = self._links[cluster]
        for column in stored.columns:
            if column < len(links) and not links[column].suppressed:
                return column
        return None

    def _before(self, cluster: int, stored: Stored) -> int:
        """Elements of a cluster that were never written, since the field was added later: they are zero."""
        if not stored.first or not stored.per_row:
            return 0
        first, stop = (int(row) * stored.per_row for row in self.rows[cluster : cluster + 2])
        return min(max(0, stored.first - first), stop - first)

    def _first_elements(self, cluster: int, column: int) -> npt.NDArray[np.int64]:
        """The first element of each page of a column, and the end of the last."""
        key = cluster, column
        if key not in self._starts:
            pages = self._links[cluster][column].pages
            starts = np.zeros(len(pages) + 1, np.int64)
            np.cumsum([p.num_elements for p in pages], out=starts[1:])
            self._starts[key] = starts
        return self._starts[key]

    def _fill(self, cluster: int, column: int, start: int, out: Array) -> None:
        starts = self._first_elements(cluster, column)
        stop = start + len(out)
        meta = self._ntuple.get_field_metadata(column)
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, stop, side="left"))
        here: list[int] = []
        for page in range(first, last):
            # A page of which only a part was needed before is there still.
            decoded = self._recent.get((cluster, column, page, 0)) if page in (first, last - 1) else None
            if decoded is not None and len(decoded) == starts[page + 1] - starts[page]:
                lo, hi = max(start, int(starts[page])), min(stop, int(starts[page + 1]))
                _cast(decoded[lo - starts[page] : hi - starts[page]], out[lo - start : hi - start], meta)
            else:
                here.append(page)
        for page, raw in self._fetch(cluster, column, meta, here):
            origin, n = int(starts[page]), int(starts[page + 1] - starts[page])
            size = _piece_elements(meta, n)
            lo, hi = max(start - origin, 0), min(stop - origin, n)
            for piece in range(lo // size, -(-hi // size)):
                a, b = piece * size, min(n, (piece + 1) * size)
                target = out[max(a, lo) + origin - start : min(b, hi) + origin - start]
                view = _as_stored(target, meta) if lo <= a and b <= hi else None
                if view is not None:
                    self._decode(cluster, column, page, piece, raw, view)
                    continue
                key = cluster, column, page, piece
                decoded = self._recent.get(key)
                if decoded is None:
                    decoded = np.empty(b - a, meta.dtype)
                    self._decode(cluster, column, page, piece, raw, decoded)
                    self._recent.room(key[:2], 2)
                    self._recent.put(key[:2], key, decoded)
                _cast(decoded[max(a, lo) - a : min(b, hi) - a], target, meta)

    # From bytes to elements -----------------------------------------------------------------------------------------

    def _decode(self, cluster: int, column: int, page: int, piece: int, raw: Bytes | None, out: Array) -> None:
        """Decode one piece of a page into an array of the dtype that the column has."""
        meta = self._ntuple.get_field_metadata(column)
        record = self._links[cluster][column].pages[page]
        n, size = int(record.num_elements), _piece_elements(meta, int(record.num_elements))
        total, ranges = _byte_ranges(meta, n, piece * size, piece * size + len(out))
        carried = 0
        if meta.delta and piece:
            carried = self._carry(cluster, column, page, piece)
        self._copy(record.locator, total, ranges, raw, out.view(np.uint8))
        self._ntuple.deserialize_page_decompressed_buffer(out, meta)
        self._ntuple.post_process(out, meta)
        if meta.delta:
            out += out.dtype.type(carried)
            ends = self._carried.setdefault((cluster, column, page), [])
            if len(ends) == piece:
                ends.append(int(out[-1]))

    def _carry(self, cluster: int, column: int, page: int, piece: int) -> int:
        """The sum of the differences in all pieces before; they are decoded once, if they were not yet."""
        ends = self._carried.setdefault((cluster, column, page), [])
        meta = self._ntuple.get_field_metadata(column)
        n = int(self._links[cluster][column].pages[page].num_elements)
        size = _piece_elements(meta, n)
        while len(ends) < piece:
            self._decode(cluster, column, page, len(ends), None, np.empty(size, meta.dtype))
        return ends[piece - 1]

    def _copy(self, locator: Any, total: int, ranges: Sequence[tuple[int, int]], raw: Bytes | None, out: Bytes) -> None:
        """Copy ranges of the uncompressed bytes of a page, one after the other."""
        at = 0
        for plane, (start, stop) in enumerate(ranges):
            for data in self._uncompressed(locator, total, start, stop, raw, plane):
                out[at : at + len(data)] = data
                at += len(data)

    def _uncompressed(
        self, locator: Any, total: int, start: int, stop: int, raw: Bytes | None, plane: int
    ) -> Iterator[Bytes]:
        """Some of the uncompressed bytes of a page, in pieces; `raw` is what is in the file, if it was read.

        Of a large page, the latest block is kept for each of the places that are read side by side, the `plane`.
        """
        begin, nbytes = int(locator.offset), int(locator.num_bytes)
        if nbytes > total:
            raise UnreadableError(f"damaged: a page has {nbytes} bytes, should be at most {total}")
        if nbytes == total:
            yield self._read(begin + start, begin + stop) if raw is None else raw[start:stop]
            return
        for first, last, where, size in self._blocks(locator, total, raw):
            if first < stop and last > start:
                if raw is not None:
                    block = self._decompress(raw[where : where + size], last - first)
                else:
                    block = self._block(begin + where, size, last - first, (begin, plane))
                yield block[max(start - first, 0) : stop - first]
                del block

    def _block(self, begin: int, size: int, length: int, group: tuple[int, int]) -> Bytes:
        found = self._recent.get((begin, size))
        if found is None:
            self._recent.room(group, 1)  # before there is memory for two
            found = self._decompress(self._read(begin, begin + size), length)
            self._recent.put(group, (begin, size), found)
        return found

    def _blocks(self, locator: Any, total: int, raw: Bytes | None) -> list[tuple[int, int, int, int]]:
        """Of each compressed block of a page: the range of uncompressed bytes, where it begins, and its bytes there."""
        known: list[tuple[int, int, int, int]] | None = self._recent.notes.get(int(locator.offset))
        if known is not None and raw is None:
            return known
        blocks = []
        at = first = 0
        while at < locator.num_bytes:
            begin = int(locator.offset) + at
            header = self._read(begin, begin + _BLOCK.size) if raw is None else raw[at : at + _BLOCK.size]
            _, c1, c2, c3, u1, u2, u3 = _BLOCK.unpack(bytes(header))
            size, length = _BLOCK.size + c1 + (c2 << 8) + (c3 << 16), u1 + (u2 << 8) + (u3 << 16)
            blocks.append((first, first + length, at, size))
            at, first = at + size, first + length
        if first != total or at != locator.num_bytes:
            raise UnreadableError(f"damaged: a page has {first} uncompressed bytes, should be {total}")
        if raw is None:
            self._recent.notes[int(locator.offset)] = blocks
        return blocks

    def _decompress(self, data: Bytes, length: int) -> Bytes:
        import uproot

        chunk = uproot.source.chunk.Chunk.wrap(self._ntuple.file.source, data)
        cursor = uproot.source.cursor.Cursor(0)
        block: Bytes = uproot.compression.decompress(chunk, cursor, {}, len(data), length).raw_data
        return block

    # From the file to bytes -----------------------------------------------------------------------------------------

    def _fetch(self, cluster: int, column: int, meta: Any, wanted: Sequence[int]) -> Iterator[tuple[int, Bytes | None]]:
        """Pages as they are in the file, neighbours read together; None for those too large to be held."""
        pages = self._links[cluster][column].pages
        together: list[int] = []

        def ends_at(page: int) -> int:
            locator = pages[page].locator
            return int(locator.offset) + int(locator.num_bytes) + 8 * bool(pages[page].has_checksum)

        def read() -> Iterator[tuple[int, Bytes]]:
            if together:
                begin = int(pages[together[0]].locator.offset)
                data = self._read(begin, ends_at(together[-1]))
                for i in together:
                    at = int(pages[i].locator.offset) - begin
                    raw = data[at : ends_at(i) - begin]
                    if pages[i].has_checksum and not _intact(raw):
                        raise UnreadableError("damaged: the checksum of a page does not match")
                    yield i, raw
                together.clear()

        for i in wanted:
            large = _piece_elements(meta, int(pages[i].num_elements)) < pages[i].num_elements
            if large:
                yield from read()
                self._check_large(cluster, column, i)
                yield i, None
                continue
            if together:
                gap = int(pages[i].locator.offset) - ends_at(together[-1])
                if not 0 <= gap <= _GAP or ends_at(i) - int(pages[together[0]].locator.offset) > _TOGETHER:
                    yield from read()
            together.append(i)
        yield from read()

    def _check_large(self, cluster: int, column: int, page: int) -> None:
        """Check the checksum of a page that is not held, once."""
        record = self._links[cluster][column].pages[page]
        if not record.has_checksum or (cluster, column, page) in self._checked:
            return
        begin = int(record.locator.offset)
        end = begin + int(record.locator.num_bytes)
        pieces = (self._read(at, min(end, at + _TOGETHER)) for at in range(begin, end, _TOGETHER))
        if _CHECKSUM.pack(_digest(pieces)) != bytes(self._read(end, end + _CHECKSUM.size)):
            raise UnreadableError("damaged: the checksum of a page does not match")
        self._checked.add((cluster, column, page))

    def _read(self, start: int, stop: int) -> Bytes:
        data: Bytes = self._ntuple.file.source.chunk(start, stop).raw_data
        if len(data) != stop - start:
            raise UnreadableError(f"damaged: bytes {start} to {stop} are not all in the file")
        return data


class _Recent:
    """Arrays that were decoded lately, up to so many bytes, and so many of each group; and notes, which are small."""

    def __init__(self, nbytes: int) -> None:
        self._limit = nbytes
        self._nbytes = 0
        self._kept: dict[Any, Array] = {}
        self._groups: dict[Any, list[Any]] = {}
        self.notes: dict[int, Any] = {}

    def get(self, key: Any) -> Array | None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found  # the latest
        return found

    def room(self, group: Any, most: int) -> None:
        """Forget all but the latest of a group, so that one more makes `most`."""
        keys = self._groups.setdefault(group, [])
        while len(keys) >= most:
            self._forget(keys.pop(0))

    def put(self, group: Any, key: Any, data: Array) -> None:
        self._groups.setdefault(group, []).append(key)
        self._kept[key] = data
        self._nbytes += data.nbytes
        while self._nbytes > self._limit:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Any) -> None:
        data = self._kept.pop(key, None)
        self._nbytes -= 0 if data is None else data.nbytes


def _is_index(meta: Any) -> bool:
    import uproot

    return meta.dtype_byte in uproot.const.rntuple_index_types


def _as_stored(out: Array, meta: Any) -> Array | None:
    """The memory of an array as what a column decodes to; None where elements must be cast."""
    if out.dtype == meta.dtype:
        return out
    same = out.dtype.itemsize == meta.dtype.itemsize and out.dtype.kind in "iu" and meta.dtype.kind in "iu"
    return out.view(meta.dtype) if same else None


def _cast(elements: Array, out: Array, meta: Any) -> None:
    out[...] = elements.view(f"u{elements.itemsize}") if _is_index(meta) else elements


def _packed(meta: Any) -> bool:
    return meta.dtype_str in ("real32trunc", "real32quant")


def _piece_elements(meta: Any, n: int) -> int:
    """Elements of each piece of a page; those of the page where it is decoded as a whole."""
    most = _PACKED_ELEMENTS if _packed(meta) else max(64, PIECE_NBYTES // meta.dtype.itemsize & ~63)
    return max(1, n) if n <= most else most


def _byte_ranges(meta: Any, n: int, start: int, stop: int) -> tuple[int, list[tuple[int, int]]]:
    """Uncompressed bytes of a page of `n` elements, and those of some elements: a page of these alone."""
    if meta.split:
        size = meta.dtype.itemsize
        # All first bytes, then all second bytes, ...
        ranges = [(k * n + start, k * n + stop) for k in range(size)]
        return size * n, [(0, size * n)] if stop - start == n else ranges
    bits = 1 if meta.isbit else meta.nbits if _packed(meta) else 8 * meta.dtype.itemsize
    return -(-n * bits // 8), [(start * bits // 8, -(-stop * bits // 8))]


def _digest(pieces: Iterator[Bytes]) -> int:
    import xxhash  # a requirement of uproot

    digest = xxhash.xxh3_64()
    for data in pieces:
        digest.update(np.ascontiguousarray(data).data)
    return int(digest.intdigest())


def _intact(data: Bytes) -> bool:
    """Whether bytes end with the checksum of those before."""
    return len(data) >= 8 and _CHECKSUM.pack(_digest(iter([data[:-8]]))) == bytes(data[-8:])
