"""The parser of the command line: what is mistyped is told with what may have been meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from mmdask.errors import did_you_mean

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """A parser of which each command tells of its own mistakes; its subparsers are of this class."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse words; those that no option takes are an error here, where the options are known."""
        self._words = list(args or ())
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            known = [option for action in self._actions for option in action.option_strings]
            near = (did_you_mean(word.partition("=")[0], known) for word in rest if word.startswith("-"))
            self.error(f"unrecognized arguments: {' '.join(rest)}{next(filter(None, near), '')}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """End with usage and message; and with a hint where an option took the words that are missing."""
        missing = "are required" in message and any(
            not a.option_strings and str(a.metavar or a.dest) in message for a in self._actions
        )
        greedy = [o for a in self._actions if a.nargs == "+" for o in a.option_strings if o in self._words]
        if missing and greedy:
            message += f"; {greedy[0]} takes all words behind it: write the others before it, or behind --"
        super().error(message)
