"""From ROOT files to shuffled batches, in the order in which one does it.

Run it as ``python examples/quickstart.py [folder]``; it makes its own ROOT files there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmdask as mm
from mmdask.demo import make_files


def main(folder: Path, events: int = 50_000) -> None:
    # 1. Convert. Labels become fields. Run again, it reads only files that changed.
    make_files(folder, events)  # stands for your own files
    sources = {
        str(folder / "ttbb_*.root:nominal"): {"process": "ttbb"},
        str(folder / "ttH_*.root:nominal"): {"process": "ttH"},
    }
    mm.from_root(sources, folder / "events.mm", update=True, missing="drop")

    # 2. Look. Opening reads the manifest, a field is a lazy dask array, a ragged field computes to awkward.
    ds = mm.open(folder / "events.mm")
    print(ds)
    print("mean met", ds["met"].mean().compute())
    print("leading jets", ds["jet_pt"].first()[:5].compute())

    # 3. Cut. Computed once, then read, also tomorrow.
    good = ds.cut("nJets >= 6 & nBTags_77 >= 2")
    for process in ds.schema["process"].labels:
        n = (good & ds.cut("process == p", p=process)).count()
        print(f"{process}: {n:,} of {ds.cut('process == p', p=process).count():,} rows pass")
    print("signed weights of what passes:", ds[good]["weight_mc"].astype("f8").sum().compute())

    # 4. Split by event number, and hand out shuffled batches, every row exactly once.
    parts = ds[good].split({"train": 0.8, "test": 0.2}, by="eventNumber", seed=7)
    jets = {"jet_pt": mm.pad(12, value=0, mask=True)}
    loader = parts["train"].batches(1024, fields=["met", "jet_pt", "process"], seed=7, collate=jets)
    rows = 0
    for batch in loader:
        rows += len(batch.rows)
    print(f"{len(loader)} batches, {rows:,} rows of {len(parts['train']):,}")
    print({name: (array.dtype, array.shape) for name, array in batch.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
