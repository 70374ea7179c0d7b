"""How uproot reads files of this machine."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

__all__ = ["local_source"]


@functools.cache
def local_source() -> Any:
    """The class by which uproot reads a file: plain reads, in the thread that asks.

    A map would be killed by SIGBUS when the file is cut short meanwhile; to hand each read to another thread takes
    longer than the read.
    """
    from uproot.source.chunk import Chunk, Source
    from uproot.source.futures import TrivialFuture

    class LocalSource(Source):  # type: ignore[misc]
        """Bytes of a file."""

        def __init__(self, file_path: str, **_: Any) -> None:
            super().__init__()
            self._file_path = file_path
            self._fd = os.open(file_path, os.O_RDONLY | os.O_CLOEXEC)

        def chunk(self, start: int, stop: int) -> Any:
            return self.chunks([(start, stop)], None)[0]

        def chunks(self, ranges: Sequence[tuple[int, int]], notifications: Any) -> list[Any]:
            self._num_requests += 1
            self._num_requested_chunks += len(ranges)
            self._num_requested_bytes += sum(stop - start for start, stop in ranges)
            chunks = []
            for start, stop in ranges:
                piece = TrivialFuture(os.pread(self._fd, stop - start, start))
                chunks.append(Chunk(self, start, stop, piece))
                if notifications is not None:
                    notifications.put(chunks[-1])
            return chunks

        @property
        def closed(self) -> bool:
            return self._fd < 0

        @property
        def num_bytes(self) -> int:
            return os.fstat(self._fd).st_size

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)

        def __del__(self) -> None:  # where uproot fails to open a file, it does not close it
            if getattr(self, "_fd", -1) >= 0:
                os.close(self._fd)

    return LocalSource
