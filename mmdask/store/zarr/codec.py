"""Chunks of zarr arrays as bytes, and objects that hold several of them.

Chunks are coded here, and not by zarr itself: in the thread that asks, with no loop of events that a forked child would
wait for, into memory that is there, and after what the bytes say of their size was compared with what it must be.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.store.zarr.form import LEVELS
from mmdask.store.zarr.spec import Codec

__all__ = ["decode", "encode", "index_nbytes", "join", "split"]

Bytes = npt.NDArray[np.uint8]
#: of a chunk as blosc writes it: sizes of the data and of all of it
_BLOSC_HEADER = 16
#: of a chunk that is not there, in an index
_ABSENT = (1 << 64) - 1
_CRC = 4


@functools.cache
def _blosc(codec: Codec, shuffle: bool) -> Any:
    from numcodecs import Blosc

    return Blosc(codec, LEVELS[codec], Blosc.SHUFFLE if shuffle else Blosc.NOSHUFFLE)


def encode(values: npt.NDArray[Any], codec: Codec) -> bytes:
    """The bytes of a chunk: a C-ordered array, all of it."""
    if codec == "none":
        return values.tobytes()
    itemsize = values.dtype.itemsize
    shuffle = 1 < itemsize < 256
    # As what has the size of an element: blosc takes it from the buffer, and knows no dates.
    flat = values.reshape(-1).view(np.dtype(f"V{itemsize}") if shuffle else np.uint8)
    return bytes(_blosc(codec, shuffle).encode(flat))


def decode(data: bytes | memoryview | Bytes, codec: Codec, out: Bytes) -> None:
    """Fill `out`, contiguous, with the data of a chunk.

    Raises
    ------
    OSError
        When they are not of this size, or damaged.
    """
    if codec == "none":
        if len(data) != len(out):
            raise _damaged(f"a chunk of {len(data)} bytes, and not of {len(out)}")
        out[:] = np.frombuffer(data, np.uint8)
        return
    if len(data) < _BLOSC_HEADER:
        raise _damaged("a chunk that ends in its header")
    nbytes, total = int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")
    if nbytes != len(out) or total != len(data):
        raise _damaged(f"a chunk of {nbytes} bytes in {total}, and not of {len(out)} in {len(data)}")
    try:
        _blosc(codec, True).decode(data, out)
    except (RuntimeError, ValueError) as error:
        raise _damaged(f"a chunk that cannot be decoded ({error})") from None


def _damaged(what: str) -> CorruptStoreError:
    return CorruptStoreError(errno.EIO, what)


# Several chunks in an object ----------------------------------------------------------------------------------------


def index_nbytes(shards: int) -> int:
    """Bytes of the index at the end of an object of so many chunks."""
    return 16 * shards + _CRC


def join(chunks: Sequence[bytes], shards: int) -> bytes:
    """An object of up to `shards` chunks: one after the other, and their places."""
    index = np.full((shards, 2), _ABSENT, "<u8")
    at = 0
    for i, chunk in enumerate(chunks):
        index[i] = at, len(chunk)
        at += len(chunk)
    places = index.tobytes()
    return b"".join([*chunks, places, _crc32c(places).to_bytes(_CRC, "little")])


def split(index: bytes, shards: int, size: int) -> list[tuple[int, int]]:
    """First byte of each chunk of an object, and the byte behind its last; both are 0 of chunks that are not there.

    Parameters
    ----------
    index : bytes
        The end of the object, as long as `index_nbytes` says.
    shards, size : int
        Chunks and bytes of it.

    Raises
    ------
    OSError
        When the index is damaged.
    """
    places = index[:-_CRC]
    if len(index) != index_nbytes(shards) or _crc32c(places) != int.from_bytes(index[-_CRC:], "little"):
        raise _damaged("a damaged index of chunks")
    end = size - index_nbytes(shards)
    found = []
    for start, nbytes in np.frombuffer(places, "<u8").reshape(-1, 2).tolist():
        if start == nbytes == _ABSENT:
            found.append((0, 0))
        elif start + nbytes > end:
            raise _damaged("an index of chunks that lead out of their object")
        else:
            found.append((start, start + nbytes))
    return found


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))
