"""A file system without conditions, in which an object can be created once."""

from __future__ import annotations

import threading

from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["Exclusive"]


class Exclusive(MemoryFileSystem):
    """`trouble` is what becomes of the next answer to the creation of a lock."""

    protocol = ("exclusive",)
    store: dict = {}  # noqa: RUF012
    lock = threading.Lock()
    trouble = None

    def pipe_file(self, path, value, mode="overwrite", **options):
        with self.lock:
            if mode == "create" and self.exists(path):
                raise FileExistsError(path)
            super().pipe_file(path, value, **options)
        if mode == "create" and path.endswith("lock.json") and Exclusive.trouble:
            error, Exclusive.trouble = Exclusive.trouble, None
            raise error

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("exclusive://", "memory://"))
