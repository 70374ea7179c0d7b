"""From ROOT files to batches on a dask cluster: `python examples/cluster.py [scheduler address] [folder]`.

Without an address two workers are started on this machine. With one, as tcp://10.0.0.1:8786, the folder must be on a
file system that all workers share: they are told where data are, and read and write them there. mmdask must be
installed for the scheduler and for every worker.
"""

import sys
from pathlib import Path

from dask.distributed import Client, LocalCluster

import mmdask as mm
from mmdask.demo import make_files


def analysis(client: Client, folder: Path) -> None:
    make_files(folder / "root", events=4_000)  # stands for your own ROOT files
    files = {f"{folder}/root/{p}_*.root:nominal": {"process": p} for p in ("ttbb", "ttH")}

    # Each worker decodes files, or ranges of large ones, and writes parts of the store; this process commits them at
    # once. Workers may die meanwhile: others do their tasks again, and a part that is there is not made twice.
    mm.from_root(files, folder / "events.mm", workers=client, progress=False)
    ds = mm.open(folder / "events.mm")

    # From here on nothing says that there is a cluster: the client that was made last is the scheduler, as in dask.
    # Workers evaluate the cut and send back one bit per event, which is kept beside the store, for all that follow.
    good = ds.cut("nJets >= 6 & nBTags_77 >= 2")
    print(f"{good.count():,} of {len(ds):,} events")
    print(ds.cutflow(["nJets >= 6", "nBTags_77 >= 2", "met > 30e3"], by="process"))

    # Workers send back sums. For a scikit-hep histogram, ds.hist("met", by="process"), install mmdask[plot].
    sel = ds[good]
    print(sel.describe(["met", "jet_pt"]))

    # What is lazy is dask: the graph has one small reference for each array, and no data.
    print(f"mean HT of them: {sel['ht'].mean().compute() / 1000:.1f} GeV")

    # The skim is written by workers, too, each part by one of them.
    skim = sel.save(folder / "skim.mm", fields=["met", "ht", "jet_*"], progress=False)

    # Batches never use dask: each rank of a training reads its share of the rows from the shared file system.
    for rank in range(2):
        loader = skim.batches(256, collate={"jet_pt": mm.pad(8)}, seed=1, rank=rank, world_size=2)
        batch = next(iter(loader))
        print(f"rank {rank}: {len(loader)} batches, the first has {batch['jet_pt'].shape} jets")


if __name__ == "__main__":  # the processes of a LocalCluster import this file
    address = sys.argv[1] if len(sys.argv) > 1 else ""
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "cluster").absolute()
    cluster = address or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with Client(cluster) as client:
        analysis(client, folder)
    if not address:
        cluster.close()
