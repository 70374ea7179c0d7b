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
    from mmdask.batches.ordering.bucketing import bucket
    from mmdask.dataset.cuts.cut import Cut
    from mmdask.dataset.cuts.cutflow import CutFlow
    from mmdask.dataset.cuts.explain import Explanation
    from mmdask.dataset.cuts.folds import Folds
    from mmdask.dataset.cuts.kept import KeptCuts
    from mmdask.dataset.dataset import Dataset
    from mmdask.dataset.dataset import open_dataset as open
    from mmdask.dataset.lists.ragged import Ragged
    from mmdask.dataset.lists.records import Records
    from mmdask.dataset.making.change import assign
    from mmdask.dataset.making.make import from_arrays, from_root, view
    from mmdask.dataset.making.zarr_in import from_zarr
    from mmdask.dataset.shapes.concat import concat
    from mmdask.dataset.sums.describe import Description
    from mmdask.errors import (
        ConflictError,
        CorruptStoreError,
        DroppedItemsWarning,
        ExpressionError,
        FieldNotFoundError,
        FormatError,
        LimitError,
        LoneRankWarning,
        MissingDependencyError,
        MmdaskError,
        NoBatchesWarning,
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
    from mmdask.rows.cuts.kept import KeptCut
    from mmdask.rows.upkeep.compact import compact
    from mmdask.rows.upkeep.vacuum import VacuumReport, vacuum
    from mmdask.schema import Field, Schema
    from mmdask.sources.change import annotate, drop
    from mmdask.sources.converting.conversion_plan import ConversionPlan
    from mmdask.sources.create import append, create
    from mmdask.sources.foreign import Raw
    from mmdask.sources.root.inspection import Inspection, inspect_root
    from mmdask.sources.writing.writer import Writer
    from mmdask.store.checking.verify import Report, verify
    from mmdask.store.zarr.form import Zarr

__all__ = [
    "Batch",
    "ConflictError",
    "ConversionPlan",
    "CorruptStoreError",
    "Cut",
    "CutFlow",
    "Dataset",
    "Description",
    "DroppedItemsWarning",
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
    "LoneRankWarning",
    "MissingDependencyError",
    "Mix",
    "MmdaskError",
    "NoBatchesWarning",
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
    "batches.ordering.bucketing": ["bucket"],
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
    "dataset.making.change": ["assign"],
    "dataset.shapes.concat": ["concat"],
    "dataset.cuts.cut": ["Cut"],
    "dataset.cuts.cutflow": ["CutFlow"],
    "dataset.dataset": ["Dataset", "open"],
    "dataset.sums.describe": ["Description"],
    "dataset.cuts.explain": ["Explanation"],
    "dataset.cuts.folds": ["Folds"],
    "dataset.cuts.kept": ["KeptCuts"],
    "dataset.making.make": ["from_arrays", "from_root", "view"],
    "dataset.making.zarr_in": ["from_zarr"],
    "dataset.lists.ragged": ["Ragged"],
    "dataset.lists.records": ["Records"],
    "rows.upkeep.compact": ["compact"],
    "rows.cuts.kept": ["KeptCut"],
    "rows.upkeep.vacuum": ["VacuumReport", "vacuum"],
    "schema": ["Field", "Schema"],
    "sources.change": ["annotate", "drop"],
    "sources.converting.conversion_plan": ["ConversionPlan"],
    "sources.foreign": ["Raw"],
    "sources.root.inspection": ["Inspection", "inspect_root"],
    "store.checking.verify": ["Report", "verify"],
    "sources.create": ["append", "create"],
    "sources.writing.writer": ["Writer"],
    "store.zarr.form": ["Zarr"],
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
