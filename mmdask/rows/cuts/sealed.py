"""Kept files that carry a checksum of all that they hold, so that what a power loss or a stranger made of one is found.

A file is its magic line, a line with the checksum of the rest, and the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import xxhash

from mmdask.store.arrays.files import open_file
from mmdask.store.arrays.npy import checksum

__all__ = ["SUM", "read_sealed", "sealed"]

#: bytes of the line with the checksum
SUM = 17


def sealed(magic: bytes, rest: Sequence[Any]) -> list[Any]:
    """The pieces of a file, as `write_atomically` takes them."""
    hashed = xxhash.xxh3_64()
    for piece in rest:
        hashed.update(piece)
    return [magic + hashed.hexdigest().encode() + b"\n", *rest]


def read_sealed(magic: bytes, most: int, parent: str, *names: str) -> bytes | None:
    """All bytes of a file, with its first lines; None if it is not there, damaged, or has more than `most` bytes.

    `parent` and `names` are those of `open_file`.
    """
    try:
        with open(open_file(parent, *names), "rb") as file:
            data = file.read(most) if os.fstat(file.fileno()).st_size <= most else b""
    except OSError:
        return None
    start = len(magic) + SUM
    if not data.startswith(magic) or data[len(magic) : start] != checksum(data[start:]).encode() + b"\n":
        return None
    return data
