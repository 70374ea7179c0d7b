"""The command ``mmdask``: convert, info, verify, demo."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import mmdask as mm
from mmdask import display

__all__ = ["main"]

_CONVERT_EXAMPLE = """\
example:
  mmdask convert -o events.mm \\
      'ttbb_*.root:nominal' process=ttbb year=2016 \\
      'ttH_*.root:nominal'  process=ttH  year=2016
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 for an error that it names, 2 for wrong usage, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        status: int = args.run(args)
    except mm.MmdaskError as error:
        print(f"mmdask: {display.terminal_safe(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        # The system refused something: a full disk, a folder that may not be written.
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        print(f"mmdask: {display.terminal_safe(str(error) + notes)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mmdask: interrupted; nothing that was committed is lost, and the same command goes on", file=sys.stderr)
        return 130
    return status


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"mmdask: warning: {display.terminal_safe(str(message))}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmdask", description="Memory-mapped stores as lazy dask arrays, cuts kept once, shuffled batches."
    )
    parser.add_argument("--version", action="version", version=f"mmdask {mm.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    convert = commands.add_parser(
        "convert",
        help="convert ROOT files to a store",
        description="Convert TTrees of ROOT files to a store. Run again, it converts only what is new or changed.",
        epilog=_CONVERT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE [LABEL=VALUE ...]",
        help="file, glob or file:tree, each followed by the labels of its rows",
    )
    convert.add_argument("-o", "--output", required=True, metavar="STORE", help="the store")
    convert.add_argument("--fields", nargs="+", metavar="NAME", help="branches or patterns to take; all by default")
    convert.add_argument("--exclude", nargs="+", metavar="NAME", help="branches or patterns to leave out")
    convert.add_argument("--tree", help="for sources that name none")
    convert.add_argument("--update", action="store_true", help="convert again when the options are others than before")
    convert.add_argument(
        "--missing", choices=["error", "drop"], default="error", help="what to do with rows of files that are gone"
    )
    convert.add_argument("--quiet", action="store_true", help="no progress bar")
    convert.set_defaults(run=_convert)

    info = commands.add_parser("info", help="show what a store holds", description="Show what a store holds.")
    info.add_argument("store")
    info.set_defaults(run=_info)

    verify = commands.add_parser(
        "verify",
        help="check every byte of a store",
        description="Check every byte of a store against its checksums; exit status 1 if anything is wrong.",
    )
    verify.add_argument("store")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    verify.set_defaults(run=_verify)

    demo = commands.add_parser(
        "demo",
        help="the whole way on files that it makes",
        description="Make ROOT files of two processes, convert them, cut, split and run one shuffled epoch.",
    )
    demo.add_argument("folder", nargs="?", default="mmdask-demo", help="where files and store go (%(default)s)")
    demo.add_argument("--events", type=int, help="events of all files; the default makes about 200 MB")
    demo.set_defaults(run=_demo)
    return parser


def _convert(args: argparse.Namespace) -> int:
    ds = mm.from_root(
        _sources(args.sources),
        args.output,
        fields=args.fields,
        exclude=args.exclude,
        tree=args.tree,
        update=args.update,
        missing=args.missing,
        progress=not args.quiet,
    )
    print(repr(ds))
    return 0


def _sources(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sources with their labels: ``a.root x=1 b.root`` is ``{"a.root": {"x": 1}, "b.root": {}}``."""
    sources: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()) or os.path.exists(word):
            if word in sources:
                raise mm.OptionError(f"{word} is given twice")
            sources[word] = {}
        elif not sources:
            raise mm.OptionError(f"the label {word} comes before any source; write it behind the file that it is for")
        else:
            sources[list(sources)[-1]][name] = _value(value)
    return sources


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _info(args: argparse.Namespace) -> int:
    ds = mm.open(args.store)
    manifest = ds._rows.snapshot.manifest
    facts = [
        ["store", display.terminal_safe(ds.path)],
        ["rows", display.count_text(len(ds))],
        ["fields", display.count_text(len(ds.fields))],
        ["parts", display.count_text(len(manifest.parts))],
        ["size", display.nbytes_text(ds.nbytes)],
        ["generation", str(manifest.generation)],
        ["block rows", display.count_text(manifest.block_rows)],
    ]
    print("\n".join(f"{name:<12}{value}" for name, value in facts))
    print()
    fields = [
        [f.name, f.describe(), f.unit, ", ".join(f.labels[:6]) + (", ..." if len(f.labels) > 6 else "")]
        for f in ds.schema.values()
    ]
    print(display.text_table(fields, ["field", "type", "unit", "labels"]))
    if sources := ds.sources:
        print()
        rows = [[s.uri, s.tree, display.count_text(s.stop - s.start), str(len(s.skipped) or "")] for s in sources]
        print(display.text_table(rows, ["source", "tree", "rows", "fields left out"], align="llrr"))
    return 0


def _verify(args: argparse.Namespace) -> int:
    report = mm.verify(args.store, show_progress=not args.quiet)
    print("\n".join(map(display.terminal_safe, str(report).split("\n"))))
    return 0 if report.ok else 1


def _demo(args: argparse.Namespace) -> int:
    from mmdask import demo

    demo.run(args.folder, demo.EVENTS if args.events is None else args.events)
    return 0
