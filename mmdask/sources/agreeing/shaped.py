"""`Shaped`: rows of an input, read and written as the fields that it shall have; a `Change` says how each is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mmdask import display
from mmdask.errors import SchemaError
from mmdask.schema import Field, FieldData
from mmdask.sources.agreeing.padding import pad_rows
from mmdask.sources.agreeing.promote import blank, promoted
from mmdask.sources.agreeing.shaping import Change
from mmdask.sources.converting.picked import Picked
from mmdask.sources.converting.table import Rows, Table
from mmdask.store.layer_writer import FieldWriter
from mmdask.store.origin import Padded

__all__ = ["Padding", "Shaped", "cut_text"]

#: rows of a field that an input does not have which are made at once
_BLANK_ROWS = 1 << 16
#: bytes of padded rows, and rows of others, which are as many as were read
_NBYTES = 32 << 20
_MANY = 1 << 62


class Shaped:
    """Reads rows of the fields of the store from an input that has others; the rows of one part.

    Asked for a field as it is stored, it is padded; asked for it as cuts see it, it is not.
    """

    def __init__(self, rows: Rows, table: Table) -> None:
        self._rows, self._table = rows, table
        self._cut: dict[str, Padded] = {}

    def __call__(
        self,
        fields: Sequence[Field],
        start: int,
        stop: int,
        *,
        nbytes: int | None = None,
        picked: Picked | None = None,
    ) -> Iterator[tuple[FieldData, ...]]:
        changes = [self._table.changes.get(f.name) for f in fields]
        size = {} if nbytes is None else {"nbytes": nbytes}
        if all(c is None for c in changes):
            yield from self._rows(fields, start, stop, picked=picked, **size)
            return
        if changes[0] is not None and changes[0].origin is None:
            n = stop - start if picked is None else sum(_counts(picked, start, stop))
            most = min(_BLANK_ROWS, *map(_rows_at_once, fields))
            for at in range(0, n, most):
                rows = min(most, n - at)
                yield tuple(self._padded(f, c, blank(c.read, rows)) for f, c in zip(fields, changes, strict=True) if c)
            return
        origins = [f if c is None or c.origin is None else c.origin for f, c in zip(fields, changes, strict=True)]
        most = min((_rows_at_once(f) for f, c in zip(fields, changes, strict=True) if c and c.pad), default=_MANY)
        for run in self._rows(origins, start, stop, picked=picked, **size):
            # few bytes of short lists are many when they are padded
            for at in range(0, max(1, len(run[0])), most):
                piece = [data[at : at + most] for data in run] if len(run[0]) > most else run
                yield tuple(self._made(f, c, data) for f, c, data in zip(fields, changes, piece, strict=True))

    def _made(self, asked: Field, change: Change | None, data: FieldData) -> FieldData:
        if change is None or change.origin is None:
            return data
        try:
            data = promoted(change.origin, data, change.read)
        except SchemaError as error:
            # how that message ends is for those who give values
            why, exactly, _ = str(error).partition(" does not fit exactly")
            raise SchemaError(
                f"{self._table.source.name}: {why}{exactly}. It is {change.origin.describe()} in the file; ask for "
                f"another dtype, or take what holds all values, with on_mismatch={{{change.read.name!r}: 'promote'}}"
            ) from None
        return self._padded(asked, change, data)

    def _padded(self, asked: Field, change: Change, data: FieldData) -> FieldData:
        return self.store(change, data) if asked.same_layout(change.stored) else data

    def store(self, change: Change, data: FieldData) -> FieldData:
        """Rows as cuts see them as they are stored; what is cut off is counted."""
        if change.pad is None:
            return data
        name = change.stored.name
        data, rows, items, nan = pad_rows(change.read, data, change.pad)
        before = self._cut.get(name, Padded(name, 0, 0))
        self._cut[name] = Padded(name, before.rows + rows, before.items + items, before.nan + nan)
        return data

    def writers(self, writers: Mapping[str, FieldWriter]) -> dict[str, FieldWriter | Padding]:
        """Writers that take rows as cuts see them."""
        changes = self._table.changes
        return {
            name: Padding(w, self, changes[name]) if name in changes and changes[name].pad else w
            for name, w in writers.items()
        }

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """What is not in the store as it was in the input, by field."""
        return tuple((name, c.note) for name, c in self._table.changes.items() if c.note)

    @property
    def padded(self) -> tuple[Padded, ...]:
        """What padding cut off, and put in."""
        return tuple(self._cut.values())


class Padding:
    """Writes rows to a field after they were padded."""

    def __init__(self, writer: FieldWriter, shaped: Shaped, change: Change) -> None:
        self.writer, self._shaped, self._change = writer, shaped, change
        self.field = writer.field

    @property
    def rows(self) -> int:
        return self.writer.rows

    def write(self, data: FieldData) -> None:
        most = _rows_at_once(self.field)
        for at in range(0, len(data), most):
            self.writer.write(self._shaped.store(self._change, data[at : at + most]))

    def close(self) -> None:
        self.writer.close()


def _rows_at_once(field: Field) -> int:
    """As many rows of a field as are in memory at once, at least one."""
    return max(1, _NBYTES // max(1, field.item_nbytes)) if field.kind == "dense" else _MANY


def _counts(picked: Picked, start: int, stop: int) -> Iterator[int]:
    """How many rows are kept, a run at a time: of large inputs a mask would be large."""
    for at in range(start, stop, 1 << 22):
        yield int(picked.mask(at, min(stop, at + (1 << 22))).sum())


def cut_text(padded: Iterable[Padded]) -> str:
    """What padding cut off, for a warning; empty if that is nothing.

    Examples
    --------
    >>> cut_text([Padded("jet_pt", 3, 5), Padded("jet_pt", 1, 1), Padded("el_pt", 0, 0)])
    "pad cut 6 items off 4 rows of 'jet_pt'"
    """
    total: dict[str, tuple[int, int]] = {}
    for p in padded:
        before = total.get(p.field, (0, 0))
        total[p.field] = before[0] + p.rows, before[1] + p.items
    alike: dict[tuple[int, int], list[str]] = {}  # lists of one object are cut alike
    for name, numbers in total.items():
        if numbers[1]:
            alike.setdefault(numbers, []).append(name)
    texts = [
        f"{display.amount(items, 'item')} off {display.amount(rows, 'row')} of {_each(names)}"
        for (rows, items), names in alike.items()
    ]
    more = f", and others off {len(texts) - 10} more" if len(texts) > 10 else ""
    return f"pad cut {', '.join(texts[:10])}{more}" if texts else ""


def _each(names: Sequence[str]) -> str:
    if len(names) == 1:
        return repr(names[0])
    some = ", ".join(map(repr, names[:5]))
    return f"each of {some}" + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
