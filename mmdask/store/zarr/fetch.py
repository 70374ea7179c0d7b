"""Where chunks of zarr arrays lie in their objects, and their bytes as they are stored."""

from __future__ import annotations

from typing import Any

from mmdask.errors import CorruptStoreError
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.storage import Storage
from mmdask.store.zarr.codec import index_nbytes, split
from mmdask.store.zarr.spec import ZarrSpec

__all__ = ["INDEXES", "check_size", "fetch_chunk", "place_of"]

#: places of chunks within objects that hold several
INDEXES: Cache[list[tuple[int, int]]] = Cache(1 << 20)


def check_size(zarr: ZarrSpec, number: int, nbytes: int) -> None:
    """Raise `CorruptStoreError` unless an object has the bytes that part.json says."""
    if nbytes != zarr.sizes[number]:
        raise CorruptStoreError(f"object {number} has {nbytes} bytes, should have {zarr.sizes[number]}")


def fetch_chunk(
    storage: Storage, names: tuple[str, ...], spec: ArraySpec, chunk: int, key: tuple[Any, ...] | None = None
) -> bytes:
    """The bytes of one chunk of an array, as they are stored.

    Parameters
    ----------
    storage, names
        Where the folder of the array is.
    spec : ArraySpec
        What part.json says of it.
    chunk : int
        Which.
    key : tuple, optional
        Of the array, where its indexes of objects are kept.

    Raises
    ------
    OSError
        When it cannot be read, or an object is not as part.json says.
    """
    zarr, axes = spec.zarr, len(spec.shape)
    assert zarr is not None
    number, inside = divmod(chunk, zarr.shards)
    file = *names, *zarr.names(number, axes)
    if zarr.shards == 1:
        data = storage.read(*file, limit=zarr.sizes[number])
        check_size(zarr, number, len(data))
        return data
    start, stop = place_of(storage, names, spec, chunk, key)
    data = storage.read_part(start, stop, *file)
    if len(data) != stop - start:
        raise CorruptStoreError(f"object {number} ends within chunk {inside}")
    return data


def place_of(
    storage: Storage, names: tuple[str, ...], spec: ArraySpec, chunk: int, key: tuple[Any, ...] | None = None
) -> tuple[int, int]:
    """The first byte of a chunk in its object, and the one after its last; as `fetch_chunk`."""
    zarr = spec.zarr
    assert zarr is not None
    number, inside = divmod(chunk, zarr.shards)
    size = zarr.sizes[number]
    if zarr.shards == 1:
        return 0, size
    places = None if key is None else INDEXES.get((*key, number))
    if places is None:
        file = *names, *zarr.names(number, len(spec.shape))
        index = storage.read_part(max(size - index_nbytes(zarr.shards), 0), size, *file)
        places = split(index, zarr.shards, size)
        if key is not None:
            INDEXES.put((*key, number), places, 128 * len(places))
    start, stop = places[inside]
    if not stop:
        raise CorruptStoreError(f"object {number} lacks chunk {inside}")
    return start, stop
