"""Threads that run tasks: each once, in order, and none lost by an interrupt or a fork."""

from __future__ import annotations

import os
import threading
import time

import pytest

from mmdask.kernels.crew import Crew, Task
from tests.faults.keys import pressing


@pytest.fixture
def crew():
    return Crew("mmdask-test", 2)


def test_tasks_are_run_by_as_many_threads_as_are_asked_for(crew):
    meet = threading.Barrier(2, timeout=120)
    tasks = [Task(meet.wait) for _ in range(4)]
    assert crew.tell(tasks, 9)
    assert sorted(task.result() for task in tasks) == [0, 0, 1, 1]
    assert crew.threads == 2
    assert all(task.ended for task in tasks)


def test_one_thread_keeps_their_order(crew):
    done = []
    tasks = [Task(lambda i=i: done.append(i)) for i in range(20)]
    crew.tell(tasks, 1)
    for task in tasks:
        task.wait()
    assert done == list(range(20))


def test_what_was_taken_is_not_run(crew):
    done, gate = [], threading.Event()
    tasks = [Task(gate.wait), Task(lambda: done.append("taken")), Task(lambda: done.append("told"))]
    crew.tell(tasks, 1)
    assert tasks[1].take()
    assert tasks[1].take(), "it stays the caller's"
    assert not tasks[1].ended
    gate.set()
    tasks[2].wait()
    assert not tasks[2].take(), "it is a thread's"
    assert done == ["told"]


def test_errors_are_raised_where_the_result_is_asked_for(crew):
    def fail():
        raise SystemExit(3)

    task = Task(fail)
    crew.tell([task, last := Task(lambda: 5)], 1)
    with pytest.raises(SystemExit):
        task.result()
    assert last.result() == 5, "the thread goes on"


def test_no_threads(crew, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    task = Task(lambda: 5)
    assert not crew.tell([task], 2)
    assert crew._tasks.empty()
    task.run()
    assert task.result() == 5


def test_interrupts_leave_everything_as_it_is(crew):
    """Of an executor, a few hundred leave a lock locked, for which the next call waits for ever."""
    late = []

    def work():
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            tasks = [Task(lambda i=i: i) for i in range(4)]
            crew.tell(tasks, 2)
            assert [task.result() for task in tasks] == [0, 1, 2, 3]

    with pressing() as press:
        for i in range(100):
            try:
                press(0.0005 + 0.00007 * i)
                work()
                press(0)  # no more
            except KeyboardInterrupt:
                late.append(i)
    assert late, "some of them came"
    crew.tell([task := Task(lambda: 5)], 2)
    assert task.result() == 5


def test_a_child_has_threads_of_its_own(crew):
    crew.tell([task := Task(lambda: 1)], 1)
    task.wait()
    child = os.fork()
    if not child:
        try:
            crew.tell([task := Task(os.getpid)], 1)
            os._exit(0 if task.result() == os.getpid() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
