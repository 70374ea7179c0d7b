"""Run tasks on the dask scheduler in force, with one progress bar for all four of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mmdask.display import progress
from mmdask.rows.masks import Runner, Task

__all__ = ["dask_runner"]

#: seconds before a bar appears; most cuts are done by then
_BAR_DELAY = 0.5


def dask_runner(description: str) -> Runner:
    """A runner for `Rows.resolve` that shows `description` beside its bar.

    The scheduler is the one that dask would use here: a current distributed client, ``dask.config``, or threads.
    """

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        import dask
        from dask.base import get_scheduler
        from dask.threaded import get as threaded

        # Asking dask imports distributed to look for a client, which takes longer than most cuts.
        elsewhere = "distributed" in sys.modules or dask.config.get("scheduler", None) is not None
        get = (get_scheduler() if elsewhere else None) or threaded
        client = getattr(get, "__self__", None)
        with progress(len(tasks), description, "tasks", delay=_BAR_DELAY) as bar:
            if client is not None and hasattr(client, "scheduler"):
                yield from _on_cluster(client, tasks, bar.update)
            else:
                yield from _on_machine(get, tasks, bar.update)

    return run


def _on_machine(
    get: Callable[..., Any], tasks: Sequence[Task], update: Callable[[int], Any]
) -> Iterator[tuple[int, Any]]:
    from dask.callbacks import Callback

    def done(*_: Any) -> None:
        update(1)

    keys = [("task", i) for i in range(len(tasks))]
    graph = {key: (partial(function, *args),) for key, (function, args) in zip(keys, tasks, strict=True)}
    with Callback(posttask=done):
        results = get(graph, keys)
    yield from enumerate(results)


def _on_cluster(client: Any, tasks: Sequence[Task], update: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
    from distributed import as_completed

    futures = {client.submit(function, *args, pure=False): i for i, (function, args) in enumerate(tasks)}
    try:
        for future, result in as_completed(list(futures), with_results=True):
            update(1)
            yield futures[future], result
    finally:
        client.cancel(list(futures))
