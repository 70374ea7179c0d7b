"""Rows in memory with the interface of `mmdask.rows.rows.Rows`, written as plainly as can be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from mmdask.schema import Field, FieldData, Schema


class MemoryRows:
    """`fields` maps a name to an array, a list of lists (ragged float32) or a list of str."""

    snapshot = SimpleNamespace(chunked=False, identity="in memory")

    def __init__(self, fields, selected=None, block_rows=16, row_nbytes=256.0, name="memory"):
        self.fields = fields
        self.n_store = len(next(iter(fields.values())))
        self.selected = np.arange(self.n_store) if selected is None else np.asarray(selected, np.int64)
        self.block_rows = block_rows
        self.row_nbytes = row_nbytes
        self.identity = f"{name}:{hash(self.selected.tobytes())}"
        self.schema = Schema([field_of(k, v) for k, v in fields.items()])
        self.taken = []

    def __len__(self):
        return len(self.selected)

    def block_counts(self, block_rows):
        return np.bincount(self.selected // block_rows, minlength=-(-self.n_store // block_rows))

    def rows_of_blocks(self, blocks, block_rows):
        low = np.searchsorted(self.selected, blocks * block_rows)
        high = np.searchsorted(self.selected, (blocks + 1) * block_rows)
        pieces = [self.selected[a:b] for a, b in zip(low, high, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *pieces])

    def numbers(self, start, stop):
        return self.selected[start:stop].copy()

    def take(self, name, rows):
        self.taken.append((name, len(rows)))
        values = self.fields[name]
        if isinstance(values, np.ndarray):
            return FieldData(values[rows])
        chosen = [values[r].encode() if isinstance(values[r], str) else values[r] for r in rows]
        offsets = np.concatenate([[0], np.cumsum([len(c) for c in chosen])]).astype(np.int64)
        flat = [x for c in chosen for x in c]
        return FieldData(np.array(flat, self.schema[name].dtype), (offsets,))

    def is_stored(self, name):
        return True

    def take_many(self, names, rows):
        return {name: self.take(name, rows) for name in names}

    def release(self, names, but=None):
        pass

    def missing(self, names, rows):
        return True

    def ask(self, names, begins, ends):
        return False

    def counts(self, name, rows):
        return np.array([len(self.fields[name][r]) for r in rows], np.int64)

    def take_padded(self, name, rows, length, fill, side="right", found=None):
        self.taken.append((name, len(rows)))
        dtype = self.schema[name].dtype
        out, mask = np.full((len(rows), length), fill, dtype), np.zeros((len(rows), length), bool)
        for i, r in enumerate(rows):
            kept = self.fields[name][r][:length]
            begin = length - len(kept) if side == "left" else 0
            out[i, begin : begin + len(kept)] = kept
            mask[i, begin : begin + len(kept)] = True
        return out, mask


def field_of(name, values):
    if isinstance(values, np.ndarray):
        return Field.dense(name, values.dtype, values.shape[1:])
    return Field.string(name) if values and isinstance(values[0], str) else Field.ragged(name, "f4")


def numbered(n, **kwargs):
    """Rows whose field `row` holds their number."""
    return MemoryRows({"row": np.arange(n)}, **kwargs)
