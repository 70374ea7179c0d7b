"""Histograms of a dataset: what is asked for, its bins, and scikit-hep `hist` objects of what was filled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.dataset.optional import imported
from mmdask.dataset.run import dask_runner, resolve
from mmdask.errors import OptionError
from mmdask.expr import Expression, spelled_name
from mmdask.rows.cuts.passes import Runner
from mmdask.rows.rows import Rows
from mmdask.rows.sums.binning import Axis, Edges, Flags, Labels, Listed, Regular, Whole, fitting
from mmdask.rows.sums.counting import check_no_text
from mmdask.rows.sums.filling import MAX_LISTED, NO_ENDS, Coordinate, Ends, Filled, Histogram, ends, fill
from mmdask.schema import Schema

__all__ = ["Asked", "Bins", "Drawn", "axes_of", "filled", "histograms", "text_histograms", "texts_of"]

#: bins of one axis, as users give them
Bins = int | tuple[int, float, float] | range | Sequence[float] | npt.NDArray[Any] | None
#: bins of a real axis of which none are given; whole numbers that get a bin each
_N_BINS = 50
_N_TEXT = 20
_MOST_WHOLE = 100
#: names that an axis of `hist` may not have
_TAKEN = ("weight", "sample", "threads")
_BAR = 40


@dataclass(frozen=True)
class Drawn:
    """A histogram that was filled: names of its axes, their labels, and the numbers."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    axes: tuple[Axis, ...]
    filled: Filled


@dataclass(frozen=True, eq=False)
class Asked:
    """One axis that is asked for.

    `listed`: each number that occurs is a bin. `n_bins`: how many there are if it is not said.
    """

    name: str
    label: str
    coordinate: Coordinate
    bins: Any
    listed: bool = False
    n_bins: int = _N_BINS


def texts_of(fields: Sequence[Any], *others: str | None) -> list[str]:
    """Every expression in the arguments of `Dataset.hist`."""
    keys = [key for f in fields for key in (f if isinstance(f, Mapping) else [f])]
    texts = [text for key in keys for text in (key if isinstance(key, tuple) else [key])]
    return [text for text in (*texts, *others) if isinstance(text, str)]


def histograms(
    rows: Rows,
    fields: Sequence[str | Mapping[Any, Bins]],
    bins: Any,
    limits: tuple[float, float] | None,
    weight: str | None,
    by: str | None,
) -> Any:
    """Fill `hist` objects; the parameters are those of `Dataset.hist`."""
    _hist()  # before any pass
    keys, asked = _asked(rows, fields, bins, limits)
    found = [_as_hist(drawn) for drawn in filled(rows, asked, weight, by)]
    return found[0] if keys is None else dict(zip(keys, found, strict=True))


def text_histograms(
    rows: Rows, fields: Sequence[str], n: int | None, limits: Sequence[float] | None, weight: str | None, by: str | None
) -> list[str]:
    """Histograms as text, of one field each; needs no `hist`. The parameters are those of `Dataset.hist`."""
    asked = []
    for field in fields:
        [a] = axes_of(rows, [field], None, None)
        if isinstance(a.coordinate, Expression) and a.coordinate.dtype.kind != "b":
            some = _N_TEXT if n is None and limits is not None else n
            [a] = axes_of(rows, [field], some, limits)  # labels and booleans have bins of their own
        asked.append([replace(a, n_bins=_N_TEXT)])
    return [text_of(drawn) for drawn in filled(rows, asked, weight, by)]


def filled(rows: Rows, asked: Sequence[Sequence[Asked]], weight: str | None, by: str | None) -> list[Drawn]:
    """Find the bins that are not given, and fill everything in one pass."""
    run = dask_runner("hist", dict.fromkeys(a.name for axes in asked for a in axes))
    first = [] if by is None else [_by(rows, by)]
    every = [[*first, *axes] for axes in asked]
    for axes in every:
        twice = [a.name for a, b in itertools.combinations(axes, 2) if a.name == b.name]
        if twice:
            raise OptionError(f"a histogram has {twice[0]!r} once, and it is given twice")
    weights = None if weight is None else _weight(rows, weight, asked)
    resolve(rows)
    found = _found(rows, [a for axes in every for a in axes], run)
    wanted = [
        Histogram(tuple([a.coordinate for a in axes]), tuple([_axis(a, rows.schema, found) for a in axes]), weights)
        for axes in every
    ]
    results = fill(rows, wanted, run)
    return [
        Drawn(tuple([a.name for a in axes]), tuple([a.label for a in axes]), h.axes, result)
        for axes, h, result in zip(every, wanted, results, strict=True)
    ]


