"""A store on disk does what its model in memory does, whatever is asked of it in whatever order, and whatever fails.

``MMDASK_EXAMPLES=20000 pytest tests/store/test_state_machine.py`` is a long campaign.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import mmdask as mm
import mmdask.testing as mt
from mmdask.store.arrays import held as arrays
from tests.faults.systems import Failing, installed
from tests.faults.tidy import check_tidy, memory_folder

#: what expressions read: small enough that numbers of 64 bits are those of Python, always there
X = mm.Field.dense("x", "i8")
NAMES = ("a", "b", "c")
EXPRESSION = ("e", "x * 2 + 1")


class Boom(Exception):
    """What goes wrong in a user's own block."""


class Crash(Failing):
    """Fails at call `k`; does not wait for the disk, which is one in memory."""

    def __init__(self, k, forever, when):
        super().__init__(k, lambda: OSError(errno.ENOSPC, "no space"), forever=forever, when=when)

    def around(self, name, args, call):
        return super().around(name, args, (lambda: None) if name.startswith("fsync") else call)


#: at which system call, whether all later ones fail as well, and whether that call is done; None where none fails
faults = st.none() | st.tuples(st.integers(1, 40), st.booleans(), st.sampled_from(["before", "half", "after"]))


def rows_of(draw, field, n):
    return draw(st.lists(st.integers(-99, 99), min_size=n, max_size=n) if field == X else mt.rows(field, n))


class StoreMachine(RuleBasedStateMachine):
    """Every change is made to both; `shown` is what each generation on the disk should show."""

    backend = mt.DiskBackend

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="mmdask-", dir=memory_folder())
        self.path = os.path.join(self.folder, "s.mm")
        self.model = mt.MemoryBackend()
        self.shown = {}
        self.views = []
        self.suspect = False  # whether it is time to look at every byte

    def teardown(self):
        try:
            self.suspect = bool(self.shown)
            self.nothing_is_damaged()
        finally:
            shutil.rmtree(self.folder)

    # How a change is made -------------------------------------------------------------------------------------------

    def newest(self):
        try:
            return self.disk.reopened().open().generation
        except mm.StoreNotFoundError:
            return 0

    def attempt(self, fault, change):
        """Whether a change of the disk went well; an error that was not made here is passed on."""
        system = Crash(*(fault or (0, False, "before")))
        self.suspect = bool(self.shown) and fault is not None
        try:
            with installed(system):
                change()
        except OSError as error:
            if error not in system.raised:
                raise
            note(f"failed at {system.names[-1]}")
            return False
        return True

    def change(self, fault, change):
        """Change the disk, and the model by as many commits as the disk then has more."""
        before = self.newest()
        known = len(self.model.history())
        done = self.attempt(fault, lambda: change(self.disk))
        change(self.model)
        commits = self.model.history()[known:]
        made = self.newest() - before
        assert made == len(commits) if done else 0 <= made <= len(commits), f"{made} commits, not {len(commits)}"
        del self.model._generations[known + made :]
        self.shown.update({before + 1 + i: view for i, view in enumerate(commits[:made])})

    # Changes --------------------------------------------------------------------------------------------------------

    @initialize(
        data=st.data(), io=st.sampled_from(["mmap", "pread"]), part_nbytes=st.sampled_from([None, 64]), fault=faults
    )
    def create(self, data, io, part_nbytes, fault):
        options = {} if part_nbytes is None else {"part_nbytes": part_nbytes}
        self.disk = self.backend(self.path, io=io, **options)
        fields = [X, *(data.draw(mt.fields(name=st.just(name))) for name in NAMES[: data.draw(st.integers(0, 2))])]
        rows = {field.name: rows_of(data.draw, field, 2) for field in fields}

        def create(backend):
            with backend.create(fields) as w:
                w.extend(rows)

        self.change(fault, create)
        if not self.shown:  # the path of a store that never came to be can be used again
            self.change(None, create)

    @rule(data=st.data(), fault=faults)
    def append(self, data, fault):
        schema = self.model.open().schema
        given = [field for field in schema.values() if not field.expression]
        steps = data.draw(st.lists(st.sampled_from(["extend", "append", "checkpoint"]), min_size=1, max_size=4))
        steps.append(data.draw(st.sampled_from(["end", "end", "abort", "raise"])))
        sizes = [{"extend": data.draw(st.integers(0, 3)), "append": 1}.get(step, 0) for step in steps]
        rows = [{field.name: rows_of(data.draw, field, n) for field in given} for n in sizes]

        def append(backend):
            with contextlib.suppress(Boom), backend.append() as w:
                for step, some in zip(steps, rows, strict=True):
                    if step == "extend":
                        w.extend(some)
                    elif step == "append":
                        w.append({name: values[0] for name, values in some.items()})
                    elif step == "checkpoint":
                        w.checkpoint()
                    elif step == "abort":
                        w.abort()
                    elif step == "raise":
                        raise Boom

        self.change(fault, append)

    @rule(data=st.data(), name=st.sampled_from(NAMES), fault=faults)
    def assign(self, data, name, fault):
        view = self.model.open()
        field = data.draw(mt.fields(name=st.just(name)))
        rows = rows_of(data.draw, field, len(view))
        self.change(fault, lambda backend: backend.assign(field, rows, replace=name in view.schema))

    @precondition(lambda self: EXPRESSION[0] not in self.model.open().schema)
    @rule(fault=faults)
    def assign_expression(self, fault):
        self.change(fault, lambda backend: backend.assign_expression(*EXPRESSION))

    @precondition(lambda self: len(self.model.open().schema) > 1)
    @rule(data=st.data(), fault=faults)
    def drop(self, data, fault):
        names = [name for name in self.model.open().schema if name != X.name]
        wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        self.change(fault, lambda backend: backend.drop(wanted))

    @rule(fault=faults)
    def compact(self, fault):
        before = self.newest()
        self.attempt(fault, self.disk.compact)
        now = self.newest()
        assert now - before in (0, 1)
        self.shown[now] = self.shown[before]

    @rule(keep=st.integers(1, 5), fault=faults)
    def vacuum(self, keep, fault):
        kept = set(sorted(self.shown)[-keep:])
        done = self.attempt(fault, lambda: self.disk.vacuum(keep=keep))
        found = {commit.generation for commit in self.disk.history()}
        assert found == kept if done else kept <= found <= set(self.shown)
        # those of a vacuum that did not end may have lost what only they need
        self.views = [(view, expected) for view, expected in self.views if view.generation in kept]
        self.shown = {generation: view for generation, view in self.shown.items() if generation in found}
        if fault is None:
            check_tidy(self.path)
        else:
            self.vacuum(keep, None)  # which removes what the other one left

    @rule(data=st.data(), io=st.sampled_from(["mmap", "pread"]))
    def look_back(self, data, io):
        generation = data.draw(st.sampled_from(sorted(self.shown)))
        view = self.backend(self.path, io=io).open(generation)
        self.views = [*self.views[-3:], (view, self.shown[generation])]

    # What holds after each ------------------------------------------------------------------------------------------

    @invariant()
    def views_show_their_generation(self):
        for view, expected in self.views:
            mt.check_rows(view, mt.Table(expected.schema, expected.rows))

    @invariant()
    def rows_are_equal(self):
        if self.shown:
            expected = self.model.open()
            mt.check_rows(self.disk.open(), mt.Table(expected.schema, expected.rows))

    @invariant()
    def history_is_equal(self):
        if self.shown:
            found = {commit.generation: (commit.n_rows, commit.n_fields) for commit in self.disk.history()}
            assert found == {g: (view.n_rows, view.n_fields) for g, view in self.shown.items()}

    @invariant()
    def nothing_is_damaged(self):
        if self.suspect:
            self.suspect = False
            report = mm.verify(self.path, threads=1)
            assert report.ok, report


