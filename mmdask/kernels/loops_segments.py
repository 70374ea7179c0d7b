# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled forms of `mmdask.kernels.segments`; imported only by the thread that compiles them.

Where a row ends cannot be foreseen by the processor, and each wrong guess costs as much as reading several items. So
rows are reduced eight at a time, one to a lane of a vector: eight items of each are loaded, transposed, and taken in,
those behind the end of their row left out; the only guess is how many items the longest of the eight has. Each lane
goes through its items in order, so that sums are those of the plain loop. It is written in LLVM's own terms, since
no loop in Python becomes it. Rows at the end, and rows of very different lengths, take the plain loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mmdask.kernels.jit import njit

__all__ = [
    "segment_argmax",
    "segment_argmin",
    "segment_max",
    "segment_min",
    "segment_sum",
]

_compiled: Any = njit()

Kind = Literal["sum", "min", "max", "argmin", "argmax"]
LANES = 8
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


def _constant(element: ir.Type, value: Any) -> ir.Constant:
    return ir.Constant(_vector(element), [element(value)] * LANES)


def _shuffled(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(_vector(_I32), list(lanes)))


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_vector(value.type), ir.Undefined)
    return _shuffled(builder, builder.insert_element(undefined, value, _I32(0)), undefined, [0] * LANES)


def _pointer(context: Any, builder: Any, signature: Any, args: Any, number: int) -> Any:
    """The address of the data of an argument that is an array."""
    return context.make_array(signature.args[number])(context, builder, args[number]).data


def _load(builder: Any, pointer: Any, at: Any) -> Any:
    """Eight elements from the one at a place."""
    place = builder.gep(pointer, [at])
    found = builder.load(builder.bitcast(place, _vector(pointer.type.pointee).as_pointer()))
    found.align = 1
    return found


def _rows(builder: Any, offsets: Any, row: Any) -> tuple[Any, Any]:
    """Where eight rows begin, and how many items they have."""
    first = _load(builder, offsets, row)
    return first, builder.sub(_load(builder, offsets, builder.add(row, _I64(1))), first)


@intrinsic
def _longest(typingctx: Any, offsets: Any, row: Any) -> Any:
    """How many items the longest of eight rows has."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, counts = _rows(builder, _pointer(context, builder, signature, args, 0), args[1])
        kind = ir.FunctionType(_I64, [_vector(_I64)])
        largest = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.smax.v8i64")
        return builder.call(largest, [counts])

    return types.int64(offsets, row), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors, of which the k-th has the k-th elements of those given: blocks off the diagonal change places."""
    for size in (1, 2, 4):
        low = [i if not i & size else LANES + i - size for i in range(LANES)]
        high = [i + size if not i & size else LANES + i for i in range(LANES)]
        for i in (i for i in range(LANES) if not i & size):
            a, b = rows[i], rows[i + size]
            rows[i], rows[i + size] = _shuffled(builder, a, b, low), _shuffled(builder, a, b, high)
    return rows


