"""The command ``mmdask``: inspect, convert, export, info, head, history, cutflow, hist, cuts, verify, compact, vacuum.

Each group of commands is a module with `add_commands`, which says what they are called with and what then runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import mmdask as mm
from mmdask import display
from mmdask.cli import care, cuts, look, root
from mmdask.cli.parser import Parser

__all__ = ["main"]


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
    parser = Parser(
        prog="mmdask", description="Memory-mapped stores as lazy dask arrays, cuts kept once, shuffled batches."
    )
    parser.add_argument("--version", action="version", version=f"mmdask {mm.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (root, look, cuts, care):
        group.add_commands(commands)

    demo = commands.add_parser(
        "demo",
        help="the whole way on files that it makes",
        description="Make ROOT files of two processes, convert them, cut, split and run one shuffled epoch.",
    )
    demo.add_argument("folder", nargs="?", default="mmdask-demo", help="where files and store go (%(default)s)")
    demo.add_argument("--events", type=int, help="events of all files; the default makes about 200 MB")
    demo.set_defaults(run=_demo)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from mmdask import demo

    demo.run(args.folder, demo.EVENTS if args.events is None else args.events)
    return 0