def run(machine, examples, **kwargs):
    quiet = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **kwargs,
    )
    run_state_machine_as_test(machine, settings=quiet)


def test_the_store_does_what_the_model_does(monkeypatch):
    monkeypatch.setattr(arrays, "SMALL_NBYTES", 16)  # else all of these arrays would be read whole
    run(StoreMachine, int(os.environ.get("MMDASK_EXAMPLES", "150")))


# Broken stores ------------------------------------------------------------------------------------------------------


class LosesFields(mt.DiskBackend):
    """Compaction takes the last field away."""

    def compact(self):
        super().compact()
        *_, last = self.open().schema
        if last != X.name:
            self.drop([last])


class CommitsOnError(mt.DiskBackend):
    """Rows of a block that raised are there."""

    @contextlib.contextmanager
    def append(self):
        with super().append() as w, contextlib.suppress(Boom):
            yield w


class VacuumsMore(mt.DiskBackend):
    def vacuum(self, *, keep):
        super().vacuum(keep=max(keep - 1, 1))


class SharesViews(mt.DiskBackend):
    """A generation is opened as the newest."""

    def open(self, generation=None):
        return super().open()


class ForgetsRows(mt.DiskBackend):
    """When an append fails, rows that were there before are gone."""

    @contextlib.contextmanager
    def append(self):
        try:
            with super().append() as w:
                yield w
        except OSError:
            shutil.rmtree(os.path.join(self.path, "cache"), ignore_errors=True)
            with open(os.path.join(self.path, "manifest.json"), "r+b") as file:
                file.truncate(10)
            raise


@pytest.mark.parametrize("broken", [LosesFields, CommitsOnError, VacuumsMore, SharesViews, ForgetsRows])
def test_a_broken_store_is_found(broken):
    machine = type("Broken", (StoreMachine,), {"backend": broken})
    with pytest.raises((AssertionError, mm.MmdaskError)):
        run(machine, 200, phases=[Phase.generate], database=None, report_multiple_bugs=False)
