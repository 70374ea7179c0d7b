# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled forms of `mmdask.kernels.packed`; imported only by the thread that compiles them.

64 values are compared at once, and the 64 answers are the bits of a number: what no loop in Python becomes, and so it
is written in LLVM's own terms. Any item of a row is one look at up to 57 bits, from the byte where the row's begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mmdask.kernels.jit import njit

__all__ = ["compare", "segment_any", "segment_count"]

_compiled: Any = njit()
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WINDOW = np.int64(57)  # bits from any place within 8 bytes


def _pointer(context: Any, builder: Any, signature: Any, args: Any, number: int, at: Any) -> Any:
    """The address of an element of an argument that is an array."""
    return builder.gep(context.make_array(signature.args[number])(context, builder, args[number]).data, [at])


def _compare_64(sign: str) -> Any:
    """Compare 64 values from the one at `first` with a threshold; 8 bytes of answers, from ``first / 8`` of `out`."""

    @intrinsic
    def compare(typingctx: Any, values: Any, first: Any, threshold: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dtype = signature.args[0].dtype
            source = _pointer(context, builder, signature, args, 0, args[1])
            vector = ir.VectorType(source.type.pointee, 64)
            x = builder.load(builder.bitcast(source, vector.as_pointer()))
            x.align = 1
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], _I32(0))
            lanes = ir.Constant(ir.VectorType(_I32, 64), [0] * 64)
            y = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)
            if isinstance(dtype, types.Float):
                answers = (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, x, y)
            else:
                answers = (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(sign, x, y)
            target = _pointer(context, builder, signature, args, 3, builder.lshr(args[1], _I64(3)))
            builder.store(builder.bitcast(answers, _I64), builder.bitcast(target, _I64.as_pointer())).align = 1
            return context.get_dummy_value()

        return types.void(values, types.int64, threshold, out), codegen

    return compare


_equal = _compare_64("==")
_unequal = _compare_64("!=")
_less = _compare_64("<")
_less_equal = _compare_64("<=")
_greater = _compare_64(">")
_greater_equal = _compare_64(">=")


@_compiled
def _holds(sign, x, y):
    if sign == 0:
        return x == y
    if sign == 1:
        return x != y
    if sign == 2:
        return x < y
    if sign == 3:
        return x <= y
    if sign == 4:
        return x > y
    return x >= y


@_compiled
def compare(values, sign, threshold, out):
    y = threshold[0]
    whole = len(values) & ~63
    if sign == 0:
        for i in range(0, whole, 64):
            _equal(values, i, y, out)
    elif sign == 1:
        for i in range(0, whole, 64):
            _unequal(values, i, y, out)
    elif sign == 2:
        for i in range(0, whole, 64):
            _less(values, i, y, out)
    elif sign == 3:
        for i in range(0, whole, 64):
            _less_equal(values, i, y, out)
    elif sign == 4:
        for i in range(0, whole, 64):
            _greater(values, i, y, out)
    else:
        for i in range(0, whole, 64):
            _greater_equal(values, i, y, out)
    for first in range(whole, len(values), 8):
        byte = 0
        for i in range(first, min(first + 8, len(values))):
            byte |= int(_holds(sign, values[i], y)) << (i - first)
        out[first >> 3] = byte


@intrinsic
def _load_64(typingctx: Any, bits: Any, byte: Any) -> Any:
    """Eight bytes from the one at `byte` as a number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = _pointer(context, builder, signature, args, 0, args[1])
        found = builder.load(builder.bitcast(source, _I64.as_pointer()))
        found.align = 1
        return found

    return types.uint64(bits, types.int64), codegen


@intrinsic
def _ones(typingctx: Any, word: Any) -> Any:
    """How many bits are set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@_compiled
def _mask(n):
    return (np.uint64(1) << np.uint64(n)) - np.uint64(1)


@_compiled
def _window(bits, first, n):
    """Up to 57 bits from any place on, near the end of all."""
    word = np.uint64(0)
    byte = first >> 3
    for i in range(byte, min(byte + 8, len(bits))):
        word |= np.uint64(bits[i]) << np.uint64(8 * (i - byte))
    return (word >> np.uint64(first & 7)) & _mask(n)


@_compiled
def _any_between(bits, first, stop, flip):
    """The first bits that are not all `flip`, 57 at a time."""
    while stop - first > _WINDOW:
        if _window(bits, first, _WINDOW) != (flip & _mask(_WINDOW)):
            return np.uint64(1)
        first += _WINDOW
    n = stop - first
    return _window(bits, first, n) ^ (flip & _mask(n))


@_compiled
def segment_any(bits, offsets, false, out):
    """Whether any item is true, or with `false` whether none is false."""
    rows, last = len(offsets) - 1, len(bits) - 8
    flip = ~np.uint64(0) if false else np.uint64(0)
    for start in range(0, rows, 8):
        byte = np.uint64(0)
        for row in range(start, min(start + 8, rows)):
            first = offsets[row]
            n = offsets[row + 1] - first
            if n <= _WINDOW and (first >> 3) <= last:
                found = ((_load_64(bits, first >> 3) ^ flip) >> np.uint64(first & 7)) & _mask(n)
            else:
                found = _any_between(bits, first, first + n, flip)
            byte |= np.uint64(found != np.uint64(0)) << np.uint64(row - start)
        out[start >> 3] = (byte ^ flip) & _mask(min(rows - start, 8))


@_compiled
def _count_between(bits, first, stop):
    total = 0
    while stop - first > _WINDOW:
        total += _ones(_window(bits, first, _WINDOW))
        first += _WINDOW
    return total + _ones(_window(bits, first, stop - first))


@_compiled
def segment_count(bits, offsets, out):
    for row in range(len(out)):
        first, n = offsets[row], offsets[row + 1] - offsets[row]
        if n <= _WINDOW and (first >> 3) + 8 <= len(bits):
            window = _load_64(bits, first >> 3) >> np.uint64(first & 7)
            out[row] = _ones(window & _mask(n))
        else:
            out[row] = _count_between(bits, first, first + n)
