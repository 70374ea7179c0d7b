"""The branches of a TTree as columns, each read along its own baskets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmdask.errors import SourceError
from mmdask.kernels.once import once
from mmdask.schema import Field, FieldData
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.column import Column, Lazy
from mmdask.sources.root.decode import Decoder, decoder_of
from mmdask.sources.root.file import DAMAGED, brief
from mmdask.sources.root.ranges import runs

__all__ = ["Branch", "Branches", "column_of"]

#: what uproot's objects for a branch take in memory, and each of its baskets, about
_BRANCH_NBYTES, _BASKET_NBYTES = 14_000, 24


class Branches:
    """A TTree of uproot as a `Tree`: sub-branches are columns, too, called ``group/branch``."""

    def __init__(self, tree: Any, name: str) -> None:
        self.name = name
        self.rows = int(tree.num_entries)  # a float in some files
        self._branches: dict[str, Any] = {}
        self.doubles: list[str] = []
        for full, branch in tree.iteritems():
            if full in self._branches:
                self.doubles.append(full)
            else:
                self._branches[full] = branch
        self.columns = Lazy(self._branches, lambda name: column_of(name, self._branches[name], self.rows))
        self.types = Lazy(self._branches, lambda name: _type_of(self._branches[name]))

    @property
    def metadata_nbytes(self) -> int:
        """What it takes in memory while it is open, about."""
        baskets = (int(b.member("fMaxBaskets", none_if_missing=True) or 0) for b in self._branches.values())
        return _BRANCH_NBYTES * len(self._branches) + _BASKET_NBYTES * sum(baskets)


def _type_of(branch: Any) -> str:
    try:
        return str(branch.typename)
    except Exception as error:  # as in `column_of`, which says why
        return f"unknown {brief(error)}"


def column_of(name: str, branch: Any, rows: int) -> Column | str:
    """The column that a branch becomes, or why it becomes none; empty text for a group, whose members count."""
    try:
        decoder = decoder_of(name, branch)
        if isinstance(decoder, str):
            return decoder
        if branch.num_entries != rows:
            return f"it has {branch.num_entries} entries, the tree has {rows}"
        if not decoder.fields:
            return "; ".join(f"{member}: {why}" for member, why in decoder.skipped)
        column = Branch(name, branch, decoder, rows)
        offsets, _ = column.offsets, column.nbytes
    except Exception as error:
        # What is odd in a file of another decade comes out of uproot as any kind of exception.
        return f"its type cannot be told {brief(error)}"
    if len(offsets) > 1 and any(a > b for a, b in itertools.pairwise(offsets)):
        return "its baskets are not in order"
    return column


@dataclass(frozen=True)
class Branch:
    """One branch as a `Column`."""

    name: str
    branch: Any
    decoder: Decoder
    rows: int

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.decoder.fields

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return self.decoder.skipped

    @once
    def nbytes(self) -> tuple[int, ...]:
        """About how many bytes each field takes in memory; exact for dense fields."""
        header = int(getattr(self.decoder.interpretation, "header_bytes", 0))
        content = max(0, int(self.branch.uncompressed_bytes) - header * self.rows)
        items = self.decoder.item_nbytes
        found = []
        for f in self.fields:
            if f.kind == "dense" and not f.optional:
                found.append(self.rows * f.item_nbytes)
            else:
                share = content * f.item_nbytes // items if items else content // len(self.fields)
                found.append(share + 8 * self.rows * max(1, f.n_offsets))
        return tuple(found)

    @once
    def offsets(self) -> Sequence[int]:
        offsets: Sequence[int] = self.branch.entry_offsets
        return offsets

    @once
    def weights(self) -> list[float]:
        """Compressed bytes of each basket, which need no reading; rows where the file does not say."""
        rows = [float(b - a) for a, b in itertools.pairwise(self.offsets)]
        sizes = self.branch.member("fBasketBytes", none_if_missing=True)
        if sizes is None or len(sizes) < len(rows) or not all(s > 0 for s in sizes[: len(rows)]):
            return rows
        return [float(s) for s in sizes[: len(rows)]]

    def ends(self, start: int, stop: int, limit: int, wanted: Sequence[Field]) -> Iterator[int]:
        """Ends of runs along baskets."""
        try:
            weights = self.weights
        except Exception as error:
            raise UnreadableError(f"{DAMAGED} {brief(error)}") from error
        scale = sum(self.nbytes) / max(1.0, sum(weights))
        return runs(start, stop, self.offsets, [w * scale for w in weights], limit)

    def read(self, start: int, stop: int, wanted: Sequence[Field]) -> tuple[FieldData, ...]:
        """Rows of some of its fields."""
        asked = self.decoder
        try:
            array = self.branch.array(
                asked.interpretation, entry_start=start, entry_stop=stop, library=asked.library, array_cache=None
            )
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise SourceError(f"{self.branch.file.file_path}: {error.strerror} at field {self.name!r}") from error
            # uproot raises whatever the odd bytes lead to: AssertionError, struct.error, IndexError, ...
            raise UnreadableError(f"{DAMAGED} {brief(error)}") from error
        return asked.rows(array, wanted)
