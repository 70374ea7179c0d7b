"""Broken backends fail the contract: each of these is the model with one mistake."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, settings

import mmdask.testing as mt
from mmdask.testing.memory import MemoryView, MemoryWriter


class LosesARow(mt.MemoryBackend):
    """An append keeps all rows but the last."""

    def _commit(self, fields, rows, base):
        keep = max(len(base), max(map(len, rows.values()), default=0) - (base.generation > 0))
        return super()._commit(fields, {name: values[:keep] for name, values in rows.items()}, base)


class DropKeeps(mt.MemoryBackend):
    """A drop changes nothing."""

    def drop(self, names):
        super().drop(names)
        self._generations.pop()


class CompactReorders(mt.MemoryBackend):
    """Compaction puts the last row first."""

    def compact(self):
        view = self.open()
        rows = {name: [*values[-1:], *values[:-1]] for name, values in view.rows.items()}
        self._commit(view.schema, rows, view)


class TornAppend(mt.MemoryBackend):
    """Rows are visible as soon as they are given."""

    def _write(self, base):
        class Torn(MemoryWriter):
            def extend(self, rows):
                super().extend(rows)
                self.commit()

        return with_writer(Torn(self, base))


class KeepsFailedRows(mt.MemoryBackend):
    """A block that raises is committed."""

    def _write(self, base):
        return with_writer(MemoryWriter(self, base), commit_always=True)


class with_writer:
    def __init__(self, writer, commit_always=False):
        self.writer, self.commit_always = writer, commit_always

    def __enter__(self):
        return self.writer

    def __exit__(self, kind, error, traceback):
        if error is None or self.commit_always:
            self.writer.commit()


class AbortForgetsCheckpoints(mt.MemoryBackend):
    """What is given up are all rows of the block."""

    def _write(self, base):
        n = len(self._generations)
        backend = self

        class Forgetful(MemoryWriter):
            def abort(self):
                super().abort()
                del backend._generations[n:]

        return with_writer(Forgetful(self, base))


class ViewsFollow(mt.MemoryBackend):
    """A view shows the newest rows."""

    def _commit(self, fields, rows, base):
        view = super()._commit(fields, rows, base)
        for older in self._generations:
            for name in older.rows:
                if name in view.rows:
                    older.rows[name][:] = view.rows[name][: len(older)]
        return view


class OpensTheNewest(mt.MemoryBackend):
    """Any generation is the newest."""

    def open(self, generation=None):
        super().open(generation)
        return super().open()


class ForgetsLabels(mt.MemoryBackend):
    """A category has the labels of the last append only."""

    def _commit(self, fields, rows, base):
        fields = {
            name: f.with_labels(dict.fromkeys(rows[name][len(base) :])) if f.kind == "category" else f
            for name, f in fields.items()
        }
        return super()._commit(fields, rows, base)


class VacuumsTooMuch(mt.MemoryBackend):
    def vacuum(self, *, keep):
        super().vacuum(keep=1)


class VacuumsNothing(mt.MemoryBackend):
    def vacuum(self, *, keep):
        pass


class ReplacesWithoutBeingAsked(mt.MemoryBackend):
    def assign(self, field, rows, *, replace=False):
        super().assign(field, rows, replace=True)


class NeverComputesAgain(mt.MemoryBackend):
    """A computed field is zero in rows that come later."""

    def _commit(self, fields, rows, base):
        rows = {
            name: values[: len(base)] + [0] * (len(values) - len(base)) if fields[name].expression else values
            for name, values in rows.items()
        }
        return super()._commit(fields, rows, base)


def view_mutant(**methods):
    """A backend whose views have these methods."""
    mutant = type("MutantView", (MemoryView,), methods)

    class Backend(mt.MemoryBackend):
        def open(self, generation=None):
            view = super().open(generation)
            return mutant(**{name: getattr(view, name) for name in MemoryView.__dataclass_fields__})

    return Backend


def on_results(change):
    """A backend that changes every run of rows which it returns."""

    def read(self, name, start, stop):
        return change(self, name, MemoryView.read(self, name, start, stop))

    def take(self, name, rows):
        return change(self, name, MemoryView.take(self, name, rows))

    return view_mutant(read=read, take=take)


def zero_for_missing(view, name, data):
    return replace(data, valid=())


def dtype_of_python(view, name, data):
    return replace(data, values=data.values.astype("f8") if data.values.dtype.kind == "f" else data.values)


def offsets_from_one(view, name, data):
    return replace(data, offsets=tuple(o + 1 for o in data.offsets))


def without_shapes(view, name, data):
    return data if data.shapes is None else replace(data, shapes=data.shapes[:, ::-1].copy())


def nan_to_zero(view, name, data):
    return replace(data, values=np.nan_to_num(data.values)) if data.values.dtype.kind in "fc" else data


def take_sorted(self, name, rows):
    return MemoryView.take(self, name, np.sort(rows))


def take_unique(self, name, rows):
    return MemoryView.take(self, name, np.array(list(dict.fromkeys(rows.tolist())), np.int64))


def take_from_the_end(self, name, rows):
    return MemoryView.take(self, name, rows % max(len(self), 1))


def read_one_more(self, name, start, stop):
    return MemoryView.read(self, name, start, min(stop + 1, len(self)))


def pickles_with_data(self):
    return MemoryView, tuple(getattr(self, name) for name in MemoryView.__dataclass_fields__)


class SharesItsRows(mt.MemoryBackend):
    """What is returned is what is stored."""

    def open(self, generation=None):
        view = super().open(generation)
        known = self.__dict__.setdefault("known", {})

        class Shared(MemoryView):
            def read(self, name, start, stop):
                key = self.generation, name
                if key not in known:
                    known[key] = super().read(name, 0, self.n)
                return known[key][start:stop]

        return Shared(**{name: getattr(view, name) for name in MemoryView.__dataclass_fields__})


ROWS = "test_rows_come_back_from_however_many_appends"
TAKES = "test_any_rows_are_read_and_taken"
FIELDS = "test_fields_are_assigned_replaced_and_dropped"
VACUUM = "test_vacuum_keeps_what_is_named"


@pytest.mark.parametrize(
    ("mutant", "tests"),
    [
        (LosesARow, [ROWS, "test_many_rows", "test_every_generation_stays_what_it_was"]),
        (DropKeeps, [FIELDS, "test_a_dropped_field_may_come_back_as_another"]),
        (CompactReorders, ["test_compacting_keeps_rows_and_their_numbers"]),
        (TornAppend, ["test_nothing_is_visible_before_the_block_ends", "test_an_exception_leaves_nothing"]),
        (KeepsFailedRows, ["test_an_exception_leaves_nothing", "test_rows_that_do_not_fit_leave_nothing"]),
        (AbortForgetsCheckpoints, ["test_checkpoints_are_commits_and_abort_keeps_them"]),
        (ViewsFollow, ["test_a_view_does_not_change"]),
        (OpensTheNewest, ["test_every_generation_stays_what_it_was", VACUUM]),
        (ForgetsLabels, ["test_categories_whose_labels_differ_between_appends"]),
        (VacuumsTooMuch, [VACUUM]),
        (VacuumsNothing, [VACUUM]),
        (ReplacesWithoutBeingAsked, [FIELDS]),
        (NeverComputesAgain, ["test_computed_fields_are_computed_for_rows_that_come_later"]),
        (on_results(zero_for_missing), [ROWS, "test_what_is_missing_is_missing_at_its_depth"]),
        (on_results(dtype_of_python), ["test_every_kind_holds_the_extremes_of_a_dtype"]),
        (on_results(offsets_from_one), [ROWS, "test_empty_rows"]),
        (on_results(without_shapes), ["test_lengths_of_zero"]),
        (on_results(nan_to_zero), ["test_every_kind_holds_the_extremes_of_a_dtype"]),
        (view_mutant(take=take_sorted), [TAKES, "test_empty_rows"]),
        (view_mutant(take=take_unique), [TAKES, "test_many_rows"]),
        (view_mutant(take=take_from_the_end), ["test_what_is_not_there_is_said_to_be"]),
        (view_mutant(read=read_one_more), [TAKES]),
        (view_mutant(__reduce__=pickles_with_data), ["test_a_view_is_pickled_by_reference"]),
        (SharesItsRows, ["test_results_are_read_only_or_copies"]),
    ],
    ids=lambda value: getattr(value, "__name__", None) if inspect.isclass(value) else None,
)
def test_a_broken_backend_fails_the_contract(contract, mutant, tests):
    for test in tests:
        assert errors_of(contract, mutant, test) != [], f"{test} passes"


@pytest.fixture(scope="module")
def contract():
    """The contract, with examples that are not made small before they fail."""
    usual = settings.default
    settings.register_profile("at once", usual, phases=[Phase.generate], database=None, max_examples=200)
    settings.load_profile("at once")
    spec = importlib.util.find_spec("mmdask.testing.contract")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings.load_profile("mmdask")
    return module.StoreContract()


def errors_of(contract, backend, test):
    """What one test of the contract raises, over all of its parameters."""
    method = getattr(contract, test)
    asked = inspect.signature(method).parameters
    cases = [{}]
    for mark in getattr(method, "pytestmark", []):
        name, values = mark.args
        cases = [{**case, name: value} for case in cases for value in values]
    errors = []
    for case in cases:
        fixtures = {"new": backend} if "new" in asked else {"backend": backend()}
        try:
            method(**fixtures, **case)
        except (Exception, pytest.fail.Exception) as error:
            errors.append(error)
    return errors