class _Reduction:
    """What one item of each of eight rows does to the state, a list of vectors."""

    def __init__(self, builder: Any, kind: Kind, item: Any, element: ir.Type, out: ir.Type) -> None:
        self.builder, self.kind, self.element, self.out = builder, kind, element, out
        self.real = isinstance(item, types.Float)
        self.signed = not self.real and item.signed
        self.sign = "<" if kind.endswith("min") else ">"
        info = None if self.real else np.iinfo(str(item))
        worst = -np.inf if info is None else info.min
        if self.sign == "<":
            worst = np.inf if info is None else info.max
        self.worst = worst if self.real else int(worst)

    def start(self) -> list[Any]:
        if self.kind == "sum":
            return [_constant(self.out, 0)]
        best = _constant(self.element, self.worst)
        if self.kind.startswith("arg"):
            return [best, _constant(_I64, 0)]
        return [best, _constant(ir.IntType(1), 0)]

    def step(self, state: list[Any], x: Any, inside: Any, number: Any) -> list[Any]:
        """Take in item `number` of the rows that have one, which are `inside`."""
        b = self.builder
        if self.kind == "sum":
            x = self._converted(x)
            total = b.fadd(state[0], x) if self.real else b.add(state[0], x)
            return [b.select(inside, total, state[0])]
        best, second = state
        if self.kind.startswith("arg"):
            better = b.and_(self._better(x, best), inside)
            return [b.select(better, x, best), b.select(better, _splat(b, number), second)]
        nan = b.or_(second, b.and_(b.fcmp_unordered("uno", x, x), inside)) if self.real else second
        x = b.select(inside, x, _constant(self.element, self.worst))
        return [b.select(self._ordered(x, best), x, best), nan]

    def _converted(self, x: Any) -> Any:
        if x.type.element == self.out:
            return x
        if self.real:
            return self.builder.fpext(x, _vector(self.out))
        return (self.builder.sext if self.signed else self.builder.zext)(x, _vector(self.out))

    def _ordered(self, x: Any, best: Any) -> Any:
        if self.real:
            return self.builder.fcmp_ordered(self.sign, x, best)
        return (self.builder.icmp_signed if self.signed else self.builder.icmp_unsigned)(self.sign, x, best)

    def _better(self, x: Any, best: Any) -> Any:
        """Where an item comes before the best so far: the first nan does, before all others."""
        b = self.builder
        better = self._ordered(x, best)
        if not self.real:
            return better
        first_nan = b.and_(b.fcmp_unordered("uno", x, x), b.fcmp_ordered("ord", best, best))
        return b.or_(better, first_nan)

    def result(self, state: list[Any], counts: Any) -> Any:
        b = self.builder
        if self.kind.startswith("arg"):
            return state[1]
        if self.kind == "sum":
            return b.select(b.fcmp_ordered("ord", *state, *state), *state, self._nan()) if self.real else state[0]
        best = b.select(b.icmp_signed(">", counts, _constant(_I64, 0)), state[0], _constant(self.out, 0))
        if not self.real:
            return best
        # +0.0 for a zero of either sign
        return b.select(state[1], self._nan(), b.fadd(best, _constant(self.out, 0)))

    def _nan(self) -> Any:
        return _constant(self.out, np.nan)


