"""Run tasks on the dask scheduler in force, with one progress bar for all four of them."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Any

from mmdask.display import progress
from mmdask.errors import WorkerError
from mmdask.kernels.crew import Crew, Task, end
from mmdask.rows.blocks import unless
from mmdask.rows.cuts.passes import Done, Runner, run_serially
from mmdask.rows.cuts.passes import Task as Call
from mmdask.rows.rows import Rows
from mmdask.rows.selecting import Cut
from mmdask.rows.sums.adding import Later

__all__ = ["client_in_force", "dask_runner", "resolve", "task_key"]

#: seconds before a bar appears; most cuts are done by then
_BAR_DELAY = 0.5
#: characters of the name of a task
_LONG = 60
#: they stay, because Python drops an interrupt that comes while it forgets a thread that ended
_CREW = Crew("mmdask-compute", 256)
#: how many of its threads each caller has: nobody waits for those of another
_AT_WORK: dict[object, int] = {}


def task_key(doing: str, names: Iterable[str] = ()) -> str:
    """What tasks are called on the dashboard of a cluster, and a token: ``"cut:met,nJets-3f9..."``.

    Dask shows what stands before the first hyphen.
    """
    texts = [re.sub(r"[^\w.*]", "_", name) for name in names]
    shown = ",".join(texts)
    if len(shown) > _LONG:
        shown = f"{shown[:_LONG].rpartition(',')[0] or shown[:_LONG]},..."
    return f"{doing}:{shown}-{os.urandom(8).hex()}" if texts else f"{doing}-{os.urandom(8).hex()}"


def resolve(rows: Rows) -> Rows:
    """The same rows, once it is found which they are."""
    if not rows.resolved:
        rows.resolve(dask_runner("cut", _names_of(rows)))
    return rows


def _names_of(rows: Rows) -> list[str]:
    """The fields that the cuts of a selection read."""
    return list(dict.fromkeys(name for s in rows.steps if isinstance(s, Cut) for name in s.expression.fields))


def client_in_force() -> Any:
    """The distributed client that dask would use here; None if that is another scheduler."""
    import dask
    from dask.base import get_scheduler

    # Asking dask imports distributed to look for a client, which takes longer than most cuts.
    if "distributed" not in sys.modules and dask.config.get("scheduler", None) is None:
        return None
    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler") else None


def dask_runner(description: str, names: Iterable[str] = ()) -> Runner:
    """A runner for `Rows.resolve` that shows `description` beside its bar; tasks on a cluster have `names`, too.

    The scheduler is the one that dask would use here: a current distributed client, ``dask.config``, or threads.
    Arguments of tasks that are dask arrays of one chunk are computed along, on the same scheduler.
    """
    return _DaskRunner(description, tuple(names))


class _DaskRunner:
    def __init__(self, description: str, names: tuple[str, ...]) -> None:
        self.description, self.names = description, names

    @property
    def travels(self) -> bool:
        """Whether results come from other machines: then arguments of tasks may be `Later` ones."""
        return client_in_force() is not None

    def __call__(self, tasks: Sequence[Call], done: Done) -> None:
        import dask
        from dask.base import get_scheduler
        from dask.local import get_sync
        from dask.system import CPU_COUNT
        from dask.threaded import get as threaded

        client = client_in_force()
        asked = "distributed" in sys.modules or dask.config.get("scheduler", None) is not None
        get = (get_scheduler() if asked and client is None else None) or threaded
        with progress(sum(map(_size, tasks)), self.description, "tasks", delay=_BAR_DELAY, leave=False) as bar:

            def finished(number: int, result: Any) -> None:
                bar.update(1)
                done(number, result)

            if client is not None:
                doing = self.description.replace(" ", "")
                keys = task_key(doing, self.names), task_key("add", [doing])
                _on_cluster(client, tasks, keys, finished, lambda: bar.update(1))
            elif (get is get_sync or (get is threaded and _CREW.is_here())) and _nothing_for_dask(tasks):
                run_serially(tasks, finished)
            elif get is threaded and _nothing_for_dask(tasks):
                _on_threads(dask.config.get("num_workers", None) or CPU_COUNT, tasks, finished)
            else:
                _on_machine(get, tasks, finished)


def _size(task: Call) -> int:
    """How many tasks a task is, with those of which it takes the results."""
    return 1 + sum(_size(arg.task) for arg in task[1] if isinstance(arg, Later))


def _nothing_for_dask(tasks: Sequence[Call]) -> bool:
    """Whether nobody could tell that dask did not run these tasks."""
    import dask
    from dask.callbacks import Callback

    watched = Callback.active or dask.config.get("pool", None) is not None
    return not watched and not any(_is_lazy(arg) for _, args in tasks for arg in args)


def _on_threads(n: int, tasks: Sequence[Call], finished: Done) -> None:
    """Run tasks on threads of our own: those of dask's wait for its main loop between two tasks of a millisecond."""
    numbers = iter(range(len(tasks)))  # each goes to one thread
    ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()  # in the order in which they end
    given_up = Event()

    def work() -> None:
        for number in numbers:
            if given_up.is_set():
                return
            function, args = tasks[number]
            try:
                ended.put((number, unless(given_up, function, *args), None))
            except BaseException as error:
                ended.put((number, None, error))

    workers = [Task(work) for _ in range(min(n, len(tasks)))]
    try:
        _AT_WORK[ended] = len(workers)
        if not _CREW.tell(workers, sum(list(_AT_WORK.values()))):
            raise RuntimeError("no thread can be started; dask.config.set(scheduler='sync') needs none")
        for _ in tasks:
            number, result, error = ended.get()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame
            finished(number, result)
    finally:
        _AT_WORK.pop(ended, None)
        given_up.set()  # after an error or Ctrl-C, what still runs ends with the blocks that it is at
        end(workers)


