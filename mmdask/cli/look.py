"""``mmdask info``, ``head`` and ``history``: what a store holds."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import mmdask as mm
from mmdask import display
from mmdask.dataset.listing import History
from mmdask.store.commit import amount
from mmdask.store.snapshot import Snapshot

__all__ = ["add_commands"]

#: characters of a name in a table of rows
_LONGEST = 48


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of argparse."""
    info = commands.add_parser("info", help="show what a store holds", description="Show what a store holds.")
    info.add_argument("store")
    info.set_defaults(run=_info)

    head = commands.add_parser("head", help="show the first rows", description="Show the first rows of a store.")
    head.add_argument("store")
    head.add_argument("-n", type=int, default=5, metavar="N", help="how many (%(default)s)")
    head.add_argument("--fields", nargs="+", metavar="NAME", help="fields or patterns; all by default")
    head.add_argument("--where", metavar="CUT", help="only rows that pass, as in 'nJets >= 6'")
    head.set_defaults(run=_head)

    history = commands.add_parser(
        "history",
        help="list the generations of a store",
        description="List the generations of a store that can still be opened, the newest first.",
    )
    history.add_argument("store")
    history.add_argument("-n", type=int, metavar="N", help="only the newest N")
    history.set_defaults(run=_history)


def _info(args: argparse.Namespace) -> int:
    ds = mm.open(args.store)
    manifest = ds._rows.snapshot.manifest
    newest = f"{manifest.generation}: {manifest.action}" if manifest.action else str(manifest.generation)
    facts = [
        ["store", ds.path],
        ["rows", display.count_text(len(ds))],
        ["fields", display.count_text(len(ds.fields))],
        ["parts", display.count_text(len(manifest.parts))],
        ["size", display.nbytes_text(ds.nbytes)],
        *_stored(ds._rows.snapshot),
        ["generation", newest],
        *([["committed", manifest.time]] if manifest.time else []),
        ["history", f"{amount(len(ds.history()), 'generation')} can be opened"],
        ["block rows", display.count_text(manifest.block_rows)],
    ]
    print("\n".join(f"{name:<12}{display.terminal_safe(value)}" for name, value in facts))
    print()
    print(display.text_table(*ds.schema.table()))
    if manifest.aux:
        print()
        print(display.text_table(*manifest.aux.table("aux")))
    if manifest.attrs:
        print()
        attrs = [[name, _short(json.dumps(value, ensure_ascii=False))] for name, value in manifest.attrs.items()]
        print(display.text_table(attrs, ["attr", "value"]))
    if sources := ds.sources:
        print()
        print(sources.text())
    return 0


def _stored(snapshot: Snapshot) -> list[list[str]]:
    """How arrays are stored that are no plain files, and the bytes that they take so."""
    form = snapshot.manifest.zarr
    if form is None:
        return []
    layers = dict.fromkeys(layer for part in snapshot.parts for layer in part.layers)
    arrays = [array for layer in layers for array in snapshot.layer(layer).arrays]
    nbytes = sum(sum(array.zarr.sizes) for array in arrays if array.zarr is not None)
    kept = "" if form.keepbits is None else f", {form.keepbits} bits of mantissas kept"
    return [["stored", f"{display.nbytes_text(nbytes)} of zarr, {form.codec}{kept}"]]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _head(args: argparse.Namespace) -> int:
    if args.n < 1:
        raise mm.OptionError(f"-n is a number of rows, 1 or more, got {args.n}")
    ds = mm.open(args.store)
    ds = ds if args.fields is None else ds[args.fields]
    ds = ds if args.where is None else ds[ds.cut(args.where)]
    rows = [ds[i] for i in range(min(args.n, len(ds)))]
    # A pipe or file takes lines of any length.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for items in (3, 2, 1):  # as many of a list as there is room for
        columns = [[_cell(row[name], items) for name in ds.fields] for row in rows]
        runs = list(_fitting(ds.fields, columns, width))
        if len(runs) <= 1:
            break
    for start, stop in runs:
        lines = [[name, *cells] for name, *cells in zip(ds.fields, *columns[start:stop], strict=True)]
        headers = ["row", *map(str, range(start, stop))]
        print("\n" * (start > 0) + display.text_table(lines, headers, "l" + "r" * (stop - start), longest=_LONGEST))
    print(f"{display.amount(len(rows), 'row')} of {display.count_text(len(ds))}")
    return 0


def _fitting(names: Sequence[str], columns: Sequence[Sequence[str]], width: int | None) -> Iterator[tuple[int, int]]:
    """From which column to which there is room beside the names, again and again; one column at least."""
    left = min(max(map(len, names), default=0), _LONGEST)
    start, used = 0, left
    for i, column in enumerate(columns):
        needed = 2 + max(map(len, column), default=0)
        if width is not None and i > start and used + needed > width:
            yield start, i
            start, used = i, left
        used += needed
    yield start, len(columns)


def _cell(value: Any, items: int = 3) -> str:
    """A value of a row in a few characters."""
    if value is None:
        return "missing"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, str | bytes | np.generic) or not hasattr(value, "__len__"):
        text = str(value)
        return text if len(text) <= 24 else f"{text[:21]}..."
    if getattr(value, "ndim", 1) > 1:
        shape = " x ".join(map(str, value.shape)) if isinstance(value, np.ndarray) else f"{len(value)} lists"
        return f"[{shape}]"
    shown = ", ".join([_cell(None if x is np.ma.masked else x) for x in value[:items]])
    return f"[{shown}, ...] ({len(value)})" if len(value) > items else f"[{shown}]"


def _history(args: argparse.Namespace) -> int:
    if args.n is not None and args.n < 1:
        raise mm.OptionError(f"-n is a number of generations, 1 or more, got {args.n}")
    print(History(mm.open(args.store).history()[-args.n if args.n else 0 :]).text())
    return 0
