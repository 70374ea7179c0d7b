"""Tools to test stores, backends of stores, and pipelines that read them. Nothing else of mmdask imports it.

- `max_computes` fails on a dask compute too many, `count_reads` counts what is read from stores.
- `fields`, `rows`, `tables`, `pieces` and `selections` are hypothesis strategies of all that a store can hold.
- `StoreContract` is a test class that every backend of stores must pass; `MemoryBackend` is the model of one in plain
  Python lists, `DiskBackend` the real one.

The strategies and the contract need hypothesis and pytest, which ``pip install "mmdask[test]"`` brings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmdask.errors import MissingDependencyError

if TYPE_CHECKING:
    from mmdask.testing.backend import Backend, Commit, RowWriter, View
    from mmdask.testing.checks import check_rows, rows_of
    from mmdask.testing.computes import Computes, max_computes
    from mmdask.testing.contract import StoreContract
    from mmdask.testing.disk import DiskBackend, DiskView
    from mmdask.testing.memory import MemoryBackend, MemoryView
    from mmdask.testing.reads import Read, Reads, count_reads
    from mmdask.testing.strategies import dtypes, fields, names, pieces, rows, selections, tables
    from mmdask.testing.table import Table
    from mmdask.testing.values import check_field_data, difference, from_python, same, to_arrays, to_python

__all__ = [
    "Backend",
    "Commit",
    "Computes",
    "DiskBackend",
    "DiskView",
    "MemoryBackend",
    "MemoryView",
    "Read",
    "Reads",
    "RowWriter",
    "StoreContract",
    "Table",
    "View",
    "check_field_data",
    "check_rows",
    "count_reads",
    "difference",
    "dtypes",
    "fields",
    "from_python",
    "max_computes",
    "names",
    "pieces",
    "rows",
    "rows_of",
    "same",
    "selections",
    "tables",
    "to_arrays",
    "to_python",
]

_HOMES = {
    "backend": ["Backend", "Commit", "RowWriter", "View"],
    "checks": ["check_rows", "rows_of"],
    "computes": ["Computes", "max_computes"],
    "contract": ["StoreContract"],
    "disk": ["DiskBackend", "DiskView"],
    "memory": ["MemoryBackend", "MemoryView"],
    "reads": ["Read", "Reads", "count_reads"],
    "strategies": ["dtypes", "fields", "names", "pieces", "rows", "selections", "tables"],
    "table": ["Table"],
    "values": ["check_field_data", "difference", "from_python", "same", "to_arrays", "to_python"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmdask.testing' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"mmdask.testing.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "pytest"):
            raise
        raise MissingDependencyError(
            f"mmdask.testing.{name} needs {error.name}, which is not installed: pip install 'mmdask[test]'"
        ) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
