"""Booleans of a block as packed bits: what comparisons with a literal make, and ``and or not any all`` of them.

An eighth of the bytes to write, to read and to combine; and a compiled comparison makes bits at the speed of reading.
Everything else takes and gives booleans of a byte: `packed` and `unpacked` lead from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmdask.expr.compare import compare_literal, compare_packed
from mmdask.expr.typed import Typed
from mmdask.expr.values import Bits, Block, Bools, Offsets, Value, all_known
from mmdask.kernels import packed as kernels

__all__ = ["OPERATIONS", "Packed", "all_set", "packed", "unpacked"]


class Packed(NamedTuple):
    """`n` booleans of rows or items, as a `Value` has them: one for each row, never one for all.

    Both `bits` and `known` are in little bit order, and zero behind the last; a bit is zero where it is not known.
    """

    bits: Bits
    n: int
    offsets: tuple[Offsets, ...] = ()
    known: Bits | None = None
    origin: str = ""
    there: tuple[Bools | None, ...] = ()

    def there_at(self, level: int) -> Bools | None:
        """Which lists of a level there are; None for all."""
        return self.there[level] if self.there else None


def all_set(n: int) -> Bits:
    """Bits that are all set."""
    bits = np.full(-(-n // 8), 0xFF, np.uint8)
    if n % 8:
        bits[-1] = (1 << n % 8) - 1
    return bits


def _pack(values: Bools) -> Bits:
    return np.packbits(values, bitorder="little")


def _unpack(bits: Bits, n: int) -> Bools:
    return np.unpackbits(bits, count=n, bitorder="little").view(np.bool_)


def packed(x: Value | Packed, rows: int) -> Packed:
    """Booleans as bits; one for all rows is repeated."""
    if isinstance(x, Packed):
        return x
    n = len(x.array) if x.offsets else rows
    if len(x.array) == n:
        bits = _pack(x.array)
    else:
        bits = all_set(n) if x.array[0] else np.zeros(-(-n // 8), np.uint8)
    known = None if x.known is None else _pack(np.broadcast_to(x.known, n))
    return Packed(bits, n, x.offsets, known, x.origin, x.there)


def unpacked(x: Value | Packed) -> Value:
    """Booleans of a byte each."""
    if isinstance(x, Value):
        return x
    known = None if x.known is None else _unpack(x.known, x.n)
    return Value(_unpack(x.bits, x.n), x.offsets, known, x.origin, there=x.there)


def _compare_literal(block: Block, node: Typed, args: list[Value | Packed]) -> Value | Packed:
    op, number = node.value
    x = unpacked(args[0])
    if len(x.array) == 1 and not x.offsets:  # it may stand for all rows
        values = compare_literal(op, x.array, number)
        return x._replace(array=values if x.known is None else values & x.known, scratch=False)
    bits = compare_packed(op, x.array, number)
    known = None if x.known is None else _pack(x.known)
    if known is not None:
        bits &= known
    return Packed(bits, len(x.array), x.offsets, known, x.origin, x.there)


def _not(block: Block, node: Typed, args: list[Value | Packed]) -> Packed:
    x = packed(args[0], block.rows)
    return x._replace(bits=(all_set(x.n) if x.known is None else x.known) ^ x.bits)


def _and(block: Block, node: Typed, args: list[Value | Packed]) -> Packed:
    a, b = _aligned(block, args)
    known = None
    if a.known is not None or b.known is not None:
        # known where both are, or where one is false
        known = _known(a) & _known(b) | (_known(a) ^ a.bits) | (_known(b) ^ b.bits)
    return a._replace(bits=a.bits & b.bits, known=known)


def _or(block: Block, node: Typed, args: list[Value | Packed]) -> Packed:
    a, b = _aligned(block, args)
    known = None
    if a.known is not None or b.known is not None:
        # known where both are, or where one is true
        known = _known(a) & _known(b) | a.bits | b.bits
    return a._replace(bits=a.bits | b.bits, known=known)


def _known(x: Packed) -> Bits:
    return all_set(x.n) if x.known is None else x.known


def _aligned(block: Block, args: list[Value | Packed]) -> tuple[Packed, Packed]:
    """Two values with one bit each for the same rows or items."""
    a, b = args
    plain = not (a.there or b.there) and len(a.offsets) == len(b.offsets) and block.alike(a.offsets, b.offsets)
    if plain:
        return packed(a, block.rows), packed(b, block.rows)
    aligned = block.align([unpacked(a), unpacked(b)])
    n = int(aligned.offsets[-1][-1])
    left, right = (
        aligned.value(np.broadcast_to(values, n), None if known is None else np.broadcast_to(known, n))
        for values, known in zip(aligned.arrays, aligned.known, strict=True)
    )
    return packed(left, n), packed(right, n)


def _any(block: Block, node: Typed, args: list[Value | Packed]) -> Packed:
    x, offsets = packed(args[0], block.rows), args[0].offsets[-1]
    found = kernels.segment_any(x.bits, offsets)
    known = None if x.known is None else found | kernels.segment_all(x.known, offsets)
    return _reduced(x, found, known)


def _all(block: Block, node: Typed, args: list[Value | Packed]) -> Packed:
    x, offsets = packed(args[0], block.rows), args[0].offsets[-1]
    if x.known is None:
        return _reduced(x, kernels.segment_all(x.bits, offsets), None)
    wrong = kernels.segment_any(x.known ^ x.bits, offsets)
    complete = kernels.segment_all(x.known, offsets)
    return _reduced(x, complete & ~wrong, complete | wrong)


def _reduced(x: Packed, bits: Bits, known: Bits | None) -> Packed:
    """One boolean for each of the innermost lists, missing where the list is."""
    lists = x.there_at(-1)
    if lists is not None:
        there = _pack(lists)
        bits, known = bits & there, there if known is None else known & there
    return Packed(bits, len(x.offsets[-1]) - 1, x.offsets[:-1], known, x.origin, _outer(x))


def _outer(x: Packed) -> tuple[Bools | None, ...]:
    return x.there[:-1] if any(t is not None for t in x.there[:-1]) else ()


def _count(block: Block, node: Typed, args: list[Value | Packed]) -> Value:
    x, offsets = packed(args[0], block.rows), args[0].offsets[-1]
    known = None if x.known is None else _unpack(kernels.segment_all(x.known, offsets), len(offsets) - 1)
    known = all_known([known, x.there_at(-1)])
    return Value(kernels.segment_count(x.bits, offsets), x.offsets[:-1], known, x.origin, there=_outer(x))


#: those that take booleans in either form
OPERATIONS: dict[str, Callable[[Block, Typed, list[Value | Packed]], Value | Packed]] = {
    "compare literal": _compare_literal,
    "not": _not,
    "and": _and,
    "or": _or,
    "any": _any,
    "all": _all,
    "count": _count,
}
