"""Clusters of tests, and what is done to their workers. Workers import this, so it needs nothing but mmdask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import warnings


@contextlib.contextmanager
def cluster(n=2, **options):
    """A client of some worker processes of one thread each."""
    import distributed

    options = {"n_workers": n, "threads_per_worker": 1, "dashboard_address": ":0", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(**options) as made, distributed.Client(made) as client:
            client.wait_for_workers(n, timeout=300)
            yield client


def address_in(file):
    """The address that a scheduler writes into its file, once it is there: it is not written at once."""
    until = time.monotonic() + 120
    while True:
        try:
            return json.loads(file.read_text())["address"]
        except (FileNotFoundError, ValueError):
            assert time.monotonic() < until, "no scheduler has started"
            time.sleep(0.05)


def die_at(where, number, *, after=False, token=None):
    """Let this process be killed at a call of a function, as ``"mmdask.rows.blocks:evaluate_rows"``, or after it.

    With the path of a `token`, only the first of several processes is, and writes its number there.
    """
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
            _die(token)
        result = original(*args, **kwargs)
        if calls[0] == number and after:
            _die(token)
        return result

    call.__module__, call.__qualname__ = module, path
    setattr(place, name, call)


def _die(token):
    if token is not None:
        try:
            with open(token, "x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)


def until(condition, seconds=300):
    """Wait for what a cluster does at some time, as forgetting what nobody asks for any more."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


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


@contextlib.contextmanager
def large_messages(least=4096):
    """The sizes of messages that this process, with client and scheduler, sends and gets; heartbeats are smaller."""
    from unittest import mock

    from distributed.comm import tcp

    sizes = []
    write, from_frames = tcp.TCP.write, tcp.from_frames

    async def written(*args, **kwargs):
        sizes.append(await write(*args, **kwargs))
        return sizes[-1]

    async def read(frames, **kwargs):
        sizes.append(sum(memoryview(frame).nbytes for frame in frames))
        return await from_frames(frames, **kwargs)

    large = []
    with mock.patch.object(tcp.TCP, "write", written), mock.patch.object(tcp, "from_frames", read):
        yield large
    large += [n for n in sizes if n >= least]
