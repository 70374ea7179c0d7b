"""Files on servers, through fsspec: which there are, whether they changed, and their bytes.

Whatever goes wrong on the way is an `OSError` with a number, which tells it from bytes that make no sense.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import errno
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

import xxhash

from mmdask.errors import MissingDependencyError, SourceError, SourceNotFoundError
from mmdask.sources.address import public_address, scrubbed

__all__ = ["RemoteFile", "find_remote", "hash_remote", "is_remote", "read_header", "remote_state", "without_scheme"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE = re.compile(r"file:(//)?(?=/)")
#: a tree is named behind the end of the file's name, as other colons are those of ports
_TREE = re.compile(r"([^?#]*\.root):(?!/)([^?#]*)")
#: what servers say of the contents of a file, and of its time
_CONTENTS = ("etag", "content-md5", "digest", "md5hash", "crc32c", "generation", "version_id", "version", "sha")
_TIMES = ("last-modified", "lastmodified", "last_modified", "mtime", "updated", "modified", "created")

#: pauses before a request is made again
_PAUSES = (0.1, 0.5)
#: bytes between two ranges that are read for nothing, and bytes that are asked for at once
_GAP, _TOGETHER = 64 << 10, 16 << 20
_BLOCK = 8 << 20


def is_remote(path: str) -> bool:
    """Whether a name is the address of a file on a server."""
    return bool(_URL.match(path)) and not _FILE.match(path)


def without_scheme(path: str) -> str:
    """A name without the ``file://`` that it may begin with."""
    return _FILE.sub("", path, count=1)


def find_remote(text: str, tree: str) -> list[tuple[str, str]]:
    """(address, tree) of the files that ``"https://server/file.root:tree"`` means, where wildcards may be.

    Raises
    ------
    SourceNotFoundError
        When there is none.
    SourceError
        When the server cannot be asked.
    """
    found = _TREE.fullmatch(text)
    url, name = (found[1], found[2] or tree) if found else (text, tree)
    # What lets one in to files, mostly does so to their list.
    bare, mark, query = url.partition("?") if url.startswith("http") else (url, "", "")
    fs, path = _file_system(bare, query)
    if not re.search(r"[*\[]" if url.startswith("http") else r"[*?\[]", path):
        return [(url, name)]
    try:
        hits = sorted(str(hit) for hit in fs.glob(path))
    except Exception as error:
        shown = public_address(url)
        why = f"{shown}: the server lists no files ({_said(error)}); name each of them"
        raise SourceError(why) from _cause(url, error)
    if not hits:
        raise SourceNotFoundError(f"no file matches {public_address(url)}")
    # addresses in the spelling of the name, so that a file has one, however it is named
    before = bare.removesuffix(path) if bare.endswith(path) else None
    found_here = [str(fs.unstrip_protocol(hit)) if before is None else before + hit for hit in hits]
    return [(hit + mark + query, name) for hit in found_here]


def remote_state(url: str) -> tuple[int, int]:
    """The size of a file, and a number that is another one when the file changed, as far as the server tells.

    That is its time in ns, with a hash of its ETag, or the like, in place of fractions of a second.

    Raises
    ------
    SourceNotFoundError
        When it is not there.
    SourceError
        When it cannot be asked for, or has no size.
    """
    fs, path = _file_system(url)
    try:
        # what was listed before may be old; all of xrootd's cache would close files that are read
        fs.invalidate_cache(path.rpartition("/")[0])
        info = fs.info(path)
    except Exception as error:
        raise _no_answer(url, error) from _cause(url, error)
    shown = public_address(url)
    if info.get("type") == "directory":
        raise SourceError(f"{shown} is a folder; name the files in it, as in {shown.rstrip('/')}/*.root")
    if info.get("size") is None:
        raise SourceError(f"{shown}: the server does not say how large it is; copy it to this machine first")
    told = {str(key).lower(): value for key, value in info.items() if value not in (None, "")}
    when = next((told[key] for key in _TIMES if key in told), None)
    if when is None:
        with contextlib.suppress(Exception):  # few file systems have it
            when = fs.modified(path)
    contents = [str(told[key]) for key in _CONTENTS if key in told]
    ns = _nanoseconds(when)
    if contents:
        ns += xxhash.xxh3_64_intdigest("\n".join(contents).encode()) % 10**9 - ns % 10**9
    return int(info["size"]), ns


def read_header(url: str, nbytes: int) -> bytes:
    """The first bytes of a file, where its server gives any bytes that are asked for.

    Raises
    ------
    SourceError
        When it does not, or the file cannot be read.
    """
    fs, path = _file_system(url)
    try:
        with fs.open(path, "rb", cache_type="none") as file:
            header = bytes(file.read(nbytes))
            if len(header) == nbytes:
                file.seek(1)
                file.read(1)
    except Exception as error:
        if isinstance(error, ValueError) and "range" in str(error).lower():
            raise SourceError(
                f"{public_address(url)}: the server sends whole files only, and not the parts that are asked for; copy "
                "the file to this machine first"
            ) from _cause(url, error)
        raise _no_answer(url, error) from _cause(url, error)
    return header


