"""``mmdask verify``, ``compact`` and ``vacuum``: what keeps a store well."""

from __future__ import annotations

import argparse
from typing import Any

import mmdask as mm
from mmdask import display
from mmdask.store.commit import amount

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of argparse."""
    verify = commands.add_parser(
        "verify",
        help="check every byte of a store",
        description="Check every byte of a store against its checksums; exit status 1 if anything is wrong.",
    )
    verify.add_argument("store")
    how = verify.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="only documents, and sizes of files")
    how.add_argument(
        "--sample",
        type=_sample,
        metavar="X",
        help="only a fraction of the data (0.1), or some extents of each array (3)",
    )
    verify.add_argument("--seed", type=int, metavar="N", help="of the sample; the report names the one that was used")
    verify.add_argument("--generation", type=int, metavar="N", help="an older generation")
    verify.add_argument("--threads", type=int, metavar="N", help="threads that read; up to 8 by default")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    verify.set_defaults(run=_verify)

    compact = commands.add_parser(
        "compact",
        help="merge small parts of a store",
        description="Merge neighbouring small parts of a store. Rows keep their numbers; older generations stay.",
    )
    compact.add_argument("store")
    compact.add_argument("--part-nbytes", default="1 GiB", metavar="SIZE", help="bytes of a part (%(default)s)")
    compact.add_argument("--quiet", action="store_true", help="no progress bar")
    compact.set_defaults(run=_compact)

    vacuum = commands.add_parser(
        "vacuum",
        help="free the space of what a store no longer needs",
        description="Remove old generations, parts that none is made of, and what dead writers left.",
    )
    vacuum.add_argument("store")
    vacuum.add_argument("--keep", type=int, default=100, metavar="N", help="generations that stay (%(default)s)")
    vacuum.add_argument(
        "--grace",
        default="7d",
        metavar="TIME",
        help="how long it was not needed: 7d, 12h, 0 (%(default)s)",
    )
    vacuum.add_argument("--cuts", action="store_true", help="remove the cuts that are kept in the store, too")
    vacuum.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    vacuum.set_defaults(run=_vacuum)


def _verify(args: argparse.Namespace) -> int:
    report = mm.verify(
        args.store,
        quick=args.quick,
        sample=args.sample,
        seed=args.seed,
        generation=args.generation,
        threads=args.threads,
        show_progress=not args.quiet,
    )
    print("\n".join(map(display.terminal_safe, str(report).split("\n"))))
    return 0 if report.ok else 1


def _sample(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _compact(args: argparse.Namespace) -> int:
    before = mm.open(args.store)
    mm.compact(args.store, part_nbytes=args.part_nbytes, progress=not args.quiet)
    after = before.refresh()
    n, m = (len(ds._rows.snapshot.parts) for ds in (before, after))
    if after.generation == before.generation:
        print(f"nothing to merge in {amount(n, 'part')}")
    else:
        sizes = f"{display.nbytes_text(before.nbytes)} before, {display.nbytes_text(after.nbytes)} now"
        print(f"{amount(n, 'part')} became {display.count_text(m)}; {sizes}")
        print("older generations keep their parts, until mmdask vacuum removes them")
    return 0


def _vacuum(args: argparse.Namespace) -> int:
    report = mm.vacuum(args.store, keep=args.keep, grace=args.grace, cuts=args.cuts, dry_run=args.dry_run)
    print(display.terminal_safe(str(report)))
    return 0
