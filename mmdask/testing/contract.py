"""`StoreContract`: the tests that every backend must pass.

::

    from mmdask.testing import DiskBackend, StoreContract

    class TestOnDisk(StoreContract):
        def new_backend(self, folder):
            return DiskBackend(folder / "store.mm")
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdask.errors import (
    FieldNotFoundError,
    OptionError,
    RowNotFoundError,
    SchemaError,
    StoreExistsError,
    StoreNotFoundError,
)
from mmdask.schema import KINDS, Field
from mmdask.testing.backend import Backend, View
from mmdask.testing.checks import append, arrays, check_rows, extremes, numbered, rows_of, write
from mmdask.testing.strategies import fields, pieces, rows, selections, tables
from mmdask.testing.table import Table
from mmdask.testing.values import check_field_data, difference, to_python

__all__ = ["StoreContract"]

#: each example makes a store of its own, so that the fixture which makes them may be shared; and that takes a while
_examples = settings(
    max_examples=max(settings().max_examples // 5, 1), deadline=None, suppress_health_check=list(HealthCheck)
)

New = Callable[[], Backend]


class Boom(Exception):
    """What goes wrong in a user's own code."""


def _read_elsewhere(view: View) -> dict[str, list[Any]]:
    return {name: rows_of(view, name) for name in view.schema}


