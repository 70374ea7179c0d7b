"""The demonstration: ROOT files of two processes, made up but shaped like an analysis's, and the whole way.

`make_files` writes the files, `run` takes them from there to shuffled batches. Numbers are drawn from simple
distributions; nothing here is a measurement or a simulation, but the two processes differ the way that a cut and a
network are meant to use.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.errors import OptionError

if TYPE_CHECKING:
    from mmdask.dataset.dataset import Dataset

__all__ = ["CUT", "EVENTS", "TREE", "make_files", "run"]

#: events of all files together that make about 200 MB
EVENTS = 1_350_000
#: the TTree in each file
TREE = "nominal"

_BASKET_EVENTS = 25_000
_N_FEATURES = 8


@dataclass(frozen=True)
class _Process:
    """What sets one process apart; energies in MeV."""

    name: str
    share: float  # of all events
    n_jets: float  # mean
    jet_pt: float  # mean above threshold
    central: float  # how much jets prefer the middle of the detector, >= 1
    tag_rate: float  # of a jet
    met: float  # width of each component
    weight: float
    negative: float  # share of negative weights
    shift: float  # of feat_00, halved for each further one


_PROCESSES = (
    _Process("ttbb", 0.6, 5.6, 42e3, 1.0, 0.30, 38e3, 0.85, 0.22, -0.3),
    _Process("ttH", 0.4, 6.6, 52e3, 1.3, 0.38, 44e3, 0.02, 0.03, 0.3),
)
_CAMPAIGNS = (("mc16a", 2016, 284_500), ("mc16d", 2017, 300_000))
_JET_THRESHOLD = 25e3
# Quantiles of the score bins 1, 2, 3 among untagged jets; bins 4 and 5 are the tagged ones, half each.
_UNTAGGED_BINS = (0.72, 0.9)


def make_files(
    folder: str | os.PathLike[str], events: int = EVENTS, *, seed: int = 1, progress: bool = True
) -> dict[Path, dict[str, Any]]:
    """Write ROOT files of two processes with uproot: two files each, one TTree ``nominal`` in every file.

    The same arguments give the same numbers. Files of the same names are replaced; a file appears when it is
    complete.

    Parameters
    ----------
    folder : path
        Where the files go; made if it is not there.
    events : int
        Events of all files together, 60 % of them ttbb. The default makes about 200 MB.
    seed : int
        Another seed gives other numbers.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    dict
        For each file its labels: ``{Path("ttbb_mc16a.root"): {"process": "ttbb", "year": 2016}, ...}``.

    Raises
    ------
    OptionError
        For a negative number of events or a negative seed.

    Notes
    -----
    The fields, energies in MeV:

    - ``eventNumber`` uint64, unique, above 2**53; ``runNumber`` uint32
    - ``weight_mc`` float32, signed: 22 % of ttbb are negative
    - ``nJets``, ``nBTags_77`` int32: jets, and those of them in score bins 4 and 5
    - ``met``, ``ht`` float32; ht is the sum of jet_pt
    - ``jet_pt`` (falling in each event), ``jet_eta``, ``jet_phi``, ``jet_e`` float32 arrays counted by nJets
    - ``jet_btag`` int32 array: score bins 1 to 5
    - ``feat_00`` to ``feat_07`` float32

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = make_files(folder, 100, progress=False)
    >>> sorted(path.name for path in files)
    ['ttH_mc16a.root', 'ttH_mc16d.root', 'ttbb_mc16a.root', 'ttbb_mc16d.root']
    """
    if events < 0 or seed < 0:
        raise OptionError(f"events and seed are not negative, got events={events}, seed={seed}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, dict[str, Any]] = {}
    first = 2**53 + 1
    with display.progress(events, "make ROOT files", "events", unit_scale=True, disable=not progress) as bar:
        for i, (process, (campaign, year, run), n) in enumerate(_shares(events)):
            path = folder / f"{process.name}_{campaign}.root"
            _write_file(path, _chunks(process, n, [seed, i], first, run), n, bar)
            files[path] = {"process": process.name, "year": year}
            first += 4 * n  # event numbers rise by 1 to 3
    return files


def _shares(events: int) -> Iterator[tuple[_Process, tuple[str, int, int], int]]:
    """Process, campaign and number of events of each file; the numbers sum to `events`."""
    n_ttbb = round(events * _PROCESSES[0].share)
    for process, n in zip(_PROCESSES, (n_ttbb, events - n_ttbb), strict=True):
        for campaign, part in zip(_CAMPAIGNS, (n - n // 2, n // 2), strict=True):
            yield process, campaign, part


def _chunks(process: _Process, n: int, seed: list[int], first: int, run: int) -> Iterator[dict[str, Any]]:
    for start in range(0, n, _BASKET_EVENTS):
        rng = np.random.default_rng([*seed, start])
        chunk = _events(process, min(_BASKET_EVENTS, n - start), rng)
        steps = rng.integers(1, 4, len(chunk["nJets"]), dtype=np.uint64)
        chunk["eventNumber"] = np.cumsum(steps) + np.uint64(first)
        chunk["runNumber"] = np.full(len(steps), run + start // _BASKET_EVENTS, np.uint32)
        first = int(chunk["eventNumber"][-1])
        yield chunk


def _events(process: _Process, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """One chunk of events: numpy arrays, and ``(offsets, values)`` for the jets."""
    counts = rng.poisson(process.n_jets, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    event = np.repeat(np.arange(n), counts)
    hardness = rng.gamma(6.0, 1 / 6.0, n)
    pt = (_JET_THRESHOLD + _falling(offsets, rng) * (process.jet_pt * hardness)[event]).astype(np.float32)
    jets = len(pt)
    eta = 2.5 * (1 - rng.random(jets, np.float32) ** (1 / process.central)) * rng.choice([-1, 1], jets)
    eta = eta.astype(np.float32)
    phi = ((rng.random(jets, np.float32) * 2 - 1) * np.pi).astype(np.float32)
    mass = pt * rng.uniform(0.05, 0.2, jets)
    btag = _tags(process.tag_rate, jets, rng)
    sums = np.concatenate([[0.0], np.cumsum(pt, dtype=np.float64)])
    met = np.hypot(*rng.normal(0, process.met, (2, n))) * np.sqrt(hardness)
    sign = np.where(rng.random(n) < process.negative, -1, 1)
    features = {
        f"feat_{i:02d}": (rng.standard_normal(n, np.float32) + np.float32(process.shift / 2**i))
        for i in range(_N_FEATURES)
    }
    return {
        "weight_mc": (sign * process.weight * rng.gamma(10, 0.1, n)).astype(np.float32),
        "nJets": counts.astype(np.int32),
        "nBTags_77": np.bincount(event[btag >= 4], minlength=n).astype(np.int32),
        "met": met.astype(np.float32),
        "ht": (sums[offsets[1:]] - sums[offsets[:-1]]).astype(np.float32),
        "jet_pt": (offsets, pt),
        "jet_eta": (offsets, eta),
        "jet_phi": (offsets, phi),
        "jet_e": (offsets, np.hypot(pt * np.cosh(eta), mass).astype(np.float32)),
        "jet_btag": (offsets, btag),
        **features,
    }


def _falling(offsets: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Exponential numbers of mean 1, falling within each event, drawn in order so that nothing is sorted.

    The k-th largest of n is the sum of E_j / j for j = k..n with independent exponential E_j
    (A. Renyi, On the theory of order statistics, 1953).
    """
    counts = np.diff(offsets)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    sums = np.concatenate([[0.0], np.cumsum(rng.standard_exponential(len(place)) / (place + 1))])
    falling: npt.NDArray[np.float64] = np.repeat(sums[offsets[1:]], counts) - sums[:-1]
    return falling


