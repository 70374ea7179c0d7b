"""Write a layer: beside its place, synced, then renamed into it.

So a folder of a layer's name is complete or absent, whatever happens to the process or the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from mmdask.errors import FormatError, SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, SHAPE_DTYPE, VALID_DTYPE, Field, FieldData
from mmdask.store.arrays.npy import EXTENT, ArraySpec, ArrayWriter
from mmdask.store.arrays.offsets_writer import OffsetsWriter
from mmdask.store.grains import COLUMNS, GRAIN_DTYPE, Held, Tally, has_order, n_grains
from mmdask.store.layer import (
    ID_PATTERN,
    Layer,
    Merged,
    Scalar,
    Source,
    StoredField,
    check_constant,
    check_text,
    dump_layer,
    layer_path,
    parse_layer,
    read_layer,
    wrong_shapes,
)
from mmdask.store.storage import LayerFiles, storage_of
from mmdask.store.system import SYSTEM
from mmdask.store.zarr.form import GROUP, METADATA, Form, form_of, rounded
from mmdask.store.zarr.scratch import FilledWriter, Spool
from mmdask.store.zarr.writer import ZarrWriter

__all__ = ["FieldWriter", "LayerWriter"]

Writer = ArrayWriter | ZarrWriter


class FieldWriter:
    """Append runs of rows to one field of a layer, or, if it is dense, let others fill as many `rows`."""

    def __init__(
        self,
        files: LayerFiles,
        field: Field,
        file: Callable[[str], str],
        rows: int | None = None,
        form: Form | None = None,
        before: list[OffsetsWriter] | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.field = field
        self.rows = rows or 0
        self._spool = spool or Spool(files)
        self._files, self._form, self._before = files, form, [] if before is None else before
        self._new_file = file
        dtype = field.dtype
        self._labels: dict[str, int] = {}
        if field.kind == "category":
            dtype = np.dtype("u1")
            self._labels = {label: i for i, label in enumerate(field.labels)}
        self.offsets: list[Writer] = []
        self.shapes: Writer | None = None
        #: by depth; a file begins with the first value that is missing there
        self.valid: dict[int, Writer] = {}
        self._ends = [0] * field.n_offsets
        #: what its values are, gathered as they come
        self.tally = Tally(field) if has_order(field.kind, field.dtype) and 0 not in field.shape else None
        with contextlib.ExitStack() as made:

            def make(file: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (), n: int | None = None) -> Writer:
                array = self._new_array(file, dtype, shape, n)
                made.callback(array.close)
                return array

            for i in range(field.n_offsets):
                self.offsets.append(self._new_offsets(file(f".offsets{i or ''}")))
                made.callback(self.offsets[-1].close)
            if field.kind == "shaped":
                self.shapes = make(file(".shapes"), SHAPE_DTYPE, (field.axes,))
            self._file = file("")
            self.values = make(self._file, dtype, field.shape, rows)
            for offsets in self.offsets:
                offsets.append(np.zeros(1, OFFSET_DTYPE))
            made.pop_all()
        if rows is not None and self.tally is not None:
            self.values.look = self.tally.add_elements

    def _new_array(
        self, file: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (), rows: int | None = None
    ) -> Writer:
        if self._form is None:
            return ArrayWriter(self._files.folder, file, dtype, shape, rows)
        if rows is not None:
            return FilledWriter(self._files, file, dtype, shape, self._form, self._spool, rows)
        return ZarrWriter(self._files, file, dtype, shape, self._form, self._spool)

    def _new_offsets(self, file: str) -> Writer:
        if self._form is not None:
            return self._new_array(file, OFFSET_DTYPE)
        writer = OffsetsWriter(self._files.folder, file, self._before)
        self._before.append(writer)
        return writer

    @property
    def arrays(self) -> list[Writer]:
        """All its files."""
        return [*self.offsets, *([self.shapes] if self.shapes else []), *self.valid.values(), self.values]

    def write(self, data: FieldData) -> None:
        """Append rows. `data` must have this field's dtype, shape and levels; it is copied to disk at once."""
        f = self.field
        values = data.values
        if f.kind == "string":
            check_text(f.name, data)
        if f.kind == "category":
            values = self._codes(data)
        elif values.dtype != f.dtype or values.shape[1:] != f.shape or len(data.offsets) != f.n_offsets:
            raise SchemaError(
                f"field {f.name!r} is {f.describe()}; got {values.dtype} {values.shape[1:]} "
                f"with {len(data.offsets)} levels"
            )
        if self._form is not None:
            values = rounded(values, self._form.keepbits)
        self._check_shapes(data)
        self._check_valid(data)
        for i, offsets in enumerate(data.offsets):
            length = data.length(i + 1)
            if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != length:
                raise SchemaError(f"field {f.name!r}: offsets must start at 0 and end at {length}, the items below")
            if (np.diff(offsets) < 0).any():
                raise SchemaError(f"field {f.name!r}: offsets must not decrease")
        for depth in f.optional:
            self._write_valid(depth, data)
        for i, offsets in enumerate(data.offsets):
            ends = offsets[1:] + self._ends[i] if self._ends[i] else offsets[1:]
            self.offsets[i].append(ends.astype(OFFSET_DTYPE, copy=False))
            self._ends[i] += data.length(i + 1)
        if self.shapes is not None and data.shapes is not None:
            self.shapes.append(data.shapes.astype(SHAPE_DTYPE, copy=False))
        self.values.append(values)
        if self.tally is not None:
            self.tally.add(data, values)
        self.rows += len(data)

    def _check_shapes(self, data: FieldData) -> None:
        f = self.field
        if f.kind != "shaped":
            return
        if data.shapes is None or data.shapes.shape != (len(data), f.axes):
            raise SchemaError(f"field {f.name!r}: rows of {f.axes} axes need shapes ({len(data)}, {f.axes})")
        if wrong_shapes(data.shapes, data.counts).any():
            raise SchemaError(f"field {f.name!r}: a row has as many items as the product of its shape")

    def _check_valid(self, data: FieldData) -> None:
        for depth, valid in enumerate(data.valid):
            if valid is None:
                continue
            if valid.dtype != VALID_DTYPE or valid.shape != (data.length(depth),):
                raise SchemaError(f"field {self.field.name!r}: validity is bool, one per element of depth {depth}")
            if depth not in self.field.optional and not valid.all():
                where = "rows" if depth == 0 else f"items of depth {depth}"
                raise SchemaError(
                    f"field {self.field.name!r} ({self.field.describe()}) cannot have missing values among its "
                    f"{where}; fill them, or declare the field with optional=({depth},)"
                )

    def _write_valid(self, depth: int, data: FieldData) -> None:
        valid = data.valid_at(depth)
        writer = self.valid.get(depth)
        if writer is None:
            if valid is None or valid.all():
                return
            name = self._new_file(f".valid{depth or ''}")
            writer = self.valid[depth] = self._new_array(name, VALID_DTYPE)
            before = self._ends[depth - 1] if depth else self.rows
            for start in range(0, before, EXTENT):
                writer.append(np.ones(min(EXTENT, before - start), VALID_DTYPE))
        writer.append(np.ones(data.length(depth), VALID_DTYPE) if valid is None else valid)

    def _codes(self, data: FieldData) -> np.ndarray[Any, Any]:
        """Codes of the run in the layer's own labels, in as few bytes as they need."""
        codes = np.asarray(data.values)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(data.labels):
            raise SchemaError(f"field {self.field.name!r}: a code is not in 0 to {len(data.labels) - 1}")
        own = np.array([self._labels.setdefault(label, len(self._labels)) for label in data.labels], CODE_DTYPE)
        dtype = np.dtype("u1" if len(self._labels) <= 1 << 8 else "<u2" if len(self._labels) <= 1 << 16 else "<i4")
        if dtype != self.values.dtype:
            self._widen(dtype)
        return own.take(codes).astype(dtype) if len(own) else np.empty(0, dtype)

    def _widen(self, dtype: np.dtype[Any]) -> None:
        old = self.values
        if isinstance(old, ZarrWriter):
            self._file = self._new_file("")
            self.values = self._new_array(self._file, dtype)
            for piece in old.pieces():
                self.values.append(piece.astype(dtype))
            old.remove()
            return
        old.open()  # while it still has its name
        try:
            SYSTEM.rename(old.path, old.path + ".narrow")
            self.values = self._new_array(self._file, dtype)
            for piece in old.pieces():
                self.values.append(piece.astype(dtype))
        finally:
            old.close()
        SYSTEM.unlink(old.path + ".narrow")

    def end(self) -> None:
        """Say that all rows were written, so that they are on their way to the disk before the layer is complete."""
        for array in self.arrays:
            if isinstance(array, ArrayWriter):
                array.end()

    def close(self) -> None:
        """Give the file descriptors back; writing opens them again."""
        for array in self.arrays:
            array.close()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._labels)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays)


