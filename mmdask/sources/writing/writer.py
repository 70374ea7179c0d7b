"""`Writer`: rows into a store. Nothing is visible before a checkpoint, or the end of the block."""

from __future__ import annotations

import contextlib
import copy
import math
import operator
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

import numpy.typing as npt

from mmdask.display import parse_nbytes
from mmdask.errors import OptionError, SchemaError
from mmdask.schema import Field, FieldData
from mmdask.sources.given.coerce import aux_data, by_field, fields_of, to_field_data
from mmdask.sources.given.records import check_counts
from mmdask.sources.writing.allocated import Allocated
from mmdask.sources.writing.part_writer import PartWriter, rows_within, stored_nbytes
from mmdask.sources.writing.row_fields import RowFields
from mmdask.sources.writing.transaction import Transaction
from mmdask.store.attrs import check_attrs
from mmdask.store.layer import Scalar
from mmdask.store.manifest import Manifest, store_root
from mmdask.store.zarr.form import Form

__all__ = ["PART_NBYTES", "Writer"]

#: a part is closed when it has grown to this
PART_NBYTES = 1 << 30
#: rows given one by one are kept until there are this many, or this many bytes
_PENDING_ROWS = 4096
_PENDING_NBYTES = 16 << 20
#: how much a value counts for, besides its bytes or length
_VALUE_NBYTES = 64