# What is asked for --------------------------------------------------------------------------------------------------


def _asked(rows: Rows, fields: Sequence[Any], bins: Any, limits: Any) -> tuple[list[Any] | None, list[list[Asked]]]:
    """The keys of what is given as a mapping, and the axes of each histogram."""
    if len(fields) == 1 and isinstance(fields[0], Mapping):
        if bins is not None or limits is not None:
            raise OptionError("bins of several histograms stand in the mapping, as in {'met': 50, 'ht': (20, 0, 1e6)}")
        every = []
        for key, given in fields[0].items():
            names = key if isinstance(key, tuple) else (key,)
            every.append(axes_of(rows, names, given, None))
        return list(fields[0]), every
    return None, [axes_of(rows, fields, bins, limits)]


def axes_of(rows: Rows, names: Sequence[Any], bins: Any, limits: Any) -> list[Asked]:
    """The axes of one histogram; `bins` are those of the one axis, or one number for all, or a list of them."""
    if not names or not all(isinstance(name, str) for name in names):
        raise OptionError(
            "a histogram is of fields or expressions, as text, ds.hist('met') or ds.hist('met', 'sum(jet_pt)'); "
            f"several at once are a mapping, ds.hist({{'met': 50, 'ht': (20, 0, 1e6)}}); got {names!r}"
        )
    if len(names) == 1:
        each = [bins]
    elif bins is None or (isinstance(bins, int) and not isinstance(bins, bool)):
        each = [bins] * len(names)
    elif isinstance(bins, list | tuple) and len(bins) == len(names):
        each = list(bins)
    else:
        raise OptionError(f"bins of {len(names)} axes are one number for all, or a list of {len(names)}; got {bins!r}")
    if limits is not None:
        [low, high] = _limits(limits)
        if len(names) > 1 or not (each[0] is None or isinstance(each[0], int)):
            raise OptionError("range= is for one axis and a number of bins; give bins=(n, low, high) for each axis")
        each = [(_N_BINS if each[0] is None else each[0], low, high)]
    return [_axis_asked(rows, name, given) for name, given in zip(names, each, strict=True)]


def _limits(limits: Any) -> tuple[float, float]:
    if not isinstance(limits, list | tuple | np.ndarray) or len(limits) != 2:
        raise OptionError(f"range= is a lower and an upper end, as (0, 200e3); got {limits!r}")
    return limits[0], limits[1]


def _axis_asked(rows: Rows, text: str, bins: Bins) -> Asked:
    name = f"{text}_" if text in _TAKEN else " ".join(text.split())
    field = rows.schema.get(text)
    if field is None:
        return Asked(name, name, rows.check(text), bins)
    label = f"{text} [{field.unit}]" if field.unit else text
    if field.kind != "category":
        return Asked(name, label, rows.check(spelled_name(text)), bins)
    if bins is not None:
        raise OptionError(f"the bins of {text!r} are its labels; got bins={bins!r}")
    return Asked(name, label, text, None)


def _by(rows: Rows, by: str) -> Asked:
    if not isinstance(by, str):
        raise OptionError(f"by= is a field or an expression, as text; got {type(by).__name__}")
    if by in rows.schema:
        check_no_text(by, rows.schema[by])
    asked = _axis_asked(rows, by, None)
    e = asked.coordinate
    if isinstance(e, Expression) and (e.depth or e.dtype.kind not in "biu"):
        what = "one value per item" if e.depth else "real numbers"
        raise OptionError(f"by={by!r} has {what}; a histogram is split by a category, or by booleans or integers")
    return replace(asked, listed=True)


def _weight(rows: Rows, text: str, asked: Sequence[Sequence[Asked]]) -> Expression:
    if not isinstance(text, str):
        raise OptionError(f"a weight is a field name or an expression, as text; got {type(text).__name__}")
    weight = rows.check(spelled_name(text) if text in rows.schema else text)
    if weight.dtype.kind not in "iuf":
        raise OptionError(f"weight={text!r} is a boolean, and a weight is a number; write where({text}, 1, 0)")
    for axes in asked:
        depth = max([a.coordinate.depth if isinstance(a.coordinate, Expression) else 0 for a in axes])
        if weight.depth > depth:
            names = ", ".join([repr(a.name) for a in axes])
            raise OptionError(
                f"weight={text!r} has one value per item, and {names} one per row; write sum({text}), say"
            )
    return weight


