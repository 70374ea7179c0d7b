"""How uproot reads files on servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdask.sources.remote import RemoteFile, remote_state

__all__ = ["remote_source"]


def remote_source(url: str) -> Any:
    """The class by which uproot reads a file on a server, whatever it thinks that the address is."""
    from uproot.source.chunk import Chunk, Source
    from uproot.source.futures import TrivialFuture

    class RemoteSource(Source):  # type: ignore[misc]
        """Bytes of a file by `RemoteFile`."""

        def __init__(self, file_path: str, **_: Any) -> None:
            super().__init__()
            self._file_path = file_path
            self._reader = RemoteFile(url)
            self._closed = False

        def chunk(self, start: int, stop: int) -> Any:
            return self.chunks([(start, stop)], None)[0]

        def chunks(self, ranges: Sequence[tuple[int, int]], notifications: Any) -> list[Any]:
            pieces = self._reader.read(ranges)
            self._num_requests += 1
            self._num_requested_chunks += len(ranges)
            self._num_requested_bytes += sum(map(len, pieces))
            chunks = [
                Chunk(self, start, stop, TrivialFuture(piece))
                for (start, stop), piece in zip(ranges, pieces, strict=True)
            ]
            for chunk in chunks if notifications is not None else ():
                notifications.put(chunk)
            return chunks

        @property
        def closed(self) -> bool:
            return self._closed

        @property
        def num_bytes(self) -> int:
            return remote_state(url)[0]

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._closed = True

    return RemoteSource
