"""Rows into a store: `create` and `append`. Nothing is visible before the block ends well."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

from mmdask.errors import OptionError, SchemaError, StoreExistsError
from mmdask.schema import Field, FieldData, Schema
from mmdask.sources.coerce import by_field, to_field_data
from mmdask.store.commit import add_parts, block_rows_for, commit
from mmdask.store.layer import Layer, Scalar, check_constant, new_id
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.manifest import CONVERSION, MANIFEST, Manifest, Part, read_manifest, store_root
from mmdask.store.system import SYSTEM

__all__ = ["PART_NBYTES", "Writer", "append", "create", "new_store", "scalar_field"]

#: a part is closed when it has grown to this
PART_NBYTES = 1 << 30
#: rows given one by one are kept until there are this many, or this many bytes
_PENDING_ROWS = 4096
_PENDING_NBYTES = 16 << 20
#: with more fields than this their files are opened for each write
_MAX_OPEN_FIELDS = 200


class Writer:
    """Rows on their way into a store; made by `create` and `append`, used as a context manager.

    When the block ends, one commit makes all rows visible, durably. When it raises, or the process dies, the store is
    as before.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Iterable[Field] | None,
        labels: Mapping[str, Scalar] | None,
        base: Manifest | None,
    ) -> None:
        self.path = store_root(path)
        self._base = base
        self._labels = dict(labels or {})
        self._fields: dict[str, Field] = {f.name: f for f in fields or ()}
        self._constants: dict[str, Field] = {}
        for name, value in self._labels.items():
            field = scalar_field(name, value) if base is None else base.schema[name]
            check_constant(field, value)
            self._constants[name] = field
        if base is not None:
            self._fields = {name: f for name, f in base.schema.items() if name not in self._constants}
        for name in self._constants:
            if name in self._fields:
                raise SchemaError(f"{name!r} is both a field and a label")
        self._settled = base is not None
        self._pending: dict[str, list[Any]] = {}
        self._n_pending = 0
        self._pending_nbytes = 0
        self._layer: LayerWriter | None = None
        self._writers: dict[str, FieldWriter] = {}
        self._finished: list[Layer] = []
        self._state: Literal["new", "open", "closed"] = "new"
        self._failure: BaseException | None = None
        self._committing = False
        self._pid = os.getpid()

    def __enter__(self) -> Writer:
        if self._state != "new":
            raise OptionError("a writer is used once; make another one by mm.append(path)")
        if self._base is None:
            new_store(self.path)
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = "closed"
        if os.getpid() != self._pid:
            return  # a forked child leaves the block; the files are its parent's
        committed = False
        try:
            if error is None:
                self._commit()
                committed = True
        finally:
            if self._layer is not None:
                self._layer.discard()
            if not committed:
                self._remove_parts()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: a value for every field, by name.

        Numbers are dense fields, texts strings, lists and arrays of one axis ragged, arrays of more axes dense.

        Raises
        ------
        SchemaError
            When a field is missing or unknown.
        """
        self._check_open()
        if self._pending:
            self._check_names(row, self._pending)
        elif self._settled:
            self._check_names(row, self._fields)
        if not self._pending:
            self._pending = {name: [] for name in row}
        for name, rows in self._pending.items():
            value = row[name]
            # The caller may go on to change what it gave.
            rows.append(value if isinstance(value, str | int | float) else copy.deepcopy(value))
            self._pending_nbytes += getattr(value, "nbytes", 64)
        self._n_pending += 1
        if self._n_pending == _PENDING_ROWS or self._pending_nbytes >= _PENDING_NBYTES:
            self._flush()

    def extend(self, rows: Mapping[str, Any]) -> None:
        """Add many rows: for every field an array or list with one entry per row.

        Raises
        ------
        SchemaError
            When fields are missing or unknown, differ in length, or do not fit the store's fields.
        """
        self._check_open()
        self._flush()
        self._write(by_field(rows))

    def _flush(self) -> None:
        pending, n = self._pending, self._n_pending
        self._pending, self._n_pending, self._pending_nbytes = {}, 0, 0
        if not pending:
            return
        try:
            self._write(pending)
        except BaseException as error:
            self._failure = error
            error.add_note(f"it is among the last {n} rows that were appended")
            raise

    def _check_open(self) -> None:
        if self._state != "open":
            raise OptionError("a writer is used inside its block: with mm.append(path) as w: ...")
        self._check_failure()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise OptionError(
                f"rows of this block were lost by an earlier error ({self._failure}), so nothing of it will be "
                "committed; begin the block again"
            ) from self._failure

    def _check_names(self, given: Mapping[str, Any], expected: Mapping[str, Any], *, more: bool = False) -> None:
        """Raise unless `given` has all names that are expected, and, unless there may be more, no others."""
        for name in given:
            if name in expected:
                continue
            if name in self._constants:
                raise SchemaError(f"{name!r} is a label of this writer, the same for all rows; rows do not give it")
            if not more:
                known = Schema(self._fields.values()) if self._settled else None
                where = f" in {self.path}"
                raise SchemaError(known.unknown(name, where) if known else f"no field {name!r} in the rows before")
        missing = [name for name in expected if name not in given]
        if missing:
            raise SchemaError(f"no value for {', '.join(map(repr, missing))}; every row gives every field")

    def _write(self, rows: Mapping[str, Any]) -> None:
        self._check_names(rows, self._fields, more=not self._settled)
        converted = {name: to_field_data(name, value, self._fields.get(name)) for name, value in rows.items()}
        lengths = {name: len(data) for name, (_, data) in converted.items()}
        if len(set(lengths.values())) > 1:
            raise SchemaError(
                "fields differ in length: " + ", ".join(f"{name} has {n} rows" for name, n in lengths.items())
            )
        if not self._settled:
            if not any(lengths.values()) and any(isinstance(value, list | tuple) for value in rows.values()):
                return  # empty lists do not say what their rows would be
            self._fields = {name: field for name, (field, _) in converted.items()}
            self._settled = True
        try:
            self._write_data({name: data for name, (_, data) in converted.items()})
        except BaseException as error:
            self._failure = error  # some fields may have the rows and others not
            raise

    def _write_data(self, data: Mapping[str, FieldData]) -> None:
        if self._layer is None:
            self._layer = LayerWriter(self.path, new_id())
            self._writers = {name: self._start(self._layer, field) for name, field in self._fields.items()}
            for name, value in self._labels.items():
                self._layer.constant(self._constants[name], value)
        for name, d in data.items():
            self._writers[name].write(d)
            self._rest(self._writers[name])
        if self._layer.nbytes >= PART_NBYTES:
            self._finish_part()

    def _start(self, layer: LayerWriter, field: Field) -> FieldWriter:
        writer = layer.field(field)
        self._rest(writer)
        return writer

    def _rest(self, writer: FieldWriter) -> None:
        if len(self._fields) > _MAX_OPEN_FIELDS:
            writer.close()

    def _finish_part(self) -> None:
        if self._layer is None:
            return
        for name, writer in self._writers.items():
            if writer.field.kind == "category":
                self._fields[name] = _with_more_labels(self._fields[name], writer.labels)
        if self._layer.rows:
            self._finished.append(self._layer.finish())
        else:
            self._layer.discard()
        self._layer = None

    def _schema(self) -> Schema:
        constants = []
        for name, field in self._constants.items():
            value = self._labels[name]
            constants.append(_with_more_labels(field, (str(value),)) if field.kind == "category" else field)
        return Schema([*self._fields.values(), *constants])

    def _commit(self) -> None:
        self._check_failure()
        self._flush()
        self._finish_part()
        if not self._finished and self._base is not None:
            return  # no rows: nothing changes
        schema = self._schema()
        parts = [Part(layer.rows, (layer.id,), layer.nbytes) for layer in self._finished]
        block_rows = block_rows_for(self._finished)
        creating = self._base is None

        def change(newest: Manifest | None) -> Manifest:
            if creating and newest is not None:
                self._committing = False
                raise StoreExistsError(f"{self.path}: another process made a store here; mm.append adds to it")
            return add_parts(newest, schema, parts, block_rows=block_rows)

        self._committing = True
        commit(self.path, change)

    def _remove_parts(self) -> None:
        """Take away what was not committed, and the folder of a store that never came to be."""
        if self._committing:
            return  # it may have failed behind its commit point; `vacuum` finds out
        for layer in self._finished:
            SYSTEM.remove_tree(layer.path)
        if self._base is None:
            # Both refuse folders that others have put something into.
            for folder in (os.path.join(self.path, "parts"), self.path):
                with contextlib.suppress(OSError):
                    SYSTEM.rmdir(folder)


def _with_more_labels(field: Field, labels: Iterable[str]) -> Field:
    return field.with_labels(dict.fromkeys((*field.labels, *labels)))


def scalar_field(name: str, value: object) -> Field:
    """The field of a label: text is a category; a bool, int or float is dense.

    Raises
    ------
    SchemaError
        For anything else.
    """
    if isinstance(value, str):
        return Field.category(name, [value])
    for kind, dtype in ((bool, "?"), (int, "i8"), (float, "f8")):
        if type(value) is kind:
            return Field.dense(name, dtype)
    raise SchemaError(f"label {name!r}: text, a bool, an int or a float, got {type(value).__name__}")


def create(
    path: str | os.PathLike[str], *, fields: Iterable[Field] | None = None, labels: Mapping[str, Scalar] | None = None
) -> Writer:
    """Start a new store.

    Parameters
    ----------
    path : path
        Where it will be; nothing may be there yet.
    fields : iterable of Field, optional
        What rows are made of. Fields not given here are taken from the first rows.
    labels : mapping, optional
        Values that are the same for all rows of this block (process, year); they become fields.

    Returns
    -------
    Writer
        A context manager with `append` and `extend`.

    Raises
    ------
    StoreExistsError
        When something is at `path`.

    Examples
    --------
    >>> import mmdask as mm
    >>> with mm.create("events.mm", labels={"process": "ttbb"}) as w:
    ...     w.append({"met": 41.5, "hits": [1, 2]})
    ...     w.extend({"met": [7.0, 12.5], "hits": [[], [3]]})
    >>> len(mm.open("events.mm"))
    3
    """
    root = store_root(path)
    if os.path.lexists(root):
        check_free(root)
    return Writer(root, fields, labels, None)


def append(path: str | os.PathLike[str], *, labels: Mapping[str, Scalar] | None = None) -> Writer:
    """Add rows to a store.

    Parameters
    ----------
    path : path
        An existing store.
    labels : mapping, optional
        Values of fields that are the same for all rows of this block.

    Returns
    -------
    Writer
        A context manager with `append` and `extend`. Rows appended by other processes at the same time all survive.

    Raises
    ------
    StoreNotFoundError
        When there is no store at `path`.
    FieldNotFoundError
        When a label is no field of the store.
    SchemaError
        When a label does not fit its field.

    Examples
    --------
    >>> import mmdask as mm
    >>> with mm.append("events.mm", labels={"process": "ttH"}) as w:
    ...     w.extend({"met": [33.0], "hits": [[4, 5]]})
    """
    return Writer(path, None, labels, read_manifest(path))


def new_store(root: str) -> None:
    """Make the folder of a new store, or take over what a dead writer left of one.

    Raises
    ------
    StoreExistsError
        When something else is there.
    """
    if os.path.lexists(root):
        check_free(root)
        return
    parent = os.path.dirname(root)
    try:
        SYSTEM.mkdir(root)
    except FileNotFoundError:
        raise OptionError(f"cannot make {root}: there is no folder {parent}") from None
    except FileExistsError:  # another process began here at the same time; the commit says whose store it is
        return
    SYSTEM.fsync_folder(parent)


def check_free(root: str) -> None:
    """Raise `StoreExistsError` unless a folder holds nothing but what a dead writer left of a store."""
    if not os.path.isdir(root):
        raise StoreExistsError(f"{root} exists: it is a file; remove it or choose another path")
    names = set(os.listdir(root))
    if MANIFEST in names:
        raise StoreExistsError(f"{root} exists: it is a store; mm.append adds to it, or remove it first")
    if CONVERSION in names:
        raise StoreExistsError(f"{root} exists: an unfinished conversion; finish it with the same call, or remove it")
    ours = {n for n in names if n in ("parts", "history", "cache", ".lock") or n.startswith(f"{MANIFEST}.tmp-")}
    if names != ours:
        raise StoreExistsError(f"{root} exists, and holds other things than a store; choose another path")
