"""The workers of a dask cluster, for a conversion."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mmdask.dataset.run import task_key
from mmdask.errors import OptionError, WorkerError
from mmdask.sources.converting.workers import StoppedError, Tell

__all__ = ["DaskWorkers", "workers_of"]

T = TypeVar("T")
#: seconds between two looks at what workers have done, and two messages of a worker
_LOOK = 0.1
#: seconds in which workers may end by themselves before their tasks are cancelled
_PATIENCE = 5.0


class DaskWorkers:
    """Does calls on the workers of a client; see `mmdask.sources.converting.workers.Workers`.

    A task of a worker that died is done again by another one, as the scheduler decides.
    """

    def __init__(self, client: Any, key: str = "convert") -> None:
        if client.asynchronous:
            raise OptionError("workers is an asynchronous Client; pass one that waits: Client(address)")
        self._client, self._key = client, key
        self.count = max(1, sum(client.nthreads().values()))

    def run(self, call: Callable[[T, Tell], Any], items: Sequence[T], tell: Tell) -> Iterator[tuple[int, Any]]:
        from distributed import Event

        client, topic = self._client, f"mmdask-{os.urandom(8).hex()}"
        told = [0] * len(items)
        seen = [0] * len(items)

        def hear(event: Any) -> None:
            number, nbytes = event[1]
            told[number] = max(told[number], nbytes)

        def report() -> None:
            for i, item in enumerate(items):
                if (n := told[i]) > seen[i]:
                    tell(n - seen[i], str(getattr(item, "name", "")))
                    seen[i] = n

        stop = Event(topic, client=client)
        client.subscribe_topic(topic, hear)
        key = task_key(self._key)
        futures = {
            client.submit(_on_worker, topic, i, call, item, key=f"{key}-{i}", pure=False): i
            for i, item in enumerate(items)
        }
        try:
            left = set(futures)
            while left:
                if not (done := [f for f in left if f.done()]):
                    time.sleep(_LOOK)
                report()
                for future in done:
                    left.discard(future)
                    yield futures[future], _result_of(future)
            report()
        except BaseException:
            stop.set()
            until = time.monotonic() + _PATIENCE
            while time.monotonic() < until and not all(f.done() for f in futures):
                time.sleep(_LOOK)
            client.cancel(list(futures), force=True)
            raise
        else:
            stop.clear()
        finally:
            client.unsubscribe_topic(topic)


def _result_of(future: Any) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WorkerError(
            f"workers died one after the other at the same part, as when memory runs out ({error}); what was finished "
            "stays, and the same call goes on from there"
        ) from error


def _on_worker(topic: str, number: int, call: Callable[[T, Tell], Any], item: T) -> Any:
    from distributed import Event, get_worker

    worker = get_worker()
    stop = Event(topic)
    total, last = 0, time.monotonic()

    def tell(nbytes: int, name: str) -> None:
        nonlocal total, last
        total += nbytes
        if time.monotonic() - last >= _LOOK:
            last = time.monotonic()
            worker.log_event(topic, (number, total))
            if stop.is_set():
                raise StoppedError

    if stop.is_set():
        raise StoppedError
    try:
        result = call(item, tell)
    except Exception as error:
        error.add_note(f"on the dask worker {worker.address}")
        raise
    worker.log_event(topic, (number, total))
    return result


def workers_of(workers: Any) -> Any:
    """The argument `workers` of a conversion: a dask Client becomes its workers, all else stays."""
    kind = type(workers)
    if any(k.__module__.startswith("distributed.") and k.__name__ == "Client" for k in kind.__mro__):
        return DaskWorkers(workers)
    return workers
