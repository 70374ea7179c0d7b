"""Other ways to iterate over rows in mixed batches: each says how well it mixes, where that is not as a true shuffle.

Files of peers hold plain values, without compression, which is the quickest that they can be read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Competitor

__all__ = ["row_peers", "window_peers"]

Rows = npt.NDArray[np.int32]
_GROUP = 16_384


def peer(name: str, data: Rows, make: Callable[[], Callable[[], Iterator[Any]]], *packages: str) -> Competitor:
    """One that goes through all batches, which are checked before; missing where a package is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return Competitor(name, "peer", None, missing=f"{package} is not installed")
    epoch = make()

    def run() -> int:
        return sum(len(batch) for batch in epoch())

    return Competitor(name, "peer", run, check=lambda _: check_epoch(name, data, epoch()))


def check_epoch(name: str, data: Rows, batches: Iterator[Any]) -> None:
    """Every row once, in another order than they lie, and the rows of the first batches as they are.

    The first number of a row of `data` is its row number.

    Raises
    ------
    AssertionError
        Which names the peer.
    """
    numbers = []
    for i, batch in enumerate(batches):
        rows = np.asarray(batch).reshape(len(batch), -1)
        numbers.append(rows[:, 0].astype(np.int64))
        if i < 3 and not np.array_equal(rows, data[numbers[-1]].astype(rows.dtype)):
            raise AssertionError(f"{name}: batch {i} has other rows than there are")
    visited = np.concatenate(numbers)
    if not np.array_equal(np.sort(visited), np.arange(len(data))):
        raise AssertionError(f"{name}: {len(np.unique(visited))} of {len(data)} rows came, in {len(visited)}")
    if np.array_equal(visited, np.arange(len(data))):
        raise AssertionError(f"{name}: rows come as they lie")


def window_peers(data: Rows, folder: Path, batch: int) -> Iterator[Competitor]:
    """Those that read many rows at once."""
    n = len(data)
    rng = np.random.default_rng(1)

    def memmap() -> Iterator[Any]:
        order = rng.permutation(n)
        for start in range(0, n, batch):
            yield data[order[start : start + batch]]

    yield peer("memmap[permutation]", data, lambda: memmap)
    yield peer("torch DataLoader, batch sampler", data, lambda: _torch_batches(data, batch), "torch")
    yield peer("memmpy, its own shuffle (worse mixing)", data, lambda: _memmpy(data, batch), "memmpy")
    yield peer("mmap_ninja, batches of a permutation", data, lambda: _mmap_ninja(data, folder, batch), "mmap_ninja")
    yield peer("RDataLoader, 1,048,576 rows mixed, float32", data, lambda: _root(data, folder, batch), "ROOT")
    yield peer("pyarrow, 64 row groups mixed (worse mixing)", data, lambda: _parquet(data, folder, batch), "pyarrow")


def row_peers(data: Rows, folder: Path, batch: int) -> Iterator[Competitor]:
    """Those that take microseconds for each row."""
    yield peer("h5py, sorted rows of each batch", data, lambda: _h5py(data, folder, batch), "h5py")
    yield peer("torch DataLoader, per row", data, lambda: _torch_rows(data, batch), "torch")
    yield peer("HF datasets, shuffle and iter", data, lambda: _datasets(data, folder, batch), "datasets")
    yield peer("grain, MapDataset shuffle and batch", data, lambda: _grain(data, batch), "grain")


def _torch_batches(data: Rows, batch: int) -> Callable[[], Iterator[Any]]:
    import torch.utils.data as tud

    class Whole(tud.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, rows: list[int]) -> Any:
            return data[rows]

    rows = Whole()
    sampler = tud.BatchSampler(tud.RandomSampler(rows), batch, drop_last=False)
    loader = tud.DataLoader(rows, sampler=sampler, batch_size=None, collate_fn=np.asarray)
    return lambda: iter(loader)


