"""JSON documents of a store: the first line carries a checksum of every byte after it.

So any changed byte is found, and what is parsed is what was written. Documents may come from strangers: size, number
of values, nesting, duplicate keys and numbers that JSON does not know are refused, and `Reader` checks each value as it
is taken out. What is written is held to the same limits, so that nothing is committed that no reader takes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from mmdask.errors import CorruptStoreError, FormatError, SchemaError
from mmdask.store.arrays.files import too_many_files
from mmdask.store.arrays.npy import checksum
from mmdask.store.storage import is_url, storage_of

__all__ = ["MAX_DEPTH", "MAX_NBYTES", "MAX_TEXT", "MAX_VALUES", "Reader", "dump", "parse", "read_file"]

MAX_NBYTES = 64 << 20
#: a value takes up to some hundred bytes of memory, and as little as two in a document
MAX_VALUES = 1 << 22
#: characters of one text
MAX_TEXT = 1 << 20
#: objects and lists within each other, in what a document holds for its writer (`attrs`)
MAX_DEPTH = 64
_FIRST_LINE = re.compile(rb'\{"checksum": "xxh3_64:([0-9a-f]{16})",\n')


def dump(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document: one line per top-level key, behind the line with the checksum.

    Raises
    ------
    SchemaError
        When it holds what JSON cannot, or more than readers take.
    """
    lines = []
    for key, value in document.items():
        try:
            lines.append(f'"{key}": {json.dumps(value, allow_nan=False)}')
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"{key!r} cannot be kept as JSON: {error}") from None
    rest = ",\n".join(lines) + "\n}\n"
    _check_surrogates(rest, "what is to be written", SchemaError)
    raw = rest.encode()
    whole = b'{"checksum": "xxh3_64:' + checksum(raw).encode() + b'",\n' + raw
    _check_size(whole, "what is to be written", SchemaError)
    return whole


def read_file(root: str, *names: str) -> bytes:
    """The bytes of a document of a store.

    Raises
    ------
    OSError
        When it cannot be opened, or is no regular file of the store.
    FormatError
        When it is too large.
    """
    storage = storage_of(root)
    data = storage.read(*names, limit=MAX_NBYTES)
    if len(data) > MAX_NBYTES:
        size = storage.size(*names).nbytes
        raise FormatError(f"{os.path.join(root, *names)}: {size} bytes, more than the limit of {MAX_NBYTES}")
    return data


def unread(path: str, error: OSError, what: str = "cannot be read") -> OSError:
    """What to say of a document that is needed: one that may not be read, or behind a network, can be whole."""
    if limit := too_many_files(error, path):
        return limit
    text = f"{path}: {what}: {error.strerror or error}"
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    if isinstance(error, PermissionError) or (is_url(path) and not missing):
        return OSError(error.errno, text)
    return CorruptStoreError(text)


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
    _check_size(data, where, FormatError)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        d = dict(pairs)
        if len(d) != len(pairs):
            raise FormatError(f"{where}: an object with the same key twice")
        return d

    def constant(text: str) -> NoReturn:
        raise FormatError(f"{where}: {text} is not JSON")

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise FormatError(f"{where}: {_short(text)} is more than a float holds")
        return value

    try:
        text = data.decode()
        document = json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_float=finite)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where}: not JSON within the limits: {error}") from None
    _check_surrogates(text, where, FormatError)
    assert isinstance(document, dict)  # the first line opened an object
    return document


def _check_size(data: bytes, where: str, error: type[Exception]) -> None:
    if len(data) > MAX_NBYTES:
        raise error(f"{where}: {len(data)} bytes, more than the limit of {MAX_NBYTES}")
    if len(data) > MAX_VALUES:  # a value takes a byte or more
        n = data.count(b",") + data.count(b"[") + data.count(b"{")
        if n > MAX_VALUES:
            raise error(f"{where}: about {n} values, more than the limit of {MAX_VALUES}")


#: escapes that are whole characters; halves of one only where both stand together
_WHOLE = re.compile(r"\\(?:[^u]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|u[dD][89abAB]..\\u[dD][c-fC-F]..)")


def _check_surrogates(text: str, where: str, error: type[Exception]) -> None:
    """No text may have half a character of UTF-16: it is not Unicode, and cannot be printed or hashed."""
    if "\\" in text and ("\\ud" in text or "\\uD" in text) and "\\" in _WHOLE.sub("", text):
        raise error(f"{where}: a text with a lone surrogate, which is not Unicode")


class Reader:
    """Take checked values out of a parsed JSON object; every failure says where and what was expected."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: expected an object, got {_short(value)}")
        self.value = value
        self.where = where

    def fail(self, key: str, expected: str) -> NoReturn:
        got = _short(self.value[key]) if key in self.value else "nothing"
        raise FormatError(f"{self.where}: {key!r} must be {expected}, got {got}")

    def text(self, key: str, pattern: str = ".*", default: str | None = None) -> str:
        v = self.value.get(key, default)
        if not isinstance(v, str) or len(v) > MAX_TEXT or not _matches(pattern)(v):
            self.fail(key, f"text of up to {MAX_TEXT} characters" if pattern == ".*" else f"text like {pattern}")
        return v

    def integer(self, key: str, default: int | None = None) -> int:
        v: Any = self.value.get(key, default)
        if not _is_size(v):
            self.fail(key, "an integer from 0 to 2**63 - 1")
        return int(v)

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        v = self.value.get(key, default)
        if not isinstance(v, list) or (v and (set(map(type, v)) != {int} or min(v) < 0 or max(v) >= 1 << 63)):
            self.fail(key, "a list of integers from 0 to 2**63 - 1")
        return v

    def texts(self, key: str, pattern: str = ".*", default: list[str] | None = None) -> list[str]:
        v = self.value.get(key, default)
        match = _matches(pattern)
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

    def attrs(self, key: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """An object of anything that is not too deep, and whose integers are numbers of 64 bits."""
        v = self.object(key, default)
        _check_attrs(v, f"{self.where}, {key!r}")
        return v


def _check_attrs(attrs: dict[str, Any], where: str) -> None:
    """The limits of `mmdask.store.attrs.check_attrs`, for what was read."""
    level: list[Any] = [attrs]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for v in level:
            if isinstance(v, dict):
                below.extend(v.values())
            elif isinstance(v, list):
                below.extend(v)
            elif type(v) is int and not -(1 << 64) < v < 1 << 64:
                raise FormatError(f"{where}: an integer of more than 64 bits")
        if not below:
            return
        level = below
    raise FormatError(f"{where}: lists and objects more than {MAX_DEPTH} deep")


@functools.cache
def _matches(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Whether all of a text is like a pattern; `re` looks for it in its own cache more slowly than it matches."""
    return re.compile(pattern, re.DOTALL).fullmatch


def _is_size(v: Any) -> bool:
    # bool is an int to Python and to isinstance, not to JSON
    return type(v) is int and 0 <= v < 1 << 63


def _short(value: Any, depth: int = 2) -> str:
    """A value for a message, whatever its size: values of a stranger's document may be as large as that."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys" if value else "{}"
    if isinstance(value, list):
        if len(value) > 8 or (value and not depth):
            return f"a list of {len(value)}"
        return f"[{', '.join(_short(v, depth - 1) for v in value)}]"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."