def hash_remote(url: str) -> Iterator[bytes]:
    """All bytes of a file, block by block."""
    size, _ = remote_state(url)
    reader = RemoteFile(url)
    for start in range(0, size, _BLOCK):
        yield reader.read([(start, min(start + _BLOCK, size))])[0]


class RemoteFile:
    """Ranges of bytes of one file; what fails is tried again before it is an error."""

    def __init__(self, url: str) -> None:
        self._shown = public_address(url)
        self._fs, self._path = _file_system(url)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of ranges (start, stop); those near each other are asked for together."""
        together: list[tuple[int, int]] = []
        for start, stop in sorted(ranges):
            first, last = together[-1] if together else (0, -_GAP - 1)
            if start - last <= _GAP and stop - first <= _TOGETHER:
                together[-1] = first, max(last, stop)
            else:
                together.append((start, stop))
        got = dict(zip(together, self._fetch(together), strict=True))
        pieces = []
        for start, stop in ranges:
            first, last = next(r for r in got if r[0] <= start and stop <= r[1])
            pieces.append(got[first, last][start - first : stop - first])
        return pieces

    def _fetch(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        done: dict[tuple[int, int], bytes] = {}
        for pause in (*_PAUSES, None):
            left = [r for r in ranges if r not in done]
            try:
                got = self._fs.cat_ranges(
                    [self._path] * len(left), [a for a, _ in left], [b for _, b in left], on_error="return"
                )
            except Exception as error:
                got = [error] * len(left)
            for (start, stop), piece in zip(left, got, strict=True):
                if isinstance(piece, bytes | bytearray | memoryview) and len(piece) <= stop - start:
                    done[start, stop] = bytes(piece)
            problem = next((p for r, p in zip(left, got, strict=True) if r not in done), None)
            if len(done) == len(ranges):
                return [done[r] for r in ranges]
            if pause is None or isinstance(problem, FileNotFoundError):
                break
            time.sleep(pause)
        raise self._error(problem)

    def _error(self, problem: Any) -> OSError:
        if isinstance(problem, FileNotFoundError):
            return OSError(errno.ENOENT, "the file is gone from the server", self._shown)
        if isinstance(problem, Exception):
            return OSError(errno.EIO, f"the server or the way to it failed ({_said(problem)}); call again", self._shown)
        return OSError(errno.EIO, "the server sends other bytes than are asked for", self._shown)


def _file_system(url: str, query: str = "") -> tuple[Any, str]:
    """The file system of an address, and the path in it; with a query for whatever is asked."""
    import fsspec

    options: dict[str, Any] = {}
    if query:
        options = {"params": parse_qsl(query, keep_blank_values=True), "skip_instance_cache": True}
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        scheme = url.split("://")[0]
        package = {"root": "fsspec-xrootd", "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
        what = f"pip install {package[scheme]}" if scheme in package else str(error)
        raise MissingDependencyError(
            f"{public_address(url)}: files of {scheme}:// need another package: {what}"
        ) from error
    except ValueError as error:
        raise SourceError(f"{public_address(url)}: {scrubbed(str(error))}; copy it to this machine first") from None
    return fs, str(path)


def _cause(url: str, error: Exception) -> Exception | None:
    """The cause to show of an error; none where it may repeat what is secret in the address."""
    return error if public_address(url) == url else None


def _no_answer(url: str, error: Exception) -> SourceError:
    """What to raise where a server gave nothing."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(cause, "status", None)
    # fsspec says of HTTP that a file is not found whatever happened on the way to it, and of xrootd never so
    gone = isinstance(error, FileNotFoundError) and (cause is error or status in (404, 410))
    if gone or "[3011]" in str(error):
        return SourceNotFoundError(f"no file {public_address(url)}")
    return SourceError(f"{public_address(url)}: cannot be read: {_said(cause)}")


def _said(error: BaseException) -> str:
    """What an exception of a network says, in a line."""
    status, message = getattr(error, "status", None), getattr(error, "message", "")
    text = f"{status} {message}" if status else (str(error).strip().splitlines() or [""])[0]
    text = scrubbed(text.strip())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _nanoseconds(when: Any) -> int:
    """A time in ns since 1970, from whatever a file system calls one; 0 for none."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if isinstance(when, str):
            number = when.replace(".", "", 1).isdigit()
            if number:
                when = float(when)
            elif "T" in when and "-" in when:
                when = datetime.datetime.fromisoformat(when)
            else:
                when = email.utils.parsedate_to_datetime(when)
        if isinstance(when, datetime.datetime):
            if when.tzinfo is None:
                when = when.replace(tzinfo=datetime.UTC)
            return int(when.timestamp() * 10**6) * 1000
        if isinstance(when, int | float) and not isinstance(when, bool):
            return int(when * 10**9)
    return 0