# Bins ---------------------------------------------------------------------------------------------------------------


def _found(rows: Rows, asked: Sequence[Asked], run: Runner) -> dict[Asked, Ends]:
    """Between which numbers values lie where bins depend on it; in one pass, unless the store says it."""
    found: dict[Asked, Ends] = {}
    left: dict[Asked, Expression] = {}
    for a in asked:
        e = a.coordinate
        if isinstance(e, Expression) and e.dtype.kind != "b" and (a.bins is None or isinstance(a.bins, int)):
            stored = _stored_ends(rows, e, listed=a.listed)
            if stored is None:
                left[a] = e
            else:
                found[a] = stored
    if left:
        found |= dict(zip(left, ends(rows, list(left.values()), run), strict=True))
    return found


def _stored_ends(rows: Rows, e: Expression, *, listed: bool) -> Ends | None:
    """What the parts of a store say of a field, if all rows are looked at; None if they do not say enough."""
    if e.typed.op != "field" or rows.steps:
        return None
    [name] = e.fields
    field, snapshot = rows.snapshot.schema[name], rows.snapshot
    found = NO_ENDS
    for number, part in enumerate(snapshot.parts):
        if not part.rows:
            continue
        _, stored = snapshot.stored(number, name)
        if stored.constant is not None:
            value = np.array(stored.constant, field.dtype).item()
            here = Ends(value, value, frozenset([value]))
            here = NO_ENDS if value != value else here
        elif stored.bounds is None or listed:
            return None
        else:
            here = Ends(stored.bounds.low, stored.bounds.high)
        if not all(x is None or math.isfinite(x) for x in here[:2]):
            return None
        found |= here
    return None if listed and found.listed is None else found


def _axis(a: Asked, schema: Schema, found: Mapping[Asked, Ends]) -> Axis:
    """The bins of an axis."""
    bins, e = a.bins, a.coordinate
    if isinstance(e, str):
        return Labels(schema[e].labels)
    if a.listed and e.dtype.kind != "b":
        return _listed(a.name, found[a])
    if e.dtype.kind == "b":
        if bins is not None:
            raise OptionError(f"{a.name!r} is true or false, which are its two bins; got bins={bins!r}")
        return Flags()
    if bins is None:
        low, high = found[a].low, found[a].high
        if isinstance(low, int) and isinstance(high, int) and high - low < _MOST_WHOLE and _fits(low, high):
            return Whole(low, high + 1)
        return fitting(a.n_bins, *_some(found[a]))
    if isinstance(bins, int) and not isinstance(bins, bool):
        return fitting(_number(bins), *_some(found[a]))
    if isinstance(bins, tuple):
        return _regular(bins)
    if isinstance(bins, range):
        if bins.step != 1 or not bins or not _fits(bins.start, bins.stop):
            raise OptionError(f"a range gives each whole number a bin: range(0, 12); got {bins!r}")
        return Whole(bins.start, bins.stop)
    return _edges(bins)


def _some(found: Ends) -> tuple[float, float]:
    """As in numpy, from 0 to 1 if there are no values."""
    return (0, 1) if found.low is None or found.high is None else (found.low, found.high)


def _fits(low: int, high: int) -> bool:
    """Whether whole numbers can be bins of `hist`."""
    return -(1 << 31) < low <= high < (1 << 31) - 1


def _listed(name: str, found: Ends) -> Listed:
    if found.listed is None:
        raise OptionError(
            f"by={name!r} has more than {MAX_LISTED:,} different values; a histogram is split by what has few"
        )
    values = tuple(sorted(found.listed))
    if values and not _fits(values[0], values[-1]):
        raise OptionError(f"by={name!r} has values beyond 32 bits, which an axis of hist cannot have")
    return Listed(values)


def _number(n: Any) -> int:
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise OptionError(f"a number of bins is an integer of 1 or more, got {n!r}; edges are a list")
    return int(n)


def _regular(bins: tuple[Any, ...]) -> Regular:
    try:
        n, low, high = bins
        n, low, high = _number(n), float(low), float(high)
    except (TypeError, ValueError):
        raise OptionError(
            f"bins are a number of them, (n, low, high), a list of edges, or a range of whole numbers; got {bins!r}"
        ) from None
    if not (low < high and math.isfinite(high - low)):
        raise OptionError(f"bins go from a number to a larger one; got {low:g} and {high:g}")
    return Regular(n, low, high)