class LayerWriter:
    """Write one layer: fields one after the other or several at once, then `finish`.

    Use it as a context manager; without `finish`, or after an error, everything it wrote is removed.

    Parameters
    ----------
    store_path : path
        The store's folder, which exists.
    layer_id : str
        Name of the layer; `new_id()` for one that no other has.
    """

    def __init__(self, store_path: str | os.PathLike[str], layer_id: str) -> None:
        if not re.fullmatch(ID_PATTERN, layer_id):
            raise ValueError(f"a layer id is like {ID_PATTERN}, got {layer_id!r}")
        self.id = layer_id
        self.store_path = os.fspath(store_path)
        storage = storage_of(self.store_path)
        self._form = form_of(self.store_path)
        if self._form is None and not storage.is_local:
            raise FormatError(f"{self.store_path}: has no {METADATA}, which says how arrays are written behind a URL")
        self._files = storage.new_layer(layer_id)
        self._spool = Spool(self._files)
        self._pid = os.getpid()
        self._writers: dict[str, FieldWriter] = {}
        self._constants: dict[str, StoredField] = {}
        self._n_files = 0
        self._offsets: list[OffsetsWriter] = []
        self._tables: list[np.ndarray[Any, Any]] = []
        self._done = False

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def _check_new(self, name: str) -> None:
        if name in self._writers or name in self._constants:
            raise SchemaError(f"field {name!r} is written twice")

    def _file(self, name: str, ending: str) -> str:
        slug = re.sub(r"[^a-z0-9_-]+", "_", name.lower())[:60]
        self._n_files += 1
        return f"{self._n_files - 1}-{slug}{ending}{self._files.mark}{'' if self._form else '.npy'}"

    def field(self, field: Field, rows: int | None = None) -> FieldWriter:
        """Start a field; write to it through what is returned.

        With `rows`, a dense field of zeros that others fill: `region.filling` opens the file of its ``values.path``.
        """
        self._check_new(field.name)
        file = partial(self._file, field.name)
        writer = FieldWriter(self._files, field, file, rows, self._form, self._offsets, self._spool)
        self._writers[field.name] = writer
        return writer

    def remove_field(self, name: str) -> None:
        """Take a field out again, as if it had not been started."""
        writer = self._writers.pop(name)
        for array in writer.arrays:
            if isinstance(array, OffsetsWriter):
                self._offsets.remove(array)
                for other in self._offsets:
                    other.leave(array)
            array.remove()

    def constant(self, field: Field, value: Scalar) -> None:
        """Give all rows the same value: a label of a category, or a bool, int or float of a dense field."""
        self._check_new(field.name)
        check_constant(field, value)
        labels = (str(value),) if field.kind == "category" else ()
        self._constants[field.name] = StoredField(field.kind, labels=labels, constant=value)

    @property
    def form(self) -> Form | None:
        """How its arrays are stored, as zarr.json said when it was begun."""
        return self._form

    @property
    def rows(self) -> int:
        """Rows written so far, of the field that has most."""
        return max((w.rows for w in self._writers.values()), default=0)

    @property
    def nbytes(self) -> int:
        """Data bytes written so far."""
        return sum(w.nbytes for w in self._writers.values())

    def finish(self, rows: int | None = None, source: Source | None = None, merged: Sequence[Merged] = ()) -> Layer:
        """Make the layer durable and put it in its place.

        Parameters
        ----------
        rows : int, optional
            Needed when the layer has constants only.
        source : Source, optional
            Where the rows came from.
        merged : sequence of Merged, optional
            Or the parts that they were, in their order.

        Raises
        ------
        SchemaError
            When fields differ in their number of rows.
        """
        lengths = {name: w.rows for name, w in self._writers.items()}
        rows = next(iter(lengths.values()), 0) if rows is None else rows
        for name, n in lengths.items():
            if n != rows:
                raise SchemaError(f"field {name!r} has {n} rows, the others have {rows}")
        layer = replace(self._describe(rows, source), merged=tuple(merged))
        grains = self._write_grains(rows)
        if grains is not None:
            layer = replace(layer, grains=len(layer.arrays), arrays=(*layer.arrays, grains.finish()))
            grains.close()
        data = dump_layer(layer)
        parse_layer(data, self.id, layer.path)  # never commit what no reader would take
        files = {spec.file for spec in layer.arrays}
        every = [a for w in self._writers.values() for a in w.arrays if a.file in files]
        every += [] if grains is None else [grains]
        writers = [a for a in every if isinstance(a, ArrayWriter)]
        if self._form is not None:
            self._files.write(GROUP, METADATA)
        self._spool.close()
        if not self._files.finish(data, writers):
            return read_layer(self.store_path, self.id)
        self._done = True
        return layer

    def _describe(self, rows: int, source: Source | None) -> Layer:
        """The layer as written, with equal offsets, shapes and validity stored once."""
        self._tables = []
        arrays: list[ArraySpec] = []
        known: dict[tuple[Any, ...], list[tuple[int, Writer]]] = defaultdict(list)
        numbers: dict[Writer, int] = {}

        def add(writer: Writer) -> int:
            arrays.append(writer.finish())
            return len(arrays) - 1

        def share(writer: Writer) -> int:
            writer = writer.settled() if isinstance(writer, OffsetsWriter) else writer
            if writer not in numbers:
                numbers[writer] = number_of(writer)
            return numbers[writer]

        def number_of(writer: Writer) -> int:
            spec = writer.finish()
            for number, other in known[spec.dtype, spec.shape, spec.checksums]:
                if writer.same_as(other):  # type: ignore[arg-type]
                    writer.remove()
                    return number
            arrays.append(spec)
            known[spec.dtype, spec.shape, spec.checksums].append((len(arrays) - 1, writer))
            return len(arrays) - 1

        fields = {}
        for name, w in self._writers.items():
            offsets = tuple(map(share, w.offsets))
            shapes = None if w.shapes is None else share(w.shapes)
            valid = tuple(share(w.valid[d]) if d in w.valid else None for d in range(max(w.valid, default=-1) + 1))
            values = add(w.values)
            bounds = self._held(w, rows)
            fields[name] = StoredField(
                w.field.kind, values, offsets, w.labels, shapes=shapes, valid=valid, bounds=bounds
            )
            w.close()
        fields.update(self._constants)
        return Layer(self.id, rows, fields, tuple(arrays), source, layer_path(self.store_path, self.id))

    def _held(self, w: FieldWriter, rows: int) -> Held | None:
        """What the values of a field are; the next entry of the array of grains is its own if there is to be one."""
        if w.tally is None or not rows or w.tally.rows != rows:
            return None  # also of rows that did not come through `write`
        entry = len(self._tables) if n_grains(rows) > 1 else None
        if entry is not None:
            self._tables.append(w.tally.table())
        return w.tally.held(entry)

    def _write_grains(self, rows: int) -> Writer | None:
        """Write the array of what the grains of all fields hold."""
        if not self._tables:
            return None
        file, shape = self._file("grains", ""), (n_grains(rows), COLUMNS)
        writer: Writer = (
            ArrayWriter(self._files.folder, file, GRAIN_DTYPE, shape)
            if self._form is None
            else ZarrWriter(self._files, file, GRAIN_DTYPE, shape, self._form, self._spool)
        )
        try:
            writer.append(np.stack(self._tables))
        finally:
            writer.close()
        return writer

    def discard(self) -> None:
        """Remove what was written, unless it was finished, or is that of the process that this one was forked from."""
        if self._done or os.getpid() != self._pid:
            return
        for w in self._writers.values():
            w.close()
        self._spool.close()
        self._files.discard()
        self._done = True
