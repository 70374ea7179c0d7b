# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loops of `gather` and `permute`. Only `jit` imports this module, because it imports numba.

Rows are moved between addresses in memory, `width` bytes at a time: one compiled form serves every dtype and any
number of parts. The callers hold the arrays behind the addresses alive and have checked their lengths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mmdask.kernels.hashing import GOLDEN, MULTIPLIER_1, MULTIPLIER_2
from mmdask.kernels.jit import njit
from mmdask.kernels.permute import LEAST_BITS, ROUNDS

_compile = njit()
_i64 = types.int64
#: how many rows ahead memory is asked for
AHEAD = 16


@intrinsic
def _memcpy(typingctx: Any, to: Any, source: Any, nbytes: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = cgutils.voidptr_t
        to, source = (builder.inttoptr(a, pointer) for a in args[:2])
        cgutils.raw_memcpy(builder, to, source, args[2], ir.Constant(ir.IntType(64), 1))
        return context.get_dummy_value()

    return types.void(_i64, _i64, _i64), codegen


@intrinsic
def _prefetch(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i32, i32, i32])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [builder.inttoptr(args[0], cgutils.voidptr_t), i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(_i64), codegen


@intrinsic
def _load(typingctx: Any, address: Any) -> Any:
    """The int64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return _i64(_i64), codegen


@intrinsic
def _load_byte(typingctx: Any, address: Any) -> Any:
    """The byte at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, ir.IntType(64))

    return _i64(_i64), codegen


@_compile
def _copy(to, source, width):
    # A constant length compiles to one load and one store instead of a call.
    if width == 4:
        _memcpy(to, source, 4)
    elif width == 8:
        _memcpy(to, source, 8)
    elif width == 1:
        _memcpy(to, source, 1)
    elif width == 2:
        _memcpy(to, source, 2)
    elif width == 16:
        _memcpy(to, source, 16)
    else:
        _memcpy(to, source, width)


@_compile
def _part_of(starts, row):
    """The last part that starts at `row` or before: an empty part is never it."""
    low, high = 0, len(starts) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@_compile
def follow(addresses, limits, part, first, count, offsets):
    n = len(part)
    k = 0
    total = np.int64(0)
    offsets[0] = 0
    for i in range(n):
        if i + AHEAD < n:
            _prefetch(addresses[part[i + AHEAD]] + 8 * first[i + AHEAD])
        if count[i] == 0:
            first[i] = 0
            continue
        if addresses[part[i]] == 0:
            return -2 - i
        limit = limits[part[i]]
        source = addresses[part[i]] + 8 * first[i]
        begin = _load(source)
        a = begin
        if a < 0:
            return i
        for _ in range(count[i]):
            source += 8
            b = _load(source)
            if b < a or b > limit:
                return i
            total += b - a
            k += 1
            offsets[k] = total
            a = b
        first[i] = begin
        count[i] = a - begin
    return -1


@_compile
def copy_runs(addresses, part, first, count, out, width):
    n = len(part)
    for i in range(n):
        if i + AHEAD < n:
            ahead = addresses[part[i + AHEAD]] + width * first[i + AHEAD]
            _prefetch(ahead)
            _prefetch(ahead + width * count[i + AHEAD])  # a run of few bytes often lies in two lines
        nbytes = count[i] * width
        if nbytes > 0:
            if addresses[part[i]] != 0:
                _copy(out, addresses[part[i]] + first[i] * width, nbytes)
            out += nbytes


@_compile
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MULTIPLIER_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MULTIPLIER_2)
    return x ^ (x >> np.uint64(31))


@_compile
def feistel(positions, sizes, keys, out, backward):
    one = np.uint64(1)
    round_keys = np.empty(ROUNDS, np.uint64)
    last_key = np.uint64(0)
    known = False
    for i in range(len(positions)):
        size = np.uint64(sizes[i])
        bits = np.uint64(LEAST_BITS if sizes[i] > 4 else 0)
        while bits < np.uint64(63) and (one << bits) < size:
            bits += one
        low = bits >> one
        low_mask = (one << low) - one
        high_mask = (one << (bits - low)) - one
        key = keys[i]
        if not known or key != last_key:
            for r in range(ROUNDS):
                round_keys[r] = _mix(key + np.uint64(r + 1) * np.uint64(GOLDEN))
            last_key = key
            known = True
        value = np.uint64(positions[i])
        while True:
            a, b = value >> low, value & low_mask
            if backward:
                for r in range(ROUNDS - 1, -1, -1):
                    if r % 2 == 0:
                        a ^= _mix(b ^ round_keys[r]) & high_mask
                    else:
                        b ^= _mix(a ^ round_keys[r]) & low_mask
            else:
                for r in range(ROUNDS):
                    if r % 2 == 0:
                        a ^= _mix(b ^ round_keys[r]) & high_mask
                    else:
                        b ^= _mix(a ^ round_keys[r]) & low_mask
            value = (a << low) | b
            if value < size:
                break
        out[i] = np.int64(value)


@_compile
def fisher_yates(array, key, start, stop):
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    partners = np.empty(256, np.uint64)
    for begin in range(start, stop, len(partners)):
        # First where to, then the exchanges: the reads of many of them are then under way at once.
        end = min(begin + len(partners), stop)
        for i in range(begin, end):
            m = np.uint64(len(array) - i)
            draw = _mix(key[0] + np.uint64(GOLDEN) * np.uint64(i + 1))
            partners[i - begin] = np.uint64(i) + (((draw >> half) * m + (((draw & low) * m) >> half)) >> half)
        for i in range(begin, end):
            j = partners[i - begin]
            array[i], array[j] = array[j], array[i]


@_compile
def rows_of_runs(addresses, starts, low, high, out):
    n = 0
    for k in range(len(low)):
        a, b = low[k], high[k]
        if a >= b:
            continue
        p = _part_of(starts, a)
        while a < b:
            start, stop = starts[p], min(starts[p + 1], b)
            address = addresses[p]
            if address == -1:
                for row in range(a, stop):
                    out[n] = row
                    n += 1
            elif address != 0:
                local, end = a - start, stop - start
                while local < end:
                    byte = _load_byte(address + (local >> 3)) >> (local & 7)
                    last = min((local | 7) + 1, end)
                    while byte and local < last:
                        out[n] = start + local  # overwritten unless the bit is set
                        n += byte & 1
                        byte >>= 1
                        local += 1
                    local = last
            a = stop
            p += 1
    return n
