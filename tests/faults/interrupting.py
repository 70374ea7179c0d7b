"""Ctrl-C at every moment at which Python may raise KeyboardInterrupt, one after the other, in the code of mmdask.

Python looks for signals when a function begins, after a call and at the end of a loop's turn, in the main thread only.
These moments are counted by tracing, and each is taken once: what random signals hit once in a million, is found.
"""

from __future__ import annotations

import contextlib
import dis
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mmdask

_ROOT = str(Path(mmdask.__file__).parent)
#: where a `with` block of a generator begins and ends: also between the generator and the block
_BLOCKS = contextlib.__file__
#: callers that tell one moment from another
_DEPTH = 1
_AFTER = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME"}


@cache
def _moments(code: CodeType) -> frozenset[int]:
    """The offsets of instructions before which a signal may be seen; none outside of mmdask and of contextlib."""
    if not code.co_filename.startswith(_ROOT) and code.co_filename != _BLOCKS:
        return frozenset()
    steps = list(dis.get_instructions(code))
    handlers = [(e.start, e.end, e.target) for e in dis.Bytecode(code).exception_entries]

    def handler(offset: int) -> int:
        return next((target for start, end, target in handlers if start <= offset < end), -1)

    # A signal that is seen after a call is raised by the call, also where that is the last one within a `try`:
    # not so here, which does not matter for blocks, that handle other errors.
    pairs = zip(steps, steps[1:], strict=False)
    after = {
        b.offset
        for a, b in pairs
        if a.opname in _AFTER and (handler(a.offset) == handler(b.offset) or code.co_filename == _BLOCKS)
    }
    return frozenset(after | {int(s.argval) for s in steps if s.opname.startswith("JUMP_BACKWARD")})


#: an instruction, and those at which the functions that it is in were called
Instruction = tuple[tuple[int, int], ...]


class _Interrupter:
    """A trace function that counts moments, and raises at one of them: of a number, or the first at an instruction."""

    def __init__(self, at: int | Instruction, before: Callable[[], object] = lambda: None) -> None:
        self.at, self.before, self.n = at, before, 0
        self.place = ""
        #: the first moment at each instruction, and its place
        self.first: dict[Instruction, tuple[int, str]] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "call":
            if not _moments(frame.f_code):
                return None
            frame.f_trace = self  # before opcodes are asked for: else none come from Python 3.13 on
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and frame.f_lasti in _moments(frame.f_code):
            if self._is_wanted(frame):
                self.place = _place(frame)
                self.n += 1
                sys.settrace(None)
                self.before()
                raise KeyboardInterrupt(self.place)
            if self.at == -1 and (instruction := _instruction(frame)) not in self.first:
                self.first[instruction] = self.n, _place(frame)
            self.n += 1
        return self

    def _is_wanted(self, frame: FrameType) -> bool:
        if isinstance(self.at, int):
            return self.n == self.at
        return self.at[0] == (id(frame.f_code), frame.f_lasti) and self.at == _instruction(frame)


def _instruction(frame: FrameType) -> Instruction:
    found, above = [], frame.f_back
    found.append((id(frame.f_code), frame.f_lasti))
    while above is not None and len(found) <= _DEPTH:
        found.append((id(above.f_code), above.f_lasti))
        above = above.f_back
    return tuple(found)


def _place(frame: FrameType) -> str:
    """File, function and line, and whether the function just begins; of contextlib also where it was called."""
    if frame.f_code.co_filename != _BLOCKS:
        where = f"{frame.f_code.co_filename.removeprefix(_ROOT)}:{frame.f_code.co_name}:{frame.f_lineno}"
        return f"{where} begins" if frame.f_lasti == min(_moments(frame.f_code), default=-1) else where
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename == _BLOCKS:
        caller = caller.f_back
    inside = f"contextlib:{frame.f_lineno}"
    return inside if caller is None else f"{_place(caller)} {inside}"


def run_interrupted(
    function: Callable[[], object], at: int | Instruction, before: Callable[[], object] = lambda: None
) -> str:
    """Call a function and interrupt it at this moment; the place where that was, empty if it ended before.

    The function sees the KeyboardInterrupt, as does its caller; whatever else it raises instead is raised here.
    `before` is called just before the interrupt is raised.
    """
    interrupter = _Interrupter(at, before)
    try:
        _traced(function, interrupter)
    except KeyboardInterrupt:
        if not interrupter.place:
            raise
    return interrupter.place


def count_moments(function: Callable[[], object]) -> int:
    """How many moments there are at which a function can be interrupted."""
    return _traced(function, _Interrupter(-1)).n


def different_moments(function: Callable[[], object], files: Sequence[str] = ("",)) -> list[int]:
    """Of moments at the same instruction, called from the same, the first alone: turns of loops are alike.

    Those in `files` and folders of mmdask, ``"/store/commit.py"``, and in blocks that begin or end there.
    """
    first = _traced(function, _Interrupter(-1)).first.values()
    return [n for n, place in first if place.startswith(tuple(files))]


def instructions(function: Callable[[], object], where: str = "") -> list[Instruction]:
    """The same as instructions, which stay the same where another run takes more turns.

    Those at places that match a pattern, as ``"/store/commit.py"`` or ``"/store/commit.py:commit:"``.
    """
    first = _traced(function, _Interrupter(-1)).first
    return [instruction for instruction, (_, place) in first.items() if re.match(where, place)]


def _traced(function: Callable[[], object], interrupter: _Interrupter) -> _Interrupter:
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks only when tracing begins whether a frame wants opcodes
    sys.settrace(interrupter)
    try:
        function()
    finally:
        sys.settrace(before)
    return interrupter