def _on_machine(get: Callable[..., Any], tasks: Sequence[Call], finished: Done) -> None:
    import dask
    from dask.callbacks import Callback

    keys = [("task", i) for i in range(len(tasks))]
    arrays = _arrays_of(tasks)
    graph: dict[Any, Any] = {}
    # All at once: each time dask optimizes, it may give other meanings to the same keys.
    for array in dask.optimize(*arrays) if arrays else ():
        graph |= dict(array.__dask_graph__())
    for key, (function, args) in zip(keys, tasks, strict=True):
        lazy = any(map(_is_lazy, args))
        key_or_value = [_key_of(arg) if _is_lazy(arg) else arg for arg in args]
        graph[key] = (function, *key_or_value) if lazy else (partial(function, *args),)

    def after(key: Any, result: Any, _: Any, state: Any, __: Any) -> None:
        if isinstance(key, tuple) and key[0] == "task":
            # In this thread, as soon as the task has ended: what was finished is not lost when others fail.
            finished(key[1], result)
            state["cache"][key] = None  # dask would hold the results of all tasks to the end

    with Callback(posttask=after):
        get(graph, keys)


def _is_lazy(arg: object) -> bool:
    return hasattr(arg, "__dask_graph__")


def _key_of(array: Any) -> Any:
    """The key of the only chunk of a dask array."""
    keys = array.__dask_keys__()
    while isinstance(keys, list):
        [keys] = keys
    return keys


def _arrays_of(tasks: Sequence[Call]) -> list[Any]:
    return [arg for _, args in tasks for arg in args if _is_lazy(arg)]


def _on_cluster(
    client: Any, tasks: Sequence[Call], keys: tuple[str, str], finished: Done, other: Callable[[], object]
) -> None:
    """Run tasks on a cluster; `other` is called when one has ended of which the result stays there."""
    from distributed import KilledWorker, as_completed

    # Futures of the arrays, also all at once; the cluster puts what they become in their place.
    lazy = _arrays_of(tasks)
    arrays = iter(client.compute(lazy) if lazy else ())
    numbers = itertools.count()
    inner: list[Any] = []

    def submit(task: Call) -> Any:
        # What a task takes is submitted just before it, so that it is done before the next ones begin.
        function, args = task
        below = [submit(arg.task) if isinstance(arg, Later) else None for arg in args]
        values = [b if b is not None else next(arrays) if _is_lazy(a) else a for a, b in zip(args, below, strict=True)]
        inner.extend(b for b in below if b is not None)
        key = keys[any(b is not None for b in below)]
        return client.submit(function, *values, key=f"{key}-{next(numbers)}", pure=False)

    futures = {submit(task): i for i, task in enumerate(tasks)}
    try:
        if inner:
            _wait_for(futures, inner, other)
        for future, result in as_completed(list(futures), with_results=True):
            finished(futures[future], result)
    except KilledWorker as error:
        raise WorkerError(
            f"workers died one after the other at the same task, as when memory runs out ({error}); give them more "
            "memory or fewer threads. What was finished stays"
        ) from error
    finally:
        client.cancel([*futures, *inner])


def _wait_for(futures: Iterable[Any], inner: list[Any], other: Callable[[], object]) -> None:
    """Wait until tasks have ended, or one has failed; what inner ones gave is let go as soon as it was taken."""
    from distributed import as_completed

    last = set(futures)
    ended = as_completed([*inner, *last])
    inner.clear()  # a result stays on its worker for as long as a future of it is held, or a task needs it
    try:
        for future in ended:
            if future in last:
                last.discard(future)
                if future.status == "error" or not last:
                    return
            else:
                other()
    finally:
        inner.extend(ended.futures)
