"""The command ``mmdask``: inspect, convert, export, info, head, cutflow, hist, cuts, history, verify, compact, vacuum."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import mmdask as mm
from mmdask import display
from mmdask.dataset.listing import History
from mmdask.store.commit import amount

__all__ = ["main"]

#: characters of a name in a table of rows
_LONGEST = 48

_CONVERT_EXAMPLE = """\
example:
  mmdask convert -o events.mm \\
      'ttbb_*.root:nominal' process=ttbb year=2016 \\
      'ttH_*.root:nominal'  process=ttH  year=2016
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    That is 0, 1 for an error that it names, 2 for wrong usage, 130 for Ctrl-C, 141 where nobody reads what it prints.
    """
    args = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads the output wants no more of it, as in `mmdask info x | head`. The end of Python flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except mm.ExpressionError as error:
        # Its lines are the text, which the user wrote, and a caret under the place.
        print("mmdask: " + "\n".join(map(display.terminal_safe, str(error).split("\n"))), file=sys.stderr)
        return 1
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

    inspect = commands.add_parser(
        "inspect",
        help="show what a ROOT file holds",
        description="Show what a ROOT file holds, and what convert makes of it: the trees of a file, and the branches "
        "of the only tree, or of one that is named as in file.root:tree.",
    )
    inspect.add_argument("file", metavar="FILE[:TREE]")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser(
        "convert",
        help="convert ROOT files to a store",
        description="Convert TTrees and RNTuples to a store. Run again, it converts only what is new or changed.",
        epilog=_CONVERT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE [LABEL=VALUE ...]",
        help="file, address, glob or file:tree, each followed by the labels of its rows",
    )
    convert.add_argument("-o", "--output", required=True, metavar="STORE", help="the store")
    convert.add_argument("--fields", nargs="+", metavar="NAME", help="branches or patterns to take; all by default")
    convert.add_argument("--exclude", nargs="+", metavar="NAME", help="branches or patterns to leave out")
    convert.add_argument("--tree", help="for sources that name none")
    convert.add_argument("--cut", metavar="CUT", help="keep only rows that pass, as in 'nJets >= 4 & any(jet_pt > 30)'")
    convert.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME=EXPR",
        help="a field that is computed, as in 'ht=sum(jet_pt)'; may be given several times",
    )
    convert.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="W",
        help="keep the sum of this over all rows before the cut; may be given several times",
    )
    convert.add_argument(
        "--on-mismatch",
        action="append",
        default=[],
        metavar="[NAME=]MODE",
        help="what to do with fields that files do not have alike: error (default), common, promote, or a dtype; for "
        "some fields as in 'event*=common'; may be given several times",
    )
    convert.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="another name of a field, as in 'GEN.x=gen_x' or 'jet_*=j_*'; may be given several times",
    )
    convert.add_argument(
        "--pad",
        action="append",
        default=[],
        metavar="NAME=N[,VALUE]",
        help="cut or fill the lists of a field to N items, as in 'jet_pt=22,nan'; may be given several times",
    )
    convert.add_argument("--tree-label", metavar="NAME", help="a label that is the tree's name, for 'file:nominal*'")
    convert.add_argument("--update", action="store_true", help="convert again when the options are others than before")
    convert.add_argument(
        "--missing", choices=["error", "drop"], default="error", help="what to do with rows of files that are gone"
    )
    convert.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the work (%(default)s)"
    )
    convert.add_argument(
        "--check",
        choices=["stat", "hash"],
        default="stat",
        help="what tells that a file changed: size and time, or its contents (%(default)s)",
    )
    convert.add_argument("--plan", action="store_true", help="only say what would be done, and why")
    convert.add_argument("--quiet", action="store_true", help="no progress bar")
    convert.set_defaults(run=_convert)

    export = commands.add_parser(
        "export",
        help="write rows of a store as a ROOT file",
        description="Write rows of a store as a TTree or an RNTuple of a new ROOT file.",
        epilog="example:\n  mmdask export events.mm picked.root --where 'nJets >= 6' --fields 'jet_*' weight_mc\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("store")
    export.add_argument("file", help="the file; it must not be there yet")
    export.add_argument("--tree", default="events", help="its name (%(default)s)")
    export.add_argument("--fields", nargs="+", metavar="NAME", help="fields or patterns; all by default")
    export.add_argument("--where", metavar="CUT", help="only rows that pass, as in 'nJets >= 6'")
    export.add_argument("--format", default="ttree", choices=["ttree", "rntuple"], help="what it becomes (%(default)s)")
    export.add_argument(
        "--compression", default="zstd", metavar="CODEC", help="zlib, lz4, zstd, lzma, zstd:9 or none (%(default)s)"
    )
    export.add_argument(
        "--fill", action="append", default=[], metavar="FIELD=VALUE", help="what stands for missing values of a field"
    )
    export.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    export.add_argument("--quiet", action="store_true", help="no progress bar")
    export.set_defaults(run=_export)

    info = commands.add_parser("info", help="show what a store holds", description="Show what a store holds.")
    info.add_argument("store")
    info.set_defaults(run=_info)

    head = commands.add_parser("head", help="show the first rows", description="Show the first rows of a store.")
    head.add_argument("store")
    head.add_argument("-n", type=int, default=5, metavar="N", help="how many (%(default)s)")
    head.add_argument("--fields", nargs="+", metavar="NAME", help="fields or patterns; all by default")
    head.add_argument("--where", metavar="CUT", help="only rows that pass, as in 'nJets >= 6'")
    head.set_defaults(run=_head)

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

    history = commands.add_parser(
        "history",
        help="list the generations of a store",
        description="List the generations of a store that can still be opened, the newest first.",
    )
    history.add_argument("store")
    history.add_argument("-n", type=int, metavar="N", help="only the newest N")
    history.set_defaults(run=_history)

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
        cut=args.cut,
        aliases=_pairs("--alias", "a name and an expression, as in 'ht=sum(jet_pt)'", args.alias),
        weights=args.weight,
        update=args.update,
        missing=args.missing,
        progress=not args.quiet,
        workers=args.workers,
        check=args.check,
        plan=args.plan,
        on_mismatch=_mismatch(args.on_mismatch) or "error",
        rename=_pairs("--rename", "a name or pattern and the new one, as in 'jet_*=j_*'", args.rename),
        pad=_pads(args.pad),
        tree_label=args.tree_label,
    )
    print(repr(ds))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    found = mm.inspect_root(args.file)
    print(json.dumps(found.to_json(), indent=1) if args.json else found.text())
    return 0


def _export(args: argparse.Namespace) -> int:
    ds = mm.open(args.store)
    ds = ds if args.where is None else ds[ds.cut(args.where)]
    fill: dict[str, Any] = {}
    for word in args.fill:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise mm.OptionError(f"--fill {word!r}: a field and a value, as in lead=-999")
        text_field = name in ds.schema and ds.schema[name].kind in ("string", "category")
        fill[name] = text if text_field else {"true": True, "false": False}.get(text.lower(), _value(text))
    ds.to_root(
        args.file,
        args.tree,
        fields=args.fields,
        format=args.format,
        compression=args.compression,
        fill=fill or None,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    size = display.nbytes_text(os.path.getsize(os.path.expanduser(args.file)))
    print(f"{display.amount(len(ds), 'row')} in {display.terminal_safe(args.file)}:{args.tree}, {size}")
    return 0


def _pairs(option: str, what: str, words: Sequence[str]) -> dict[str, str]:
    """What an option says of several names: ``ht=sum(jet_pt)``."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise mm.OptionError(f"{option} {word!r}: {what}")
        if name.strip() in found:
            raise mm.OptionError(f"{option}: {name.strip()} is given twice")
        found[name.strip()] = text
    return found


