"""``mmdask cutflow``, ``hist`` and ``cuts``: counts and histograms of rows that pass cuts."""

from __future__ import annotations

import argparse
from typing import Any

import mmdask as mm
from mmdask import display

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of argparse."""
    cutflow = commands.add_parser(
        "cutflow",
        help="count the rows that pass cuts",
        description="Count the rows that pass each cut alone, all cuts up to it, and all but it.",
        epilog="example:\n  mmdask cutflow events.mm 'nJets >= 6' 'any(jet_pt > 100)' --weight w --by process\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cutflow.add_argument("store")
    cutflow.add_argument("cuts", nargs="+", metavar="CUT", help="as in 'nJets >= 6 & any(jet_pt > 100)'")
    cutflow.add_argument("--weight", metavar="W", help="a field, or an expression with one number per row")
    cutflow.add_argument("--by", metavar="FIELD", help="a category, or a field with few integers or booleans")
    cutflow.add_argument("--latex", action="store_true", help="print a LaTeX table")
    cutflow.set_defaults(run=_cutflow)

    hist = commands.add_parser(
        "hist",
        help="fill histograms and print them",
        description="Fill a histogram of each field or expression, all in one pass, and print them.",
        epilog="example:\n  mmdask hist events.mm met 'sum(jet_pt)' --range 0 1e6 --weight w --where 'nJets >= 6'\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hist.add_argument("store")
    hist.add_argument("fields", nargs="+", metavar="FIELD", help="a field, or an expression as 'sum(jet_pt)'")
    hist.add_argument("--bins", type=int, metavar="N", help="how many; 20 by default, whole numbers have one each")
    hist.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="where bins begin and end")
    hist.add_argument("--weight", metavar="W", help="a field, or an expression with one number per row or item")
    hist.add_argument("--by", metavar="FIELD", help="a category, or a field with few integers or booleans")
    hist.add_argument("--where", metavar="CUT", help="only rows that pass, as in 'nJets >= 6'")
    hist.set_defaults(run=_hist)

    cuts = commands.add_parser(
        "cuts",
        help="list or clear the cuts that are kept of a store",
        description="List the cuts that are kept of a store, or remove them; they are computed again when used.",
    )
    cuts.add_argument("store")
    cuts.add_argument("--clear", nargs="?", const="", metavar="CUT", help="remove all of them, or this one")
    cuts.add_argument("--older-than", default="0", metavar="TIME", help="with --clear: only what is older, as 30d, 12h")
    cuts.set_defaults(run=_cuts)


def _cutflow(args: argparse.Namespace) -> int:
    flow = mm.open(args.store).cutflow(args.cuts, weight=args.weight, by=args.by)
    print(flow.to_latex() if args.latex else repr(flow))
    return 0


def _hist(args: argparse.Namespace) -> int:
    from mmdask.dataset.sums.hist import text_histograms

    ds = mm.open(args.store)
    ds = ds if args.where is None else ds[ds.cut(args.where)]
    texts = text_histograms(ds._rows, args.fields, args.bins, args.range, args.weight, args.by)
    print("\n\n".join(texts))
    return 0


def _cuts(args: argparse.Namespace) -> int:
    kept = mm.open(args.store).cuts
    if args.clear is None:
        print(kept)
    else:
        n = kept.clear(args.clear or None, older_than=args.older_than)
        print(f"{display.amount(n, 'file')} removed from {display.terminal_safe(kept.path)}")
    return 0