def _torch_rows(data: Rows, batch: int) -> Callable[[], Iterator[Any]]:
    import torch.utils.data as tud

    class Single(tud.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, row: int) -> Any:
            return np.array(data[row])

    loader = tud.DataLoader(Single(), batch, shuffle=True)
    return lambda: iter(loader)


def _memmpy(data: Rows, batch: int) -> Callable[[], Iterator[Any]]:
    """A batch has rows of some bands alone, every eighth row in each of them."""
    from memmpy import shuffle_fast  # type: ignore[import-not-found]

    order = shuffle_fast(len(data))
    return lambda: (data[order(np.arange(a, min(a + batch, len(data))))] for a in range(0, len(data), batch))


def _h5py(data: Rows, folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    import h5py

    path = folder / "rows.h5"
    if not path.exists():
        with h5py.File(path, "w") as f:
            f.create_dataset("x", data=data, chunks=(256, data.shape[1]))
    file = h5py.File(path)["x"]
    rng = np.random.default_rng(1)

    def epoch() -> Iterator[Any]:
        order = rng.permutation(len(data))
        for start in range(0, len(data), batch):
            yield file[np.sort(order[start : start + batch])]

    return epoch


def _parquet(data: Rows, folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    width = data.shape[1]
    if not path.exists():
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(np.array(data).ravel()), width)})
        pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=_GROUP)
    file = pq.ParquetFile(path)
    rng = np.random.default_rng(1)

    def epoch() -> Iterator[Any]:
        groups = rng.permutation(file.num_row_groups)
        for start in range(0, len(groups), 64):
            column = file.read_row_groups(groups[start : start + 64].tolist()).column("x").combine_chunks()
            values = column.values if isinstance(column, pa.FixedSizeListArray) else column.chunk(0).values
            rows = values.to_numpy().reshape(-1, width)
            order = rng.permutation(len(rows))
            for a in range(0, len(rows), batch):
                yield rows[order[a : a + batch]]

    return epoch


def _mmap_ninja(data: Rows, folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    from mmap_ninja import numpy as np_ninja  # type: ignore[import-not-found]

    path = folder / "ninja"
    if not path.exists():
        np_ninja.from_ndarray(path, np.array(data))
    rows = np_ninja.open_existing(path)
    rng = np.random.default_rng(1)

    def epoch() -> Iterator[Any]:
        order = rng.permutation(len(data))
        for start in range(0, len(data), batch):
            yield rows[order[start : start + batch]]

    return epoch


def _datasets(data: Rows, folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    import datasets  # type: ignore[import-not-found]

    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Array2D((1, data.shape[1]), "int32")})
    made = datasets.Dataset.from_dict({"x": np.array(data)[:, None]}, features=features).with_format("numpy")

    def epoch() -> Iterator[Any]:
        for found in made.shuffle(seed=1).iter(batch):
            yield found["x"]

    return epoch


def _grain(data: Rows, batch: int) -> Callable[[], Iterator[Any]]:
    import grain  # type: ignore[import-not-found]

    class Source:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, row: int) -> Any:
            return data[row]

    made = grain.MapDataset.source(Source()).shuffle(seed=1).batch(batch)
    return lambda: (made[i] for i in range(len(made)))


def _root(data: Rows, folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    import ROOT
    import uproot

    path = folder / "rows.root"
    if not path.exists():
        with uproot.recreate(path, compression=None) as file:
            for start in range(0, len(data), _GROUP):
                rows = {"x": np.array(data[start : start + _GROUP], np.float32)}
                if start:
                    file["rows"].extend(rows)
                else:
                    file["rows"] = rows

    frame = ROOT.RDataFrame("rows", str(path))
    in_memory = max((1 << 20) // batch, 10)
    options = {"max_vec_sizes": {"x": data.shape[1]}, "shuffle": True, "drop_remainder": False, "set_seed": 1}
    loader = ROOT.Experimental.ML.RDataLoader(frame, batch, in_memory, **options)
    return lambda: iter(loader.as_numpy())
