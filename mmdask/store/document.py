"""JSON documents of a store: the first line carries a checksum of every byte after it.

So any changed byte is found, and what is parsed is what was written. Documents may come from strangers: size, nesting,
duplicate keys and numbers that JSON does not know are refused, and `Reader` checks each value as it is taken out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

from mmdask.errors import CorruptStoreError, FormatError
from mmdask.store.npy import checksum

__all__ = ["MAX_NBYTES", "Reader", "dump", "parse", "read"]

MAX_NBYTES = 256 << 20
_FIRST_LINE = re.compile(rb'\{"checksum": "xxh3_64:([0-9a-f]{16})",\n')


def dump(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document: one line per top-level key, behind the line with the checksum."""
    lines = [f'"{key}": {json.dumps(value, allow_nan=False)}' for key, value in document.items()]
    rest = (",\n".join(lines) + "\n}\n").encode()
    return b'{"checksum": "xxh3_64:' + checksum(rest).encode() + b'",\n' + rest


def read(file: BinaryIO, where: str) -> bytes:
    """The bytes of an open file, if they are not too many for a document."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_NBYTES:
        raise FormatError(f"{where}: {size} bytes, more than the limit of {MAX_NBYTES}")
    return file.read(size)


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Read a document back.

    Raises
    ------
    CorruptStoreError
        When the bytes are not those that were written.
    FormatError
        When they are, but are no JSON object within the limits.
    """
    first = _FIRST_LINE.match(data)
    if first is None or checksum(data[first.end() :]).encode() != first[1]:
        raise CorruptStoreError(
            f"{where}: the checksum in its first line does not fit the rest; the file is damaged, or was edited by hand"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        d = dict(pairs)
        if len(d) != len(pairs):
            raise FormatError(f"{where}: an object with the same key twice")
        return d

    def constant(text: str) -> NoReturn:
        raise FormatError(f"{where}: {text} is not JSON")

    try:
        document = json.loads(data, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where}: not JSON within the limits: {error}") from None
    assert isinstance(document, dict)  # the first line opened an object
    return document


class Reader:
    """Take checked values out of a parsed JSON object; every failure says where and what was expected."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: expected an object, got {_short(value)}")
        self.value = value
        self.where = where

    def fail(self, key: str, expected: str) -> NoReturn:
        raise FormatError(f"{self.where}: {key!r} must be {expected}, got {_short(self.value.get(key))}")

    def text(self, key: str, pattern: str = ".*", default: str | None = None) -> str:
        v = self.value.get(key, default)
        if not isinstance(v, str) or len(v) > 1 << 20 or not re.fullmatch(pattern, v, re.DOTALL):
            self.fail(key, "text" if pattern == ".*" else f"text like {pattern}")
        return v

    def integer(self, key: str, default: int | None = None) -> int:
        v: Any = self.value.get(key, default)
        if not _is_size(v):
            self.fail(key, "an integer from 0 to 2**63 - 1")
        return int(v)

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        v = self.value.get(key, default)
        if not isinstance(v, list) or not all(map(_is_size, v)):
            self.fail(key, "a list of integers from 0 to 2**63 - 1")
        return v

    def texts(self, key: str, pattern: str = ".*", default: list[str] | None = None) -> list[str]:
        v = self.value.get(key, default)
        match = re.compile(pattern, re.DOTALL).fullmatch
        if not isinstance(v, list) or not all(isinstance(t, str) and match(t) for t in v):
            self.fail(key, "a list of texts" if pattern == ".*" else f"a list of texts like {pattern}")
        return v

    def list(self, key: str) -> list[Any]:
        v = self.value.get(key)
        if not isinstance(v, list):
            self.fail(key, "a list")
        return v

    def object(self, key: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        v = self.value.get(key, default)
        if not isinstance(v, dict):
            self.fail(key, "an object")
        return v


def _is_size(v: Any) -> bool:
    # bool is an int to Python and to isinstance, not to JSON
    return type(v) is int and 0 <= v < 1 << 63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