def _edges(bins: Any) -> Edges:
    try:
        edges = np.asarray(bins, np.float64)
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if edges.ndim != 1 or len(edges) < 2 or not (edges[1:] > edges[:-1]).all():
        raise OptionError(
            "bins are a number of them, (n, low, high), a list of two or more ascending edges, or a range of whole "
            f"numbers; got {bins!r}"
        )
    return Edges(tuple(edges.tolist()))


# Looks --------------------------------------------------------------------------------------------------------------


def _hist() -> Any:
    return imported("hist", "mmdask[plot]")


def _as_hist(drawn: Drawn) -> Any:
    hist = _hist()
    filled = drawn.filled
    storage = hist.storage.Int64() if filled.squares is None else hist.storage.Weight()
    axes = [_hist_axis(hist, *one) for one in zip(drawn.axes, drawn.names, drawn.labels, strict=True)]
    h = hist.Hist(*axes, storage=storage)
    view = h.view(flow=True)
    if filled.squares is None:
        view[...] = filled.sums
    else:
        view.value, view.variance = filled.sums, filled.squares
    h.metadata = {"entries": filled.entries, "nan": filled.nan, "missing": filled.missing}
    return h


def _hist_axis(hist: Any, axis: Axis, name: str, label: str) -> Any:
    names = {"name": name, "label": display.plot_text(label) if "$" in label else label}
    match axis:
        case Regular():
            return hist.axis.Regular(axis.n, axis.low, axis.high, **names)
        case Edges():
            return hist.axis.Variable(axis.values, **names)
        case Whole():
            return hist.axis.Integer(axis.start, axis.stop, **names)
        case Flags():
            return hist.axis.Boolean(**names)
        case Labels():
            return hist.axis.StrCategory(axis.labels, **names)
        case Listed():
            return hist.axis.IntCategory(axis.values, **names)


def text_of(drawn: Drawn) -> str:
    """A histogram as text, one line for each bin; of two axes, one column for each bin of the first."""
    sums, filled = drawn.filled.sums, drawn.filled
    names = bin_names(drawn.axes[-1])
    used = [j for j, name in enumerate(names) if name and (j not in _flow(drawn.axes[-1]) or sums[..., j].any())]
    if len(drawn.axes) == 1:
        cells = _bars(sums[used])
        headers, align = [drawn.labels[0], "entries" if filled.squares is None else "sum of weights", ""], "lrl"
    else:
        groups = [(i, name) for i, name in enumerate(bin_names(drawn.axes[0])) if name]
        cells = [[_cell(sums[i, j]) for i, _ in groups] for j in used]
        headers, align = [drawn.labels[-1], *[name for _, name in groups]], "l" + "r" * len(groups)
    rows = [[names[j], *line] for j, line in zip(used, cells, strict=True)]
    counts = [f"{n:,} {key}" for key in ("nan", "missing") if (n := getattr(filled, key))]
    entries = f"{filled.entries:,} {'entry' if filled.entries == 1 else 'entries'}"
    return "\n".join([display.text_table(rows, headers, align=align), ", ".join([entries, *counts])])


def _flow(axis: Axis) -> tuple[int, ...]:
    """Bins that are shown only if something is in them."""
    return (0, axis.size - 1) if isinstance(axis, Regular | Edges | Whole) else ()


def _bars(sums: npt.NDArray[Any]) -> list[list[str]]:
    numbers = sums.astype(np.float64)
    most = float(np.max(numbers, initial=0, where=np.isfinite(numbers)))
    cells = []
    for x, number in zip(sums, numbers.tolist(), strict=True):
        eighths = round(8 * _BAR * number / most) if most and 0 < number <= most else 0
        cells.append([_cell(x), "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()])
    return cells


def _cell(x: np.number[Any]) -> str:
    return display.count_text(int(x)) if isinstance(x, np.integer) else f"{x:.6g}"


def bin_names(axis: Axis) -> list[str]:
    """What the bins of an axis are called, the flow included; empty for what needs no name."""
    match axis:
        case Labels():
            return [*axis.labels, ""]
        case Listed():
            return [*map(str, axis.values), ""]
        case Flags():
            return ["False", "True"]
        case Whole():
            return [f"< {axis.start}", *map(str, range(axis.start, axis.stop)), f">= {axis.stop}"]
    edges = [f"{x:.6g}" for x in axis.edges.tolist()]
    return [f"< {edges[0]}", *[f"{a} to {b}" for a, b in itertools.pairwise(edges)], f">= {edges[-1]}"]