class StoreContract:
    """Tests of a backend of stores. A subclass gives the backend, by `new_backend`, and is collected by pytest.

    What a backend returns is compared with plain Python values, and with `check_field_data`. Properties are tried with
    a fifth of the examples of the hypothesis profile that is loaded when the class is imported.

    Examples
    --------
    >>> from mmdask.testing import MemoryBackend, StoreContract
    >>> class TestInMemory(StoreContract):
    ...     other_processes = False
    ...     def new_backend(self, folder):
    ...         return MemoryBackend()
    """

    #: whether another process can open the store
    other_processes = True

    def new_backend(self, folder: Path) -> Backend:
        """A backend with no store yet, which may use an empty folder of its own."""
        raise NotImplementedError("a contract is tested with the backend that new_backend(folder) returns")

    @pytest.fixture
    def new(self, tmp_path_factory: pytest.TempPathFactory) -> New:
        """Makes a new backend each time that it is called."""
        return lambda: self.new_backend(tmp_path_factory.mktemp("contract"))

    @pytest.fixture
    def backend(self, new: New) -> Backend:
        """A backend with no store yet."""
        return new()

    # What goes in comes out -----------------------------------------------------------------------------------------

    @_examples
    @given(table=tables(), data=st.data())
    def test_rows_come_back_from_however_many_appends(self, new: New, table: Table, data: st.DataObject) -> None:
        backend = new()
        runs = data.draw(pieces(len(table)))
        write(backend, table, runs)
        check_rows(backend.reopened().open(), table)

    @_examples
    @given(table=tables(max_rows=4))
    def test_rows_come_back_one_by_one(self, new: New, table: Table) -> None:
        backend = new()
        with backend.create(table.fields) as w:
            for record in table.records():
                w.append(record)
        check_rows(backend.open(), table)

    @pytest.mark.parametrize("kind", KINDS)
    @_examples
    @given(data=st.data())
    def test_any_rows_are_read_and_taken(self, new: New, kind: str, data: st.DataObject) -> None:
        backend = new()
        field = data.draw(fields(name=st.just("f"), kinds=[kind]), label="field")
        values = data.draw(rows(field, data.draw(st.integers(0, 8))), label="rows")
        table = Table.of((field, values))
        write(backend, table, data.draw(pieces(len(table))))
        view = backend.open()
        for _ in range(3):
            selection = data.draw(selections(len(table)), label="selection")
            if isinstance(selection, slice):
                start, stop, _ = slice(selection.start, selection.stop).indices(len(table))
                assert not difference(values[start : max(start, stop)], rows_of(view, "f", start, max(start, stop)))
            numbers = list(range(len(table)))[selection] if isinstance(selection, slice) else selection
            taken = view.take("f", np.array(numbers, np.int64))
            check_field_data(view.schema["f"], taken)
            assert not difference([values[i] for i in numbers], to_python(view.schema["f"], taken))

    @pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "c8", "M8[ns]", "m8[D]", "S3"])
    @pytest.mark.parametrize("kind", ["dense", "ragged", "shaped"])
    def test_every_kind_holds_the_extremes_of_a_dtype(self, backend: Backend, kind: str, dtype: str) -> None:
        values = extremes(np.dtype(dtype))
        field: Field = {
            "dense": lambda: Field.dense("f", dtype, (1,)),
            "ragged": lambda: Field.ragged("f", dtype),
            "shaped": lambda: Field.shaped("f", dtype, 1),
        }[kind]()
        entries: list[Any] = [[v] for v in values]
        if kind == "shaped":
            entries = [np.array(e, field.dtype) for e in entries]
        write(backend, Table.of((field, entries)), [slice(0, 1), slice(1, None)])
        check_rows(backend.open(), Table.of((field, entries)))

    @pytest.mark.parametrize("empty", ["first", "last", "everywhere", "between"])
    def test_empty_rows(self, backend: Backend, empty: str) -> None:
        full: dict[str, Any] = {"r": [1, 2], "n": [[1], [], [2, 3]], "t": "ab", "ts": ["a", ""], "s": np.ones((2, 1))}
        none: dict[str, Any] = {"r": [], "n": [], "t": "", "ts": [], "s": np.ones((0, 3))}
        n = 5
        at = {"first": {0}, "last": {n - 1}, "everywhere": set(range(n)), "between": {1, 3}}[empty]
        table = Table.of(
            *(
                (field, [none[field.name] if i in at else full[field.name] for i in range(n)])
                for field in (
                    Field.ragged("r", "i8"),
                    Field.ragged("n", "i8", levels=2),
                    Field.string("t"),
                    Field.string("ts", levels=1),
                    Field.shaped("s", "f8", 2),
                )
            )
        )
        write(backend, table, [slice(0, 2), slice(2, 2), slice(2, n)])
        view = backend.open()
        check_rows(view, table)
        for name, values in table.rows.items():
            taken = view.take(name, np.array([4, 0, 0, 2]))
            assert not difference([values[i] for i in (4, 0, 0, 2)], to_python(view.schema[name], taken))

    def test_lengths_of_zero(self, backend: Backend) -> None:
        table = Table.of(
            (Field.dense("d", "f4", (0,)), [[], [], []]),
            (Field.dense("dd", "f4", (2, 0)), [[[], []]] * 3),
            (Field.ragged("r", "i2", (0,)), [[[], []], [], [[]]]),
            (Field.shaped("s", "u1", 2), [np.zeros((0, 5), "u1"), np.zeros((4, 0), "u1"), np.zeros((0, 0), "u1")]),
        )
        write(backend, table, [slice(0, 1), slice(1, 3)])
        check_rows(backend.open(), table)

    def test_a_store_of_no_rows(self, backend: Backend) -> None:
        table = numbered(0)
        with backend.create(table.fields):
            pass
        view = backend.open()
        check_rows(view, table)
        for name in table.schema:
            assert to_python(view.schema[name], view.take(name, np.zeros(0, np.int64))) == []
        with backend.append() as w:
            w.extend(numbered(3).rows)
        check_rows(backend.open(), numbered(3))
        check_rows(view, table)

    def test_categories_whose_labels_differ_between_appends(self, backend: Backend) -> None:
        field = Field.category("c", ["declared"])
        runs = [["b", "a"], ["a", "c", "a"], ["b"], ["declared", "d", "c"]]
        with backend.create([field]) as w:
            w.extend({"c": runs[0]})
        for run in runs[1:]:
            with backend.append() as w:
                w.extend({"c": run})
        view = backend.open()
        check_rows(view, Table.of((field, [label for run in runs for label in run])))
        assert set(view.schema["c"].labels) == {"declared", "a", "b", "c", "d"}
        taken = view.take("c", np.array([8, 0, 4, 1]))
        assert to_python(view.schema["c"], taken) == ["c", "b", "a", "a"]

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_what_is_missing_is_missing_at_its_depth(self, backend: Backend, depth: int) -> None:
        rows_at: dict[int, list[Any]] = {
            0: [None, [[2.0], []], None],
            1: [[None, [4.0]], [], [[], None]],
            2: [[[None, 5.0], []], [[6.0]], [[None]]],
        }
        field = Field.ragged("r", "f4", levels=2, optional=(depth,))
        # something is missing in the second of three appends only
        table = Table.of((field, [[], *rows_at[depth], [[9.0]]]))
        write(backend, table, [slice(0, 1), slice(1, 4), slice(4, 5)])
        view = backend.open()
        check_rows(view, table)
        backwards = np.arange(len(table))[::-1]
        assert not difference(table.rows["r"][::-1], to_python(view.schema["r"], view.take("r", backwards)))

    def test_members_of_a_record(self, backend: Backend) -> None:
        table = Table.of(
            (Field.ragged("jets_pt", "f4", record="jets"), [[1.0, 2.0], [], [3.0]]),
            (Field.ragged("jets_eta", "f4", record="jets"), [[0.5, -0.5], [], [0.0]]),
            (Field.dense("muon_p4_pt", "f8", record="muon"), [1.5, 2.5, 3.5]),
        )
        write(backend, table, [slice(0, 2), slice(2, 3)])
        check_rows(backend.open(), table)

    def test_many_rows(self, backend: Backend) -> None:
        table = numbered(5000)
        write(backend, table, [slice(0, 1), slice(1, 4096), slice(4096, 5000)])
        view = backend.open()
        check_rows(view, table)
        numbers = np.random.default_rng(1).integers(0, 5000, 3000)
        for name, values in table.rows.items():
            assert not difference([values[i] for i in numbers], to_python(view.schema[name], view.take(name, numbers)))

    # What is not there ----------------------------------------------------------------------------------------------

    def test_what_is_not_there_is_said_to_be(self, backend: Backend) -> None:
        with pytest.raises(StoreNotFoundError):
            backend.open()
        with pytest.raises(StoreNotFoundError), backend.append():
            pass
        write(backend, numbered(3), [slice(0, 3)])
        view = backend.open()
        for wrong in ([3], [-1], [0, 1, 99], [2**40]):
            for name in view.schema:
                with pytest.raises(RowNotFoundError):
                    view.take(name, np.array(wrong))
        with pytest.raises(FieldNotFoundError):
            view.read("y", 0, 1)
        with pytest.raises(FieldNotFoundError):
            view.take("y", np.array([0]))
        for generation in (0, 2, 99):
            with pytest.raises(StoreNotFoundError):
                backend.open(generation)
        with pytest.raises(StoreExistsError), backend.create(numbered(0).fields):
            pass
        check_rows(backend.open(), numbered(3))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"x": [1]},
            {"x": [1], "r": [[1]], "y": [1]},
            {"x": [1, 2], "r": [[1]]},
            {"x": [None], "r": [[1]]},
            {"x": [1], "r": [None]},
            {"x": [1], "r": [[1, None]]},
        ],
    )
    def test_rows_that_do_not_fit_leave_nothing(self, backend: Backend, wrong: dict[str, list[Any]]) -> None:
        table = Table.of((Field.dense("x", "i8"), [1, 2]), (Field.ragged("r", "i8"), [[1], []]))
        write(backend, table, [slice(0, 2)])
        before = backend.open()
        with pytest.raises(SchemaError), backend.append() as w:
            w.extend({"x": [7], "r": [[7]]})
            w.extend(wrong)
        view = backend.reopened().open()
        assert view.generation == before.generation
        check_rows(view, table)

    # Commits --------------------------------------------------------------------------------------------------------

    def test_an_exception_leaves_nothing(self, backend: Backend) -> None:
        table = numbered(4)
        with pytest.raises(Boom), backend.create(table.fields) as w:
            w.extend(table.rows)
            raise Boom
        with pytest.raises(StoreNotFoundError):
            backend.open()
        write(backend, table, [slice(0, 4)])
        with pytest.raises(Boom), backend.append() as w:
            w.extend(numbered(2).rows)
            raise Boom
        view = backend.reopened().open()
        assert view.generation == 1
        check_rows(view, table)
        append(backend, numbered(1))
        check_rows(backend.open(), table + numbered(1))

    def test_nothing_is_visible_before_the_block_ends(self, backend: Backend) -> None:
        write(backend, numbered(2), [slice(0, 2)])
        with backend.append() as w:
            w.extend(numbered(3).rows)
            check_rows(backend.reopened().open(), numbered(2))
        check_rows(backend.open(), numbered(2) + numbered(3))

    def test_checkpoints_are_commits_and_abort_keeps_them(self, backend: Backend) -> None:
        table = numbered(6)
        with backend.create(table.fields) as w:
            w.extend(table[:1].rows)
            w.checkpoint()
            check_rows(backend.open(), table[:1])
            w.extend(table[1:3].rows)
            w.checkpoint()
            w.extend(numbered(2).rows)
            w.abort()
        check_rows(backend.reopened().open(), table[:3])
        with pytest.raises(Boom), backend.append() as w:
            w.extend(table[3:5].rows)
            w.checkpoint()
            w.extend(numbered(2).rows)
            raise Boom
        check_rows(backend.open(), table[:5])
        append(backend, table[5:])
        check_rows(backend.open(), table)
        with backend.append() as w:
            w.abort()
            with pytest.raises(OptionError):
                w.extend(table.rows)

    @_examples
    @given(table=tables(), data=st.data())
    def test_every_generation_stays_what_it_was(self, new: New, table: Table, data: st.DataObject) -> None:
        backend = new()
        runs = data.draw(pieces(len(table)))
        shown = []
        for i, run in enumerate(runs):
            if i:
                append(backend, table[run])
            else:
                write(backend, table, [run])
            shown.append((backend.open(), table[: run.stop]))
        again = backend.reopened()
        for view, expected in shown:
            check_rows(view, expected)
            check_rows(again.open(view.generation), expected)
        numbers = [commit.generation for commit in backend.history()]
        assert numbers == sorted({view.generation for view, _ in shown})
        lengths = {view.generation: len(expected) for view, expected in shown}
        assert {commit.generation: commit.n_rows for commit in backend.history()} == lengths
        assert {commit.n_fields for commit in backend.history()} == {len(table.schema)}

    def test_attrs_come_back(self, backend: Backend) -> None:
        attrs = {"lumi": 139.0, "runs": [1, 2], "nested": {"a": None, "é": "ü"}}
        with backend.create(numbered(0).fields, attrs=attrs) as w:
            w.extend(numbered(1).rows)
        assert backend.open().attrs == attrs
        append(backend, numbered(1))
        assert backend.open().attrs == attrs

    # Fields ---------------------------------------------------------------------------------------------------------

    @_examples
    @given(data=st.data())
    def test_fields_are_assigned_replaced_and_dropped(self, new: New, data: st.DataObject) -> None:
        backend = new()
        base = data.draw(tables(max_fields=2, records=False), label="base")
        write(backend, base, data.draw(pieces(len(base))))
        before = backend.open()
        field = data.draw(fields(name=st.just("assigned one")), label="field")
        added = base.with_field(field, data.draw(rows(field, len(base))))
        backend.assign(field, added.rows[field.name])
        check_rows(backend.open(), added)
        other = data.draw(fields(name=st.just("assigned one")), label="other")
        values = data.draw(rows(other, len(base)))
        with pytest.raises(SchemaError):
            backend.assign(other, values)
        check_rows(backend.open(), added)
        backend.assign(other, values, replace=True)
        replaced = base.with_field(other, values)
        check_rows(backend.open(), replaced)
        middle = backend.open()
        more = Table(replaced.schema, {n: data.draw(rows(f, 2)) for n, f in replaced.schema.items()})
        append(backend, more)
        check_rows(backend.open(), replaced + more)
        backend.drop([other.name])
        check_rows(backend.reopened().open(), (replaced + more).without(other.name))
        check_rows(before, base)
        check_rows(middle, replaced)
        with pytest.raises(FieldNotFoundError):
            backend.drop([other.name])

    def test_an_assigned_field_has_as_many_rows_as_the_store(self, backend: Backend) -> None:
        write(backend, numbered(3), [slice(0, 3)])
        for wrong in ([], [1, 2], [1, 2, 3, 4]):
            with pytest.raises(SchemaError):
                backend.assign(Field.dense("y", "i8"), wrong)
        with pytest.raises(SchemaError):
            backend.assign(Field.dense("y", "i8"), [1, None, 2])
        check_rows(backend.open(), numbered(3))

    def test_a_dropped_field_may_come_back_as_another(self, backend: Backend) -> None:
        table = numbered(4)
        write(backend, table, [slice(0, 2), slice(2, 4)])
        first = backend.open()
        backend.drop(["r", "t"])
        field = Field.string("r", levels=1)
        backend.assign(field, [["a"], [], ["b", ""], [""]])
        with pytest.raises(FieldNotFoundError):
            backend.open().read("t", 0, 1)
        view = backend.reopened().open()
        assert list(view.schema) == ["x", "c", "r"]
        assert rows_of(view, "r") == [["a"], [], ["b", ""], [""]]
        check_rows(first, table)

    def test_computed_fields_are_computed_for_rows_that_come_later(self, backend: Backend) -> None:
        table = numbered(3)
        write(backend, table, [slice(0, 3)])
        backend.assign_expression("y", "x * 2 + 1")
        assert rows_of(backend.open(), "y") == [1, 3, 5]
        assert backend.open().schema["y"].expression
        append(backend, numbered(2))
        assert rows_of(backend.reopened().open(), "y") == [1, 3, 5, 1, 3]

    # Keeping house --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", KINDS)
    @_examples
    @given(data=st.data())
    def test_compacting_keeps_rows_and_their_numbers(self, new: New, kind: str, data: st.DataObject) -> None:
        backend = new()
        table = data.draw(tables(max_fields=2, field=partial(fields, kinds=[kind])), label="table")
        *runs, last = data.draw(pieces(len(table)))
        write(backend, table[: last.start], runs or [slice(0, 0)])
        field = data.draw(fields(name=st.just("assigned one")), label="field")
        table = table.with_field(field, data.draw(rows(field, len(table))))
        written = table[: last.start]
        backend.assign(field, written.rows[field.name])
        before = backend.open()
        backend.compact()
        check_rows(backend.open(), written)
        check_rows(before, written)
        check_rows(backend.reopened().open(before.generation), written)
        append(backend, table[last])
        backend.compact()
        check_rows(backend.reopened().open(), table)
        check_rows(before, written)
        assert len(backend.history()) >= 2

    def test_vacuum_keeps_what_is_named(self, backend: Backend) -> None:
        table = numbered(6)
        write(backend, table, [slice(0, 2), slice(2, 4), slice(4, 6)])
        backend.drop(["r"])
        backend.compact()
        newest = backend.open().generation
        backend.vacuum(keep=100)
        check_rows(backend.reopened().open(1), table[:2])
        check_rows(backend.open(), table.without("r"))
        backend.vacuum(keep=2)
        kept = [commit.generation for commit in backend.history()]
        assert len(kept) == 2
        assert kept[-1] == newest == backend.open().generation
        for generation in kept:
            check_rows(backend.reopened().open(generation), table.without("r") if generation > 3 else table)
        with pytest.raises(StoreNotFoundError):
            backend.reopened().open(1)
        backend.vacuum(keep=1)
        check_rows(backend.reopened().open(), table.without("r"))
        append(backend, numbered(1).without("r"))
        check_rows(backend.open(), (table + numbered(1)).without("r"))

    # Views ----------------------------------------------------------------------------------------------------------

    def test_a_view_does_not_change(self, backend: Backend) -> None:
        table = numbered(4)
        write(backend, table, [slice(0, 2), slice(2, 4)])
        view = backend.open()
        read = {name: view.read(name, 0, 4) for name in view.schema}
        append(backend, numbered(3))
        backend.assign(Field.dense("x", "f4"), [0.5] * 7, replace=True)
        backend.drop(["r"])
        backend.compact()
        check_rows(view, table)
        for name, data in read.items():
            assert to_python(view.schema[name], data) == table.rows[name]
        assert view.generation == 2

    def test_results_are_read_only_or_copies(self, backend: Backend) -> None:
        table = numbered(2000)
        write(backend, table, [slice(0, 1900), slice(1900, 2000)])
        view = backend.open()
        for name in view.schema:
            for data in (view.read(name, 5, 50), view.read(name, 1800, 1950), view.take(name, np.arange(5, 50))):
                for array in arrays(data):
                    if array.flags.writeable:
                        array[...] = 1
        check_rows(view, table)
        check_rows(backend.reopened().open(), table)

    def test_a_view_is_pickled_by_reference(self, backend: Backend) -> None:
        table = numbered(3000)
        write(backend, table, [slice(0, 2900), slice(2900, 3000)])
        view = backend.open()
        check_rows(view, table)
        raw = pickle.dumps(view)
        assert len(raw) < 2000, "a reference holds no data"
        append(backend, numbered(1))
        again = pickle.loads(raw)
        assert again.generation == view.generation
        check_rows(again, table)

    def test_another_process_sees_the_same(self, backend: Backend) -> None:
        if not self.other_processes:
            pytest.skip("no other process can open this store")
        table = numbered(10)
        write(backend, table, [slice(0, 4), slice(4, 10)])
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            found = pool.submit(_read_elsewhere, backend.open()).result(120)
        assert found == table.rows
