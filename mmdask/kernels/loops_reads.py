# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loop of `reads`. Only `jit` imports this module, because it imports numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mmdask.kernels.jit import njit

_compile = njit()
_i64 = types.int64


@intrinsic
def _pread(typingctx: Any, fd: Any, to: Any, nbytes: Any, offset: Any) -> Any:
    """`pread` of the C library: bytes of a file to an address, and how many they were."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, i64 = ir.IntType(32), ir.IntType(64)
        call = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(i64, [i32, cgutils.voidptr_t, i64, i64]), "pread"
        )
        fd, to, nbytes, offset = args
        return builder.call(call, [builder.trunc(fd, i32), builder.inttoptr(to, cgutils.voidptr_t), nbytes, offset])

    return _i64(_i64, _i64, _i64, _i64), codegen


@_compile
def read_runs(fd, places, ends, out):
    begin = 0
    for i in range(len(places)):
        nbytes = ends[i] - begin
        if _pread(fd, out + begin, nbytes, places[i]) != nbytes:
            return i
        begin = ends[i]
    return len(places)