def _tags(rate: float, n: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Score bins 1 to 5 of `n` jets; a share `rate` is in 4 and 5."""
    edges = [*(q * (1 - rate) for q in _UNTAGGED_BINS), 1 - rate, 1 - rate / 2]
    return (1 + np.searchsorted(edges, rng.random(n), side="right")).astype(np.int32)


_TYPES: dict[str, str] = {
    "eventNumber": "u8",
    "runNumber": "u4",
    "weight_mc": "f4",
    "nJets": "i4",
    "nBTags_77": "i4",
    "met": "f4",
    "ht": "f4",
    "jet_pt": "var * float32",
    "jet_eta": "var * float32",
    "jet_phi": "var * float32",
    "jet_e": "var * float32",
    "jet_btag": "var * int32",
    **{f"feat_{i:02d}": "f4" for i in range(_N_FEATURES)},
}


def _write_file(path: Path, chunks: Iterator[dict[str, Any]], n: int, bar: Any) -> None:
    import awkward as ak
    import uproot

    draft = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with uproot.recreate(draft, compression=uproot.ZSTD(1)) as file:
            # All jet arrays share one counter, the field nJets itself, as in a tree that ROOT wrote.
            tree = file.mktree(
                TREE,
                _TYPES,
                counter_name=lambda _: "nJets",
                initial_basket_capacity=n // _BASKET_EVENTS + 2,
            )
            for chunk in chunks:
                tree.extend({name: _ragged(ak, v) if isinstance(v, tuple) else v for name, v in chunk.items()})
                bar.update(len(chunk["nJets"]))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _ragged(ak: Any, pair: tuple[npt.NDArray[np.int64], npt.NDArray[Any]]) -> Any:
    offsets, values = pair
    layout = ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(values))
    return ak.Array(layout)


# The whole way ------------------------------------------------------------------------------------------------------

CUT = "nJets >= 6 & nBTags_77 >= 2 & any(jet_pt > 100e3)"
_STEPS = ("nJets >= 6", "nBTags_77 >= 2", "any(jet_pt > 100e3)")
_BATCH_ROWS = 4096


def run(folder: str | os.PathLike[str], events: int = EVENTS) -> None:
    """Make ROOT files, convert, cut, split, and run shuffled epochs, printing what comes out.

    Parameters
    ----------
    folder : path
        Where the files (``root/``) and the store (``events.mm``) go; both stay.
    events : int
        Events of all files together.
    """
    import mmdask as mm
    from mmdask.rows import rows
    from mmdask.rows.cuts import masks

    root = Path(folder)
    labels = _files_of(root / "root", events)
    size = sum(path.stat().st_size for path in labels)
    _head(f"1. {len(labels)} ROOT files in {root / 'root'}: {display.nbytes_text(size)}, compressed")

    start = time.perf_counter()
    path = root / "events.mm"
    ds = mm.from_root(
        {f"{file}:{TREE}": of_file for file, of_file in labels.items()}, path, update=True, missing="drop"
    )
    seconds = time.perf_counter() - start
    _head(f"2. converted to {path}: {display.nbytes_text(ds.nbytes)}, not compressed, in {seconds:.2f} s")
    print("Run again, it takes only as long as looking at the times of the files.")
    print(repr(ds))

    _head(f"3. the cut {CUT}")
    shutil.rmtree(path / "cache", ignore_errors=True)
    for what in ("computed, and kept beside the store", "in a dataset just opened, read from there"):
        masks.LOADED.clear()  # what this process remembers, so that the file is read
        rows.RESOLVED.clear()
        ds = mm.open(path)
        start = time.perf_counter()
        n = ds.cut(CUT).count()
        print(f"{what}: {n:,} of {len(ds):,} rows in {1e3 * (time.perf_counter() - start):.1f} ms")

    _head("4. cut flow by process")
    print(ds.cutflow(_STEPS, weight="weight_mc", by="process"))

    _head("5. split by event number")
    parts = ds[ds.cut(CUT)].split({"train": 0.8, "val": 0.1, "test": 0.1}, by="eventNumber", seed=7)
    print(", ".join(f"{name} {len(part):,} rows" for name, part in parts.items()))

    _head(f"6. train in shuffled batches of {_BATCH_ROWS:,}: met, ht, 8 features, process, 12 jets with mask")
    _epochs(parts["train"])

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {display.nbytes_text(peak)}, mapped pages of the store included")
    _head("7. the store stays; look at it with")
    code = f"import mmdask as mm; print(mm.open({os.fspath(path)!r}))"
    print(f'python -c "{code}"' if not set(code) & set('"$`\\!') else f"python -c {shlex.quote(code)}")


def _head(text: str) -> None:
    print(f"\n{text}", flush=True)


def _files_of(folder: Path, events: int) -> dict[Path, dict[str, Any]]:
    """The files and their labels; made anew only if those there have another number of events."""
    labels = {
        folder / f"{process.name}_{campaign}.root": {"process": process.name, "year": year}
        for process, (campaign, year, _), _ in _shares(events)
    }
    note = folder / "events.json"
    if note.exists() and json.loads(note.read_text()) == events and all(file.exists() for file in labels):
        return labels
    note.unlink(missing_ok=True)
    files = make_files(folder, events)
    note.write_text(json.dumps(events))
    return files


def _epochs(train: Dataset) -> None:
    import mmdask as mm
    from mmdask.kernels import jit

    fields = train.schema.match(["met", "ht", "feat_*", "process", "jet_pt", "jet_eta"])
    collate = {name: mm.pad(12, value=0, mask=True) for name in ("jet_pt", "jet_eta")}
    loader = train.batches(_BATCH_ROWS, fields=fields, shuffle=True, seed=7, collate=collate)
    seen = np.zeros(len(mm.open(train.path)), np.uint8)
    for batch in loader:
        np.add.at(seen, batch.rows, 1)
    if seen.sum() != len(train) or seen.max(initial=0) > 1:
        raise AssertionError("a row did not come exactly once")
    print(f"{len(loader):,} batches in an epoch, every row exactly once")

    jit.wait()  # the first epoch also compiled, or loaded, its loops
    seconds: list[float] = []
    copying: list[float] = []
    nbytes = 0
    while len(seconds) < 3 or (sum(seconds) < 1 and len(seconds) < 50):
        start = time.perf_counter()
        nbytes = sum(array.nbytes for batch in loader for array in batch.values())
        seconds.append(time.perf_counter() - start)
        copying.append(_memcpy_seconds(nbytes))
    epoch, copy = float(np.median(seconds)), float(np.median(copying))
    print(
        f"{len(train) / epoch:,.0f} rows/s, {display.nbytes_text(nbytes / epoch)}/s: "
        f"{epoch / copy:.0f} times the time of copying the same bytes in memory, which goes at "
        f"{display.nbytes_text(nbytes / copy)}/s: here rows of many narrow fields are mixed, and jets padded to 12; "
        "rows of one wide field take two to three times the time of copying them"
    )


def _memcpy_seconds(nbytes: int) -> float:
    """Seconds to copy so many bytes in memory, from one place to another, both larger than the caches."""
    size = min(max(nbytes, 1), 256 << 20)
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    start = time.perf_counter()
    for _ in range(max(nbytes // size, 1)):
        np.copyto(target, source)
    return max(time.perf_counter() - start, 1e-9)