class Writer:
    """Rows on their way into a store; made by `create` and `append`, used as a context manager.

    When the block ends, one commit makes all rows visible, durably; `checkpoint` does so before. When the block raises,
    or the process dies, the store is as it was at the last checkpoint, or before the block. A writer belongs to one
    thread and one process; others append through writers of their own, or fill what `allocate` gave.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        base: Manifest | None,
        *,
        fields: Iterable[Field] = (),
        labels: Mapping[str, Scalar] | None = None,
        attrs: Mapping[str, Any] | None = None,
        aux: Mapping[str, Any] | None = None,
        part_nbytes: int | str = PART_NBYTES,
        form: Form | None = None,
    ) -> None:
        self.path = store_root(path)
        self._part_nbytes = parse_nbytes(part_nbytes)
        if not self._part_nbytes:
            raise OptionError("part_nbytes= is at least 1 byte")
        if aux is not None and not isinstance(aux, Mapping):
            raise OptionError(f"aux is a mapping of names to arrays, got {type(aux).__name__}")
        rows_of_aux = {name: aux_data(name, value) for name, value in (aux or {}).items()}
        noted = check_attrs({} if attrs is None else attrs)
        self._transaction = Transaction(self.path, base, noted, rows_of_aux, form)
        self._fields = RowFields(self.path, fields, labels or {}, base.schema if base else None)
        self._pending: dict[str, list[Any]] = {}
        self._n_pending = self._pending_nbytes = 0
        self._part: PartWriter | None = None
        self._state: Literal["new", "open", "closed", "aborted"] = "new"
        self._failure: BaseException | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Writer:
        if self._state != "new":
            raise OptionError("a writer is used once; make another one by mm.append(path)")
        self._transaction.begin()
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._state != "open" or os.getpid() != self._pid:
            return  # in a forked child the files are its parent's
        try:
            if error is None:
                self._commit()
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._state = "closed"
            self._drop()
            if error is not None:
                error.add_note(self._transaction.outcome())

    # Rows ------------------------------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: a value for every field, by name.

        Numbers are dense fields, texts strings, lists and arrays of one axis ragged, arrays of more axes dense; a
        mapping, or a list of mappings, is a record, of which each member is a field. None is a missing value.

        Raises
        ------
        SchemaError
            When a field is missing or unknown. Values that do not fit are found when the rows are written, together.
        OSError
            When the system refuses to write; nothing after the last checkpoint can be committed then.
        """
        self._check_open()
        if self._part is not None and self._part.n_allocated is not None:
            self._begin_rows(row)
        fields = self._fields
        if type(row) is not dict and not isinstance(row, Mapping):
            row = by_field(row, fields.given)
        expected: Mapping[str, Any] = self._pending or fields.given
        if (row.keys() != expected.keys() and (self._pending or fields.settled)) or not row:
            row = by_field(row, fields.given) if fields.settled else row
            fields.check(row, expected)
        if not self._pending:
            self._pending = {name: [] for name in row}
        for name, rows in self._pending.items():
            value = row[name]
            if not isinstance(value, int | float):
                # The caller may go on to change what it gave.
                value = value if isinstance(value, str) else copy.deepcopy(value)
                self._pending_nbytes += getattr(value, "nbytes", 0) or len(value) if hasattr(value, "__len__") else 0
            rows.append(value)
        self._pending_nbytes += _VALUE_NBYTES * len(row)
        self._n_pending += 1
        if self._n_pending == _PENDING_ROWS or self._pending_nbytes >= _PENDING_NBYTES:
            self._flush()

    def extend(self, rows: Mapping[str, Any]) -> None:
        """Add many rows: for every field an array or list with one entry per row; or one array of records.

        A part ends where it has grown to ``part_nbytes``, also within these rows.

        Raises
        ------
        SchemaError
            When fields are missing or unknown, differ in length, or do not fit the store's fields. Nothing was added
            then, and the block may go on.
        OSError
            When the system refuses to write; nothing after the last checkpoint can be committed then.
        ConflictError
            When files of this block were removed meanwhile, as by a vacuum with a short ``grace``.
        """
        self._check_open()
        if self._pending and not self._fields.settled:
            self._learn(rows)
        self._flush()
        if self._part is not None and self._part.n_allocated is not None:
            self._begin_rows(by_field(rows))
        self._write(rows)

    def allocate(
        self, name: str, rows: int, *, shape: tuple[int, ...] = (), dtype: npt.DTypeLike | None = None
    ) -> Allocated:
        """Make rows of a dense field that can be filled in any order, by several processes at once.

        They form a part of their own, together with other fields that are allocated next with as many rows, and with
        rows of all fields that are not allocated, given by `append` and `extend`. The part ends, and can no longer be
        filled, when rows of another part begin, at a checkpoint, and with the block; all its fields must have all
        their rows by then. Rows that nothing was assigned to are zeros.

        Parameters
        ----------
        name : str
            Of a dense field.
        rows : int
            How many.
        shape : tuple of int
            Of one row, where the field is not declared yet.
        dtype : dtype-like, optional
            Where the field is not declared yet.

        Returns
        -------
        Allocated
            Assign to it as to a numpy array of shape ``(rows, *shape)``, here or, pickled, in other processes.

        Raises
        ------
        SchemaError
            When the field is not dense, or is not of this dtype and shape; or when the part of earlier allocated rows
            ends here and lacks some fields.
        OSError
            When the system refuses a file of this size. Sparse files are used: a disk may also be found full by an
            assignment.

        Examples
        --------
        >>> import mmdask as mm
        >>> with mm.create("images.mm") as w:
        ...     image = w.allocate("image", 3, shape=(2, 2), dtype="f4")
        ...     w.extend({"name": ["a", "b", "c"]})
        ...     image[2] = [[1, 2], [3, 4]]
        ...     image[:2, 0] = 5
        >>> mm.open("images.mm")[2]["image"].tolist()
        [[1.0, 2.0], [3.0, 4.0]]
        """
        self._check_open()
        n = _count(rows)
        field = self._fields.to_allocate(name, shape, dtype)
        if n * field.item_nbytes >= 1 << 62:
            raise SchemaError(f"{n} rows of {name!r} ({field.describe()}) are more than any disk holds")
        part = self._part
        joins = part is not None and part.n_allocated == n and name not in self._fields.allocated
        if part is None or not joins or part.rows or self._pending:
            self._flush()
            self._finish_part()
            part = None
        try:
            part = part or self._new_part(n)
            path = part.allocate(field)
        except BaseException as error:
            self._fail(error)
            raise
        self._fields.allocate(field)

        def is_open() -> bool:
            mine = self._state == "open" and self._part is part and os.getpid() == self._pid
            return mine and self._failure is None

        return Allocated(path, field, n, self._fail, is_open)

    # Commits ---------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Commit all rows so far, durably; those that follow begin another part.

        Whatever happens to the block later, these rows stay. The first checkpoint of `create` makes the store exist.

        Returns
        -------
        int
            The generation that the store has now. Without new rows nothing is committed.

        Raises
        ------
        SchemaError
            When allocated rows have not all their fields; complete them, and call it again.
        ConflictError
            When another process changed the store so that the rows do not fit.
        OSError
            When the system refuses; nothing more can be committed by this writer then.

        Examples
        --------
        >>> import mmdask as mm
        >>> with mm.create("run.mm") as w:
        ...     for i in range(3):
        ...         w.append({"x": i})
        ...         if i == 1:
        ...             generation = w.checkpoint()
        >>> generation, len(mm.open("run.mm", generation=generation)), len(mm.open("run.mm"))
        (1, 2, 3)
        """
        self._check_open()
        self._commit()
        assert self._transaction.newest is not None
        return self._transaction.newest.generation

    def abort(self) -> None:
        """Drop all rows since the last checkpoint and close the writer; the block may end without an error.

        Without a checkpoint, a store that was to be created does not exist.

        Raises
        ------
        OptionError
            Outside the block, and a second time.
        """
        self._check_state()
        self._state = "aborted"
        self._drop()

    # What may come next ----------------------------------------------------------------------------------------------

    def _check_state(self) -> None:
        if self._state == "aborted":
            raise OptionError("this writer was aborted, it takes no more; open another one by mm.append(path)")
        if self._state != "open":
            raise OptionError("a writer is used inside its block: with mm.append(path) as w: ...")
        if os.getpid() != self._pid:
            raise OptionError(
                f"this writer belongs to process {self._pid}, which was forked; a child appends through a writer of "
                "its own: with mm.append(path) as w: ..."
            )

    def _check_open(self) -> None:
        self._check_state()
        if self._failure is not None:
            which = "after the last checkpoint" if self._transaction.n_committed else "of it"
            raise OptionError(
                f"rows of this block were lost by an earlier error ({self._failure}), so nothing {which} will be "
                "committed; begin the block again"
            ) from self._failure

    def _fail(self, error: BaseException) -> None:
        """Remember why nothing more can be committed: rows are lost, or the system refused to write."""
        if self._failure is None:
            self._failure = error

    def _begin_rows(self, names: Iterable[str]) -> None:
        """End the part of allocated rows, if it is complete, so that rows of these fields begin another."""
        part, fields = self._part, self._fields
        assert part is not None
        complete = part.rows + self._n_pending == part.n_allocated
        if fields.settled:
            complete |= not fields.given
        elif not self._pending:
            complete |= any(name in fields.allocated for name in names)  # then it has no other fields
        if complete:
            self._flush()
            self._finish_part()

    def _learn(self, rows: Any) -> None:
        """Let the next rows say what fields are, where those before do not: they are empty lists."""
        given = self._fields.given
        try:
            fields_of(self._pending, given)
        except SchemaError:
            with contextlib.suppress(SchemaError):
                self._fields.learn(field for field, _ in fields_of(rows, given).values())

    # Writing ---------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        pending, n = self._pending, self._n_pending
        first = self._transaction.rows + (self._part.rows if self._part is not None else 0)
        self._pending, self._n_pending, self._pending_nbytes = {}, 0, 0
        if not pending:
            return
        try:
            self._write(pending)
        except BaseException as error:
            self._fail(error)
            if isinstance(error, SchemaError):
                error.add_note(
                    f"it is the last row that was appended, row {first:,} of this block"
                    if n == 1
                    else f"it is among the last {n:,} rows that were appended, of which row 0 is row {first:,} of this "
                    "block"
                )
            raise

    def _write(self, rows: Any) -> None:
        fields = self._fields
        plain = by_field(rows, fields.given)
        if fields.settled:
            fields.check(plain, fields.given)
            converted = {name: to_field_data(name, value, fields.given[name]) for name, value in plain.items()}
            if fields.has_records:
                check_counts(converted, fields.given)
        else:
            converted = fields_of(rows, fields.given)
            fields.check(converted, fields.given, more=True)
        lengths = {name: len(data) for name, (_, data) in converted.items()}
        if len(set(lengths.values())) > 1:
            raise SchemaError(
                "fields differ in length: " + ", ".join(f"{name} has {n} rows" for name, n in lengths.items())
            )
        n = max(lengths.values(), default=0)
        if not fields.settled and not n and any(isinstance(value, list | tuple) for value in plain.values()):
            return  # empty lists do not say what their rows would be
        part = self._part
        if part is not None and part.n_allocated is not None and part.rows + n > part.n_allocated:
            raise SchemaError(
                f"{n} rows for a part of {part.n_allocated} allocated rows, of which {part.n_allocated - part.rows} "
                "are left to be given; the rows of another part are given after these"
            )
        fields.settle(field for field, _ in converted.values())
        try:
            self._write_data({name: data for name, (_, data) in converted.items()}, n)
        except BaseException as error:
            self._fail(error)  # some fields may have the rows and others not
            raise

    def _write_data(self, data: Mapping[str, FieldData], rows: int) -> None:
        start, left = 0, sum(map(stored_nbytes, data.values()))
        while start < rows:
            part = self._part or self._new_part()
            room = math.inf if part.n_allocated is not None else self._part_nbytes - part.nbytes
            stop, nbytes, run = rows, left, data
            if left > room:
                stop = rows_within(data, start, rows, room)
            if stop - start < rows:
                run = {name: d[start:stop] for name, d in data.items()}
                nbytes = sum(map(stored_nbytes, run.values()))
            part.write(self._fields.given, run, nbytes)
            if part.n_allocated is None and part.nbytes >= self._part_nbytes:
                self._finish_part()
            start, left = stop, left - nbytes

    def _new_part(self, n_allocated: int | None = None) -> PartWriter:
        constants = self._fields.constants.values()
        self._part = PartWriter(self.path, self._transaction.new_layer(), constants, n_allocated)
        return self._part

    def _finish_part(self) -> None:
        part = self._part
        if part is None:
            return
        given = self._fields.given
        if part.n_allocated is not None and part.rows != part.n_allocated and given:
            raise SchemaError(
                f"{part.n_allocated} allocated rows of {', '.join(map(repr, sorted(self._fields.allocated)))} end "
                f"here, and there are {part.rows} rows of {', '.join(map(repr, given))}: give the others by extend"
            )
        try:
            layer = part.finish()
        except BaseException as error:
            self._fail(error)
            raise
        if layer is not None:
            self._transaction.add(layer)
            self._fields.settle(given.values())
        self._part = None
        self._fields.end_part(part.labels)

    # Committing ------------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._check_open()
        self._flush()
        self._finish_part()
        schema = self._fields.schema()
        if not schema:
            raise SchemaError(
                "a store has one field or more, and no rows said what they are: declare them, as in "
                "mm.create(path, fields=[mm.Field.dense('x', 'f4')])"
            )
        try:
            self._transaction.commit(schema)
        except BaseException as error:
            self._fail(error)
            raise

    def _drop(self) -> None:
        """Take away what was not committed."""
        if self._part is not None:
            self._part.discard()
            self._part = None
        self._pending = {}
        self._transaction.drop()


def _count(rows: object) -> int:
    try:
        n = -1 if isinstance(rows, bool) else operator.index(rows)  # type: ignore[arg-type]
    except TypeError:
        n = -1
    if n < 0:
        raise OptionError(f"rows is how many to allocate, got {rows!r}")
    return n
