"""Puts that happen only if an object is still what it was: for each kind of store that offers them, and how."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import xxhash

__all__ = ["CONDITIONAL", "EXCLUSIVE", "LostError", "Versioned"]


class LostError(Exception):
    """The object is not what it was when it was read."""


class Versioned(Protocol):
    """Reads and puts of one file system."""

    def __init__(self, fs: Any) -> None: ...

    def read(self, path: str) -> tuple[bytes, str]:
        """The bytes of an object, and what tells them from any others that it had or will have."""
        ...

    def put(self, path: str, data: bytes, version: str | None) -> None:
        """Replace an object of this version, or make one where there is none.

        Raises
        ------
        LostError
            When it is of another version.
        """
        ...


class S3:
    """By ``If-Match`` and ``If-None-Match``, in one request each."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def read(self, path: str) -> tuple[bytes, str]:
        # The bytes and their version have to come in the same answer.
        from fsspec.asyn import sync

        return sync(self.fs.loop, self._read, path)  # type: ignore[no-any-return]

    async def _read(self, path: str) -> tuple[bytes, str]:
        bucket, key, _ = self.fs.split_path(path)
        answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return bytes(await body.read()), str(answer["ETag"])

    def put(self, path: str, data: bytes, version: str | None) -> None:
        bucket, key, _ = self.fs.split_path(path)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except Exception as error:
            if _is_refused(error):
                raise LostError from None
            raise


def _is_refused(error: BaseException | None) -> bool:
    """Whether S3 says that a condition does not hold, or that another put with one is under way; s3fs wraps it."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            code = answer.get("Error", {}).get("Code")
            # An object that was removed meanwhile is not of the version either.
            return code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409", "NoSuchKey")
        error = error.__cause__ or error.__context__
    return False


_MEMORY = threading.RLock()


class Memory:
    """The memory of this process, of which a lock makes any two calls one."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def read(self, path: str) -> tuple[bytes, str]:
        data = bytes(self.fs.cat_file(path))
        return data, xxhash.xxh3_128_hexdigest(data)

    def put(self, path: str, data: bytes, version: str | None) -> None:
        with _MEMORY:
            now = self.read(path)[1] if self.fs.exists(path) else None
            if now != version:
                raise LostError
            self.fs.pipe_file(path, data)


#: by the scheme of a URL; those that are tested
CONDITIONAL: dict[str, type[Versioned]] = {"s3": S3, "s3a": S3, "memory": Memory}
#: where ``mode="create"`` of fsspec fails if there is such an object, also when two processes create it at once
EXCLUSIVE = frozenset({"gs", "gcs", "az", "abfs", "abfss", "sftp", "ssh"})
