"""Other ways to count the rows that pass a cut: each reads the same values, and says what else it does or leaves out.

Files of peers hold plain values, without compression, which is the quickest that they can be read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Competitor

__all__ = ["Peers"]

_MAKE = 1 << 20
#: of the tree in the ROOT file
_TREE = "events"


class Peers:
    """The fields of a benchmark in the forms that peers read, made when the first asks.

    Parameters
    ----------
    folder : Path
        Where files are made, unless they are there.
    fields : mapping
        By name an array, or offsets and values of lists.
    check : callable
        Is given each count; raises where it is wrong.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Any], check: Callable[[Any], None]) -> None:
        self.folder = folder
        self.fields = fields
        self.check = check

    def _peer(self, name: str, make: Callable[[], Callable[[], Any]], *packages: str) -> Competitor:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                return Competitor(name, "peer", None, missing=f"{package} is not installed")
        return Competitor(name, "peer", make(), check=self.check)

    # ---------------------------------------------------------------------------------------------------- forms

    def awkward(self, start: int = 0, stop: int | None = None) -> Any:
        """The fields in memory."""
        import awkward as ak

        def one(field: Any) -> Any:
            if isinstance(field, np.ndarray):
                return ak.Array(np.array(field[start:stop]))
            offsets, values = field
            bounds = offsets[start : None if stop is None else stop + 1]
            items = ak.contents.NumpyArray(np.array(values[bounds[0] : bounds[-1]]))
            return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(bounds - bounds[0]), items))

        return ak.zip({name: one(field) for name, field in self.fields.items()}, depth_limit=1)

    def _rows(self) -> int:
        field = next(iter(self.fields.values()))
        return len(field) if isinstance(field, np.ndarray) else len(field[0]) - 1

    def _parquet(self) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def one(field: Any) -> Any:
            if isinstance(field, np.ndarray):
                return pa.array(field)
            return pa.LargeListArray.from_arrays(pa.array(field[0]), pa.array(field[1]))

        path = self.folder / "events.parquet"
        if not path.exists():
            table = pa.table({name: one(field) for name, field in self.fields.items()})
            pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=_MAKE)
        return path

    def _root(self) -> Path:
        import awkward as ak
        import uproot

        path = self.folder / "events.root"
        if not path.exists():
            with uproot.recreate(path, compression=None) as file:
                for start in range(0, self._rows(), _MAKE):
                    block = self.awkward(start, start + _MAKE)
                    columns = {name: ak.to_packed(block[name]) for name in block.fields}
                    if start:
                        file[_TREE].extend(columns)
                    else:
                        file[_TREE] = columns
        return path

    # ---------------------------------------------------------------------------------------------------- peers

    def in_memory(self, cut: Callable[[Any], Any]) -> Callable[[], int]:
        """Awkward, all fields in memory beforehand."""
        array = self.awkward()
        return lambda: int(np.count_nonzero(np.asarray(cut(array))))

    def numexpr(self, cut: str, threads: int) -> Competitor:
        def make() -> Callable[[], int]:
            import numexpr

            def run() -> int:
                numexpr.set_num_threads(threads)
                mask: npt.NDArray[np.bool_] = numexpr.evaluate(cut, dict(self.fields))
                return int(np.count_nonzero(mask))

            return run

        return self._peer(f"numexpr, {_threads(threads)}, mask in memory", make, "numexpr")

    def polars(self, cut: Callable[[Any], Any]) -> Competitor:
        def make() -> Callable[[], int]:
            import polars as pl

            path = self._parquet()
            return lambda: int(pl.scan_parquet(path).filter(cut(pl.col)).select(pl.len()).collect().item())

        return self._peer("polars, parquet decoded, all cores, counted only", make, "polars", "pyarrow")

    def duckdb(self, cut: str, threads: int) -> Competitor:
        def make() -> Callable[[], int]:
            import duckdb

            path = self._parquet()
            connection = duckdb.connect(config={"threads": threads})
            query = f"SELECT count(*) FROM read_parquet('{path}') WHERE {cut}"
            return lambda: int(connection.execute(query).fetchall()[0][0])

        name = f"duckdb, parquet decoded, {_threads(threads)}, counted only"
        return self._peer(name, make, "duckdb", "pyarrow")

    def rdataframe(self, cut: str, threads: int) -> Competitor:
        def make() -> Callable[[], int]:
            import ROOT

            path = str(self._root())

            def run() -> int:
                if ROOT.IsImplicitMTEnabled() and threads == 1:
                    ROOT.DisableImplicitMT()
                elif threads > 1:
                    ROOT.EnableImplicitMT(threads)
                return int(ROOT.RDataFrame(_TREE, path).Filter(cut).Count().GetValue())

            return run

        name = f"RDataFrame, ROOT file decoded, {_threads(threads)}, cut compiled, counted only"
        return self._peer(name, make, "ROOT")


def _threads(n: int) -> str:
    return "one thread" if n == 1 else f"{n} threads"
