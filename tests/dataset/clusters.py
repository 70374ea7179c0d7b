"""Clusters of tests, and what is done to their workers. Workers import this, so it needs nothing but mmdask."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings


@contextlib.contextmanager
def cluster(n=2, **options):
    """A client of some worker processes of one thread each."""
    import distributed

    options = {"n_workers": n, "threads_per_worker": 1, "dashboard_address": ":0", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(**options) as made, distributed.Client(made) as client:
            client.wait_for_workers(n)
            yield client


def die_at(where, number, *, after=False):
    """Let this process be killed at a call of a function, as ``"mmdask.rows.blocks:evaluate_rows"``, or after it."""
    import importlib

    module, _, path = where.partition(":")
    *above, name = path.split(".")
    place = importlib.import_module(module)
    for key in above:
        place = getattr(place, key)
    original = getattr(place, name)
    calls = [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    call.__module__, call.__qualname__ = module, path
    setattr(place, name, call)


def sent_nbytes(dask_worker):
    """How many bytes of results a worker has sent to anybody."""
    return sum(entry["total"] for entry in dask_worker.transfer_outgoing_log)


def received_nbytes(dask_worker):
    """How many bytes of results of other workers it has got."""
    return sum(entry["total"] for entry in dask_worker.transfer_incoming_log)


def task_names(dask_scheduler):
    """What the dashboard calls the tasks that a scheduler has seen."""
    from dask.utils import key_split

    log = dask_scheduler.transition_log
    return sorted({key_split(entry[0]) for entry in log})


def pids(dask_worker):
    return os.getpid()