def _of_eight_rows(kind: Kind) -> Any:
    """Reduce the items of rows `row` to ``row + 8`` into `out`; `longest` of them at most.

    There must be `longest` and eight items more from the end of these rows on.
    """

    @intrinsic
    def reduce(typingctx: Any, values: Any, offsets: Any, row: Any, longest: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            items, starts, target = (_pointer(context, builder, signature, args, i) for i in (0, 1, 4))
            row, longest = args[2:4]
            do = _Reduction(builder, kind, signature.args[0].dtype, items.type.pointee, target.type.pointee)
            first, counts = _rows(builder, starts, row)
            before, loop, end = builder.block, *map(builder.append_basic_block, ("items", "end"))
            builder.cbranch(builder.icmp_signed(">", longest, _I64(0)), loop, end)

            builder.position_at_end(loop)
            done = builder.phi(_I64)
            entering = [builder.phi(x.type) for x in do.start()]
            places = [builder.add(builder.extract_element(first, _I32(i)), done) for i in range(LANES)]
            left = builder.sub(counts, _splat(builder, done))
            state = entering
            for i, x in enumerate(_transposed(builder, [_load(builder, items, at) for at in places])):
                inside = builder.icmp_signed(">", left, _constant(_I64, i))
                state = do.step(state, x, inside, builder.add(done, _I64(i)))
            after = builder.add(done, _I64(LANES))
            builder.cbranch(builder.icmp_signed("<", after, longest), loop, end)
            leaving = builder.block

            builder.position_at_end(end)
            final = [builder.phi(x.type) for x in state]
            for phi, value in [(done, _I64(0)), *zip(entering + final, do.start() * 2, strict=True)]:
                phi.add_incoming(value, before)
            for phi, value in [(done, after), *zip(entering + final, state * 2, strict=True)]:
                phi.add_incoming(value, leaving)
            result = do.result(final, counts)
            place = builder.bitcast(builder.gep(target, [row]), result.type.as_pointer())
            builder.store(result, place).align = 1
            return context.get_dummy_value()

        return types.void(values, offsets, row, longest, out), codegen

    return reduce


_sum_of_eight = _of_eight_rows("sum")
_min_of_eight = _of_eight_rows("min")
_max_of_eight = _of_eight_rows("max")
_argmin_of_eight = _of_eight_rows("argmin")
_argmax_of_eight = _of_eight_rows("argmax")


@_compiled
def _together(values, offsets, row, rows):
    """The items of the longest of eight rows, if they are reduced together; else -1."""
    if row + 8 > rows:
        return -1
    longest, stop = _longest(offsets, row), offsets[row + 8]
    fits = stop + longest + 8 <= len(values) and longest * 2 <= stop - offsets[row] + 64
    return longest if fits else -1


@_compiled
def segment_sum(values, offsets, out):
    row = 0
    while row < len(out):
        longest = _together(values, offsets, row, len(out))
        if longest >= 0:
            _sum_of_eight(values, offsets, row, longest, out)
            row += 8
            continue
        total = out.dtype.type(0)
        for i in range(offsets[row], offsets[row + 1]):
            total += out.dtype.type(values[i])
        if total == total:
            out[row] = total
        else:
            out[row] = np.nan
        row += 1


@_compiled
def segment_min(values, offsets, out):
    zero = out.dtype.type(0)
    row = 0
    while row < len(out):
        longest = _together(values, offsets, row, len(out))
        if longest >= 0:
            _min_of_eight(values, offsets, row, longest, out)
            row += 8
            continue
        first, stop = offsets[row], offsets[row + 1]
        best = values[first] if first < stop else zero
        for i in range(first + 1, stop):
            value = values[i]
            if value < best or value != value:
                best = value
        if best == best:
            out[row] = best + zero  # +0.0 for a zero of either sign
        else:
            out[row] = np.nan
        row += 1


@_compiled
def segment_max(values, offsets, out):
    zero = out.dtype.type(0)
    row = 0
    while row < len(out):
        longest = _together(values, offsets, row, len(out))
        if longest >= 0:
            _max_of_eight(values, offsets, row, longest, out)
            row += 8
            continue
        first, stop = offsets[row], offsets[row + 1]
        best = values[first] if first < stop else zero
        for i in range(first + 1, stop):
            value = values[i]
            if value > best or value != value:
                best = value
        if best == best:
            out[row] = best + zero  # +0.0 for a zero of either sign
        else:
            out[row] = np.nan
        row += 1


@_compiled
def segment_argmin(values, offsets, out):
    row = 0
    while row < len(out):
        longest = _together(values, offsets, row, len(out))
        if longest >= 0:
            _argmin_of_eight(values, offsets, row, longest, out)
            row += 8
            continue
        first, stop = offsets[row], offsets[row + 1]
        place = first
        for i in range(first + 1, stop):
            value, best = values[i], values[place]
            if value < best or (value != value and best == best):
                place = i
        out[row] = place - first
        row += 1


@_compiled
def segment_argmax(values, offsets, out):
    row = 0
    while row < len(out):
        longest = _together(values, offsets, row, len(out))
        if longest >= 0:
            _argmax_of_eight(values, offsets, row, longest, out)
            row += 8
            continue
        first, stop = offsets[row], offsets[row + 1]
        place = first
        for i in range(first + 1, stop):
            value, best = values[i], values[place]
            if value > best or (value != value and best == best):
                place = i
        out[row] = place - first
        row += 1
