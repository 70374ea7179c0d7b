"""Out-of-core arrays for science: memory-mapped stores as lazy dask arrays, cuts kept once, shuffled batches.

The public names are resolved when they are first used (PEP 562), so that importing mmdask is quick, and a worker that
loads batches never imports dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmdask.batches.batch import Batch
    from mmdask.batches.bucketing import bucket
    from mmdask.batches.collate import (
        Packed,
        astype,
        crop,
        expand_dims,
        nested,
        one_hot,
        packed,
        pad,
        squeeze,
        stack,
        window,
    )
    from mmdask.batches.loader import Loader
    from mmdask.batches.mix import Mix, mix
    from mmdask.batches.normalisation import Normalisation
    from mmdask.dataset.change import assign
    from mmdask.dataset.concat import concat
    from mmdask.dataset.cut import Cut
    from mmdask.dataset.cutflow import CutFlow
    from mmdask.dataset.dataset import Dataset
    from mmdask.dataset.dataset import open_dataset as open
    from mmdask.dataset.describe import Description
    from mmdask.dataset.explain import Explanation
    from mmdask.dataset.folds import Folds
    from mmdask.dataset.kept import KeptCuts
    from mmdask.dataset.make import from_arrays, from_root, view
    from mmdask.dataset.ragged import Ragged
    from mmdask.dataset.records import Records
    from mmdask.dataset.zarr_in import from_zarr
    from mmdask.errors import (
        ConflictError,
        CorruptStoreError,
        ExpressionError,
        FieldNotFoundError,
        FormatError,
        LimitError,
        MissingDependencyError,
        MmdaskError,
        OptionError,
        RowNotFoundError,
        SchemaError,
        SkippedFieldsWarning,
        SourceError,
        SourceNotFoundError,
        StateError,
        StoreExistsError,
        StoreNotFoundError,
        UnevenFoldsWarning,
        UnfinishedError,
        WorkerError,
    )
    from mmdask.rows.compact import compact
    from mmdask.rows.kept import KeptCut
    from mmdask.rows.vacuum import VacuumReport, vacuum
    from mmdask.schema import Field, Schema
    from mmdask.sources.change import annotate, drop
    from mmdask.sources.conversion_plan import ConversionPlan
    from mmdask.sources.foreign import Raw
    from mmdask.sources.root.inspection import Inspection, inspect_root
    from mmdask.sources.writer import Writer, append, create
    from mmdask.store.verify import Report, verify
    from mmdask.store.zarr_form import Zarr

__all__ = [
    "Batch",
    "ConflictError",
    "ConversionPlan",
    "CorruptStoreError",
    "Cut",
    "CutFlow",
    "Dataset",
    "Description",
    "Explanation",
    "ExpressionError",
    "Field",
    "FieldNotFoundError",
    "Folds",
    "FormatError",
    "Inspection",
    "KeptCut",
    "KeptCuts",
    "LimitError",
    "Loader",
    "MissingDependencyError",
    "Mix",
    "MmdaskError",
    "Normalisation",
    "OptionError",
    "Packed",
    "Ragged",
    "Raw",
    "Records",
    "Report",
    "RowNotFoundError",
    "Schema",
    "SchemaError",
    "SkippedFieldsWarning",
    "SourceError",
    "SourceNotFoundError",
    "StateError",
    "StoreExistsError",
    "StoreNotFoundError",
    "UnevenFoldsWarning",
    "UnfinishedError",
    "VacuumReport",
    "WorkerError",
    "Writer",
    "Zarr",
    "annotate",
    "append",
    "assign",
    "astype",
    "bucket",
    "compact",
    "concat",
    "create",
    "crop",
    "drop",
    "expand_dims",
    "from_arrays",
    "from_root",
    "from_zarr",
    "inspect_root",
    "mix",
    "nested",
    "one_hot",
    "open",
    "packed",
    "pad",
    "squeeze",
    "stack",
    "vacuum",
    "verify",
    "view",
    "window",
]

_HOMES = {
    "batches.batch": ["Batch"],
    "batches.bucketing": ["bucket"],
    "batches.collate": [
        "Packed",
        "astype",
        "crop",
        "expand_dims",
        "nested",
        "one_hot",
        "packed",
        "pad",
        "squeeze",
        "stack",
        "window",
    ],
    "batches.loader": ["Loader"],
    "batches.mix": ["Mix", "mix"],
    "batches.normalisation": ["Normalisation"],
    "dataset.change": ["assign"],
    "dataset.concat": ["concat"],
    "dataset.cut": ["Cut"],
    "dataset.cutflow": ["CutFlow"],
    "dataset.dataset": ["Dataset", "open"],
    "dataset.describe": ["Description"],
    "dataset.explain": ["Explanation"],
    "dataset.folds": ["Folds"],
    "dataset.kept": ["KeptCuts"],
    "dataset.make": ["from_arrays", "from_root", "view"],
    "dataset.zarr_in": ["from_zarr"],
    "dataset.ragged": ["Ragged"],
    "dataset.records": ["Records"],
    "rows.compact": ["compact"],
    "rows.kept": ["KeptCut"],
    "rows.vacuum": ["VacuumReport", "vacuum"],
    "schema": ["Field", "Schema"],
    "sources.change": ["annotate", "drop"],
    "sources.conversion_plan": ["ConversionPlan"],
    "sources.foreign": ["Raw"],
    "sources.root.inspection": ["Inspection", "inspect_root"],
    "store.verify": ["Report", "verify"],
    "sources.writer": ["Writer", "append", "create"],
    "store.zarr_form": ["Zarr"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mmdask' has no attribute {name!r}")
    module = importlib.import_module(f"mmdask.{_HOME.get(name, 'errors')}")
    value = getattr(module, "open_dataset" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