def _mismatch(words: Sequence[str]) -> dict[str, str]:
    """What to do with fields that files do not have alike: ``promote``, or ``event*=common``."""
    every = [f"*={word}" for word in words if "=" not in word]
    some = [word for word in words if "=" in word]
    return _pairs("--on-mismatch", "a name or pattern and what to do, as in 'event*=common'", [*some, *every])


def _pads(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """How lists are padded: ``jet_pt=22,nan``."""
    found = {}
    for name, text in _pairs("--pad", "a name or pattern and a number of items, as in 'jet_pt=22,nan'", words).items():
        length, _, value = text.partition(",")
        fill = _value(value.strip()) if value.strip() else None
        if not length.strip().isdigit() or isinstance(fill, str):
            raise mm.OptionError(f"--pad {name}={text}: a number of items, and perhaps a number, as in 'jet_pt=22,nan'")
        found[name] = (int(length), *([] if fill is None else [fill]))
    return found


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
    newest = f"{manifest.generation}: {manifest.action}" if manifest.action else str(manifest.generation)
    facts = [
        ["store", ds.path],
        ["rows", display.count_text(len(ds))],
        ["fields", display.count_text(len(ds.fields))],
        ["parts", display.count_text(len(manifest.parts))],
        ["size", display.nbytes_text(ds.nbytes)],
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


def _cutflow(args: argparse.Namespace) -> int:
    flow = mm.open(args.store).cutflow(args.cuts, weight=args.weight, by=args.by)
    print(flow.to_latex() if args.latex else repr(flow))
    return 0


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


def _hist(args: argparse.Namespace) -> int:
    from mmdask.dataset.hist import text_histograms

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


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _history(args: argparse.Namespace) -> int:
    if args.n is not None and args.n < 1:
        raise mm.OptionError(f"-n is a number of generations, 1 or more, got {args.n}")
    print(History(mm.open(args.store).history()[-args.n if args.n else 0 :]).text())
    return 0


def _sample(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


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


def _demo(args: argparse.Namespace) -> int:
    from mmdask import demo

    demo.run(args.folder, demo.EVENTS if args.events is None else args.events)
    return 0
