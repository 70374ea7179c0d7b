"""How one array of a store is kept where it is no ``.npy`` file: `ZarrSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Codec", "ZarrSpec"]

Codec = Literal["lz4", "zstd", "none"]


@dataclass(frozen=True)
class ZarrSpec:
    """How one array is stored: `chunk` elements along the first axis in a chunk, `shards` chunks in an object.

    `sizes` are the bytes of its objects, `hashes` the xxh3-64 of these bytes.
    """

    chunk: int
    shards: int
    codec: Codec
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]

    def names(self, number: int, axes: int) -> tuple[str, ...]:
        """Of an object of an array of so many axes, below the folder of the array."""
        return ("c", str(number), *["0"] * (axes - 1))
