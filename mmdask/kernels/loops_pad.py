# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loops that pad. Only `jit` imports this module, because it imports numba.

Rows are written in blocks of 32 bytes without a branch that depends on how long they are: a block is read from the row
or from the padding, whole, and chosen byte by byte. What it writes beyond a row is written again by the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mmdask.kernels.jit import njit
from mmdask.kernels.loops import _load, _memcpy, _prefetch

_compile = njit()
_inline = njit(forceinline=True)
_i64 = types.int64
_BLOCK = 32
#: longer rows, in bytes, are copied in one piece
_LONG = 512
#: so many rows ahead offsets are asked for, and items
_OFFSETS_AHEAD = 48
_ITEMS_AHEAD = 24
_BYTES = ir.VectorType(ir.IntType(8), _BLOCK)


def _before(builder: Any, bound: Any) -> Any:
    """Which bytes of a block lie before `bound`, which may lie outside of it."""
    i64, i32 = ir.IntType(64), ir.IntType(32)
    for end, beyond in ((0, "<"), (_BLOCK, ">")):
        bound = builder.select(builder.icmp_signed(beyond, bound, i64(end)), i64(end), bound)
    nothing = ir.Constant(_BYTES, ir.Undefined)
    one = builder.insert_element(nothing, builder.trunc(bound, ir.IntType(8)), i32(0))
    everywhere = ir.Constant(ir.VectorType(i32, _BLOCK), [0] * _BLOCK)
    place = ir.Constant(_BYTES, list(range(_BLOCK)))
    return builder.icmp_unsigned("<", place, builder.shuffle_vector(one, nothing, everywhere))


@intrinsic
def _choose(typingctx: Any, to: Any, first: Any, second: Any, bound: Any) -> Any:
    """Write a block: before `bound` what is at `first`, from there on what is at `second`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, first, second = (builder.inttoptr(a, _BYTES.as_pointer()) for a in args[:3])
        a, b = builder.load(first, align=1), builder.load(second, align=1)
        builder.store(builder.select(_before(builder, args[3]), a, b), to, align=1)
        return context.get_dummy_value()

    return types.void(_i64, _i64, _i64, _i64), codegen


@intrinsic
def _flag(typingctx: Any, to: Any, bound: Any, left: Any) -> Any:
    """Write a block of flags: 1 before `bound` and 0 from there on, or with `left` the other way round."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ones = builder.zext(_before(builder, args[1]), _BYTES)
        flipped = builder.sub(ir.Constant(_BYTES, [1] * _BLOCK), ones)
        flags = builder.select(builder.trunc(args[2], ir.IntType(1)), flipped, ones)
        builder.store(flags, builder.inttoptr(args[0], _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(_i64, _i64, types.boolean), codegen


@intrinsic
def _set(typingctx: Any, to: Any, value: Any) -> Any:
    """Write a byte."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.trunc(args[1], ir.IntType(8))
        builder.store(byte, builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(_i64, _i64), codegen


@_inline
def _put(out, out_end, base, end, first, kept, width, length, left, fill):
    """Write one row: `kept` items of the array at `base` from its item `first` on, and padding."""
    low = (length - kept) * width if left else np.int64(0)
    high = low + kept * width
    whole = length * width
    rounded = (whole + _BLOCK - 1) & -_BLOCK
    source = base + first * width - low
    # Nothing is read of an array that is not there, at 0.
    inside = base != 0 and source >= base and source + rounded <= end
    if whole <= _LONG and inside and out + rounded <= out_end:
        # A block that has no items is not read from where they are: that may be a line more of memory.
        if left:
            for c in range(0, whole, _BLOCK):
                _choose(out + c, fill + c, source + c if c + _BLOCK > low else fill + c, low - c)
        else:
            for c in range(0, whole, _BLOCK):
                _choose(out + c, source + c if c < high else fill + c, fill + c, high - c)
    else:
        _memcpy(out, fill, low)
        if high > low:
            _memcpy(out + low, source + low, high - low)
        _memcpy(out + high, fill + high, whole - high)


@_inline
def _mark(mask, mask_end, kept, length, left):
    """Write the flags of one row."""
    bound = length - kept if left else kept
    if mask + ((length + _BLOCK - 1) & -_BLOCK) <= mask_end:
        for c in range(0, length, _BLOCK):
            _flag(mask + c, bound - c, left)
    else:
        for j in range(length):
            _set(mask + j, np.int64((j < bound) != left))


@_inline
def _ask(address, nbytes):
    # Few bytes often lie in two lines; whole blocks are read.
    _prefetch(address)
    _prefetch(address + ((nbytes + _BLOCK - 1) & -_BLOCK) - 1)


@_compile
def pad_runs(addresses, lengths, part, first, count, out, width, mask, length, left, fill):
    n = len(part)
    out_end = out + n * length * width
    mask_end = mask + n * length if mask else np.int64(0)
    for i in range(n):
        if i + _ITEMS_AHEAD < n:
            j = i + _ITEMS_AHEAD
            _ask(addresses[part[j]] + width * first[j], min(count[j], length) * width)
        p = part[i]
        kept = min(count[i], length) if addresses[p] else np.int64(0)
        _put(out, out_end, addresses[p], addresses[p] + lengths[p] * width, first[i], kept, width, length, left, fill)
        out += length * width
        if mask_end:
            _mark(mask, mask_end, kept, length, left)
            mask += length


@_compile
def pad_rows(
    offsets, addresses, limits, starts, least, shift, rows, part, first, count, out, width, mask, length, left, fill
):
    n = len(rows)
    out_end = out + n * length * width
    mask_end = mask + n * length if mask else np.int64(0)
    for i in range(-_OFFSETS_AHEAD, n):
        j = i + _OFFSETS_AHEAD
        if j < n:
            row = rows[j]
            p = least[row >> shift]
            while starts[p + 1] <= row:
                p += 1
            part[j] = p
            first[j] = row - starts[p]
            _prefetch(offsets[p] + 8 * first[j])
            _prefetch(offsets[p] + 8 * first[j] + 8)
        j = i + _ITEMS_AHEAD
        if 0 <= j < n:
            p = part[j]
            if offsets[p] == 0:
                return -2 - j
            a = _load(offsets[p] + 8 * first[j])
            b = _load(offsets[p] + 8 * first[j] + 8)
            if a < 0 or b < a or b > limits[p]:
                return j
            if b > a and addresses[p] == 0:
                return -2 - j
            first[j] = a
            count[j] = b - a
            _ask(addresses[p] + width * a, min(b - a, length) * width)
        if i >= 0:
            p = part[i]
            kept = min(count[i], length)
            end = addresses[p] + limits[p] * width
            _put(out, out_end, addresses[p], end, first[i], kept, width, length, left, fill)
            out += length * width
            if mask_end:
                _mark(mask, mask_end, kept, length, left)
                mask += length
    return -1
