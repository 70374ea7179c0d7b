"""Every exception of mmdask.

::

    MmdaskError
    ├── StoreNotFoundError     (FileNotFoundError)   no store at this path
    │   └── UnfinishedError                          a conversion began here and did not end
    ├── StoreExistsError       (FileExistsError)     the path is taken
    ├── FormatError            (ValueError)          a manifest or part.json that breaks the format
    ├── CorruptStoreError      (OSError)             data that are not what was committed
    ├── LimitError             (OSError)             this process has too many maps or open files
    ├── ConflictError          (RuntimeError)        another commit made this change impossible
    ├── SchemaError            (ValueError)          data that do not fit the fields of a store
    ├── FieldNotFoundError     (KeyError)            no field of this name
    ├── RowNotFoundError       (IndexError)          no row of this number
    ├── ExpressionError        (ValueError)          a cut that cannot be read, or that has two readings
    ├── OptionError            (ValueError)          an argument that cannot be used
    ├── SourceError            (OSError)             an input that cannot be read
    │   └── SourceNotFoundError (FileNotFoundError)  an input that is not there
    ├── WorkerError            (RuntimeError)        a process that did a part of the work died
    ├── StateError             (ValueError)          a loader state of other data or another order
    └── MissingDependencyError (ImportError)         an optional package that is not installed

Each also derives from the builtin in brackets, so that code which catches the builtin keeps working.
Five warnings: of conversions `SkippedFieldsWarning`, for fields that were left out, and `DroppedItemsWarning`, for
items of rows that were longer than what they were padded to; `UnevenFoldsWarning`, for splits; `LoneRankWarning`, for a
loader that does not know of the other ranks, and `NoBatchesWarning`, for one that has nothing to hand out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConflictError",
    "CorruptStoreError",
    "DroppedItemsWarning",
    "ExpressionError",
    "FieldNotFoundError",
    "FormatError",
    "LimitError",
    "LoneRankWarning",
    "MissingDependencyError",
    "MmdaskError",
    "NoBatchesWarning",
    "OptionError",
    "RowNotFoundError",
    "SchemaError",
    "SkippedFieldsWarning",
    "SourceError",
    "SourceNotFoundError",
    "StateError",
    "StoreExistsError",
    "StoreNotFoundError",
    "UnevenFoldsWarning",
    "UnfinishedError",
    "WorkerError",
]


class MmdaskError(Exception):
    """Base of every error that mmdask raises on purpose."""


class StoreNotFoundError(MmdaskError, FileNotFoundError):
    """No store at this path."""


class UnfinishedError(StoreNotFoundError):
    """A conversion began at this path and did not end; the same call resumes it."""


class StoreExistsError(MmdaskError, FileExistsError):
    """The path is taken, by a store or by something else."""


class FormatError(MmdaskError, ValueError):
    """A manifest or part.json that breaks the format, or is newer than this version reads."""


class CorruptStoreError(MmdaskError, OSError):
    """Data that are not what was committed: a missing file, a wrong size, a wrong checksum."""


class LimitError(MmdaskError, OSError):
    """A limit of this process or machine was met: maps, open files, address space."""


class ConflictError(MmdaskError, RuntimeError):
    """Another process committed a change that makes this one impossible."""


class SchemaError(MmdaskError, ValueError):
    """Data that do not fit the fields of a store, or fields that cannot be stored."""


class FieldNotFoundError(MmdaskError, KeyError):
    """No field of this name."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a message is to be read, not quoted.
        return str(self.args[0]) if self.args else ""


class RowNotFoundError(MmdaskError, IndexError):
    """No row of this number."""


class ExpressionError(MmdaskError, ValueError):
    """A cut expression that cannot be read, or that two tools read differently."""


class OptionError(MmdaskError, ValueError):
    """An argument that cannot be used."""


class SourceError(MmdaskError, OSError):
    """An input that cannot be read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """An input that is not there."""


class WorkerError(MmdaskError, RuntimeError):
    """A process that did a part of the work died; what it and others had finished is kept."""


class StateError(MmdaskError, ValueError):
    """The state of a loader over other data, or with another order."""


class MissingDependencyError(MmdaskError, ImportError):
    """An optional package that is not installed."""


class SkippedFieldsWarning(UserWarning):
    """A conversion left out some fields of its input; the message says which and why."""


class DroppedItemsWarning(UserWarning):
    """A conversion padded lists to fewer items than some have; the message says how many items were cut off."""


class UnevenFoldsWarning(UserWarning):
    """A split by remainders gave folds of other sizes than were asked for."""


class LoneRankWarning(UserWarning):
    """A loader that reads all rows, in one of several processes that were started together."""


class NoBatchesWarning(UserWarning):
    """An epoch without a batch; the message says whether no row is selected or too few fill one."""


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the names nearest to `name`, or an empty string.

    One that differs in case alone is nearest. Others differ in a third of the letters at most, or go on where `name`
    ends, and none is much further away than the first.
    """
    folded: dict[str, list[str]] = {}
    for n in known:
        folded.setdefault(n.lower(), []).append(n)
    lower = name.lower()
    near = sorted(folded.get(lower, []))
    if not near:
        found = difflib.get_close_matches(lower, folded, n=10, cutoff=0.6)
        found = [n for n in found if _is_near(lower, n)]
        ratios = [difflib.SequenceMatcher(None, n, lower).ratio() for n in found]
        near = [x for n, ratio in zip(found, ratios, strict=True) if ratio > ratios[0] - 0.15 for x in folded[n]]
    return f"; did you mean {' or '.join(repr(n) for n in near[:limit])}?" if near else ""


def _is_near(name: str, other: str) -> bool:
    begins = min(len(name), len(other)) >= 3 and (name.startswith(other) or other.startswith(name))
    return begins or _distance(name, other) <= max(1, len(name) // 3)


def _distance(a: str, b: str) -> int:
    """Letters to leave out, put in, change or swap with their neighbour."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        two_before, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, two_before[j - 2] + 1)
            row.append(best)
    return row[-1]
