"""``mmdask inspect``, ``convert`` and ``export``: from ROOT files, and back."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

import mmdask as mm
from mmdask import display
from mmdask.cli.words import label, pairs, plain
from mmdask.sources.address import check_address, public_address

__all__ = ["add_commands"]

_CONVERT_EXAMPLE = """\
example:
  mmdask convert -o events.mm \\
      'ttbb_*.root:nominal' process=ttbb year=2016 \\
      'ttH_*.root:nominal'  process=ttH  year=2016
"""


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of argparse."""
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
    convert.add_argument("-o", "--output", required=True, metavar="STORE", help="the store, a path or URL")
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
    convert.add_argument(
        "--backend",
        choices=["memmap", "zarr"],
        help="how a new store keeps its arrays: in files that are mapped (default), or compressed in chunks, as always "
        "behind a URL",
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


def _inspect(args: argparse.Namespace) -> int:
    found = mm.inspect_root(args.file)
    print(json.dumps(found.to_json(), indent=1) if args.json else found.text())
    return 0


def _convert(args: argparse.Namespace) -> int:
    ds = mm.from_root(
        _sources(args.sources),
        args.output,
        fields=args.fields,
        exclude=args.exclude,
        tree=args.tree,
        cut=args.cut,
        aliases=pairs("--alias", "a name and an expression, as in 'ht=sum(jet_pt)'", args.alias),
        weights=args.weight,
        update=args.update,
        missing=args.missing,
        progress=not args.quiet,
        workers=args.workers,
        check=args.check,
        plan=args.plan,
        on_mismatch=_mismatch(args.on_mismatch) or "error",
        rename=pairs("--rename", "a name or pattern and the new one, as in 'jet_*=j_*'", args.rename),
        pad=_pads(args.pad),
        tree_label=args.tree_label,
        backend=args.backend,
    )
    print(repr(ds))
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
        fill[name] = text if text_field else label(text)
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


def _mismatch(words: Sequence[str]) -> dict[str, str]:
    """What to do with fields that files do not have alike: ``promote``, or ``event*=common``."""
    every = [f"*={word}" for word in words if "=" not in word]
    some = [word for word in words if "=" in word]
    return pairs("--on-mismatch", "a name or pattern and what to do, as in 'event*=common'", [*some, *every])


def _pads(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """How lists are padded: ``jet_pt=22,nan``."""
    found = {}
    for name, text in pairs("--pad", "a name or pattern and a number of items, as in 'jet_pt=22,nan'", words).items():
        length, _, value = text.partition(",")
        fill = plain(value.strip()) if value.strip() else None
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
            check_address(word)
            if word in sources:
                raise mm.OptionError(f"{public_address(word)} is given twice")
            sources[word] = {}
        elif not sources:
            raise mm.OptionError(f"the label {word} comes before any source; write it behind the file that it is for")
        else:
            sources[list(sources)[-1]][name] = label(value)
    return sources
