"""One part of a store on its way: a layer whose fields grow together, or up to the rows that were allocated."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from mmdask.schema import Field, FieldData
from mmdask.store.layer import Layer, Scalar
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.outcome import removed_is_conflict

__all__ = ["LOST", "PartWriter", "rows_within", "stored_nbytes"]

#: with more fields than this their files are opened for each write
_MAX_OPEN_FIELDS = 200
#: of an error that says that files of the part are gone
LOST = "nothing of this block since its last checkpoint, or its begin, was committed: write these rows again"


class PartWriter:
    """The rows of one part.

    Parameters
    ----------
    root : str
        The store's folder.
    layer_id : str
        Of its layer.
    constants : iterable of (Field, value)
        Fields with one value for all rows.
    n_allocated : int, optional
        How many rows the part has, when fields of it are allocated; by default it grows.

    Raises
    ------
    ConflictError
        When its files, or the store, were removed meanwhile; so do `allocate`, `write` and `finish`.
    """

    def __init__(
        self, root: str, layer_id: str, constants: Iterable[tuple[Field, Scalar]], n_allocated: int | None = None
    ) -> None:
        self.n_allocated = n_allocated
        #: rows given so far, of the fields that are not allocated, and about how many bytes they take
        self.rows = 0
        self.nbytes = 0
        self._root = root
        with removed_is_conflict(root, LOST):
            self._layer = LayerWriter(root, layer_id)
        self._writers: dict[str, FieldWriter] = {}
        for field, value in constants:
            self._layer.constant(field, value)

    def allocate(self, field: Field) -> str:
        """Start a dense field of `n_allocated` rows of zeros, and return the path of its file."""
        assert self.n_allocated is not None
        with removed_is_conflict(self._root, LOST):
            writer = self._layer.field(field, self.n_allocated)
        return writer.values.path

    def write(self, fields: Mapping[str, Field], data: Mapping[str, FieldData], nbytes: int) -> None:
        """Add rows of all fields that are not allocated; they take about so many bytes."""
        rests = len(data) > _MAX_OPEN_FIELDS
        with removed_is_conflict(self._root, LOST):
            if not self._writers:
                for name in data:
                    self._writers[name] = self._layer.field(fields[name])
                    if rests:
                        self._writers[name].close()
            for name, d in data.items():
                self._writers[name].write(d)
                if rests:
                    self._writers[name].close()
        self.rows += len(next(iter(data.values())))
        self.nbytes += nbytes

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """All labels of its categories, by field."""
        return {name: w.labels for name, w in self._writers.items() if w.field.kind == "category"}

    def finish(self) -> Layer | None:
        """Make it durable; None if it has no rows, and nothing is left of it then."""
        if self.n_allocated or self.rows:
            with removed_is_conflict(self._root, LOST):
                return self._layer.finish()
        self.discard()
        return None

    def discard(self) -> None:
        """Remove what was written, unless it was finished."""
        self._layer.discard()


def stored_nbytes(data: FieldData) -> int:
    """About how many bytes a run of rows takes on disk; codes of a category mostly take one."""
    return len(data) if data.labels else data.nbytes - sum(o.itemsize for o in data.offsets)


def rows_within(data: Mapping[str, FieldData], start: int, stop: int, room: float) -> int:
    """Where to end a run of rows that begins at `start`: with the row that fills `room` bytes, at `stop` at the latest.

    Examples
    --------
    >>> import numpy as np
    >>> rows_within({"x": FieldData(np.zeros(100))}, 20, 100, 80)
    30
    """
    if room <= 0:
        return min(start + 1, stop)

    def before(row: int) -> int:  # ascends with the row
        return sum(_nbytes_before(d, row) for d in data.values())

    return start + 1 + bisect.bisect_left(range(start + 1, stop), before(start) + room, key=before)


def _nbytes_before(data: FieldData, row: int) -> int:
    """What `stored_nbytes` of the first rows would be."""
    if data.labels:
        return row
    n = row * (data.shapes.shape[1] * data.shapes.itemsize if data.shapes is not None else 0)
    for depth, offsets in enumerate(data.offsets):
        n += row * (offsets.itemsize + (data.valid_at(depth) is not None))
        row = int(offsets[row])
    n += row * (data.valid_at(len(data.offsets)) is not None)
    return n + row * (data.values.nbytes // len(data.values) if len(data.values) else 0)
