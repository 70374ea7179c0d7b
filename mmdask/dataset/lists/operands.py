"""What stands beside a ragged field in an expression: numbers, dask arrays, other ragged fields, text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdask.dataset.lists.recipe import Frame, Held, Lazy, Recipe, in_chunks
from mmdask.dataset.lists.steps import Constant, Evaluated, Single
from mmdask.errors import OptionError
from mmdask.expr import check, spelled_name
from mmdask.rows.views.virtual import field_of
from mmdask.schema import Field, Schema, stored_dtype

__all__ = ["Operand", "compared_text", "in_frame", "operand_of"]

Operand = Field | Constant | Single


def operand_of(x: Any, frame: Frame, source: Recipe | None) -> tuple[Operand, Recipe | None]:
    """An operand, and the recipe that makes it, none for a number; `source` is that of a ragged field.

    Raises
    ------
    OptionError
        When it is something else, or has not one entry per row.
    """
    if source is not None:
        _check_rows(repr(x), len(x), frame)
        source = in_frame(source, repr(x), x.chunks[0], frame)
        assert source.field is not None
        return source.field, source
    if hasattr(x, "__dask_graph__") and hasattr(x, "map_blocks"):
        return _of_array(x, frame)
    if isinstance(x, np.ndarray) and not x.ndim and not isinstance(x, np.ma.MaskedArray):
        x = x[()]
    if (
        isinstance(x, bool | int | float | complex | np.generic)
        and getattr(x, "dtype", np.dtype("f8")).kind not in "USOV"
    ):
        return Constant(x), None
    if isinstance(x, Constant):
        return x, None
    if isinstance(x, np.bytes_ | bytes):
        return Constant(np.bytes_(x)), None
    kind = f"{type(x).__module__}.{type(x).__name__}" if type(x).__module__ != "builtins" else type(x).__name__
    hint = "; make it a dask array by da.from_array" if isinstance(x, np.ndarray) else ""
    raise OptionError(
        "a ragged field combines with numbers, dask arrays of one entry per row, and ragged fields of as many rows; "
        f"got {kind}{hint}"
    )


def in_frame(source: Recipe, what: str, chunks: tuple[int, ...], frame: Frame) -> Recipe:
    """A recipe of as many rows, whose chunks become those of the frame.

    Raises
    ------
    OptionError
        When chunks that are computed are others.
    """
    if not source.inputs or chunks == frame.chunks:
        return source
    if any(isinstance(node, Held) for node in source.nodes.values()):
        raise OptionError(f"{what} is computed in other chunks; combine it with the other, and then .persist() that")
    return source.sliced(slice(None), frame)


def _of_array(x: Any, frame: Frame) -> tuple[Operand, Recipe]:
    if x.dtype.kind in "UO":
        raise OptionError(
            "text and labels cannot be combined with ragged fields; compare them first, as in ds['process'] == 'ttH', "
            "which is one boolean per row"
        )
    dtype = stored_dtype(x.dtype, name=str(x.name))
    if not x.ndim:
        return Single(dtype), Recipe.of(Lazy(x, Field.dense("value", dtype), single=True))
    if any(math.isnan(n) for n in x.shape):
        raise OptionError(
            "the length of this dask array is not known, as after x[mask]; make it from the rows that are selected, as "
            "ds[cut]['met'], or call compute_chunk_sizes() on it"
        )
    _check_rows("this dask array", x.shape[0], frame)
    optional = isinstance(x._meta, np.ma.MaskedArray)
    field = Field.dense("values", dtype, x.shape[1:], optional=(0,) * optional)
    return field, Recipe.of(Lazy(in_chunks(x, frame.chunks), field))


def _check_rows(what: str, n: int, frame: Frame) -> None:
    if n != len(frame):
        raise OptionError(
            f"{what} has {n:,} rows, and the ragged field {len(frame):,}; take both from the same selection, as ds[cut]"
        )


def compared_text(ufunc: np.ufunc, inputs: Sequence[Any]) -> Recipe:
    """Text that is compared with text in quotes: booleans.

    Raises
    ------
    OptionError
        For other operands, and all other ufuncs.
    """
    fields = [x for x in inputs if not isinstance(x, str)]
    texts = [x for x in inputs if isinstance(x, str)]
    if ufunc not in (np.equal, np.not_equal) or len(texts) != 1:
        names = " and ".join(repr(x.field.name) for x in fields if hasattr(x, "field"))
        raise OptionError(
            f"{ufunc.__name__} of {names}: text is compared by == and != with text in quotes; .map(f) calls f with "
            "awkward arrays of it"
        )
    [x] = fields
    field, source = x.field, x._source
    op = "==" if ufunc is np.equal else "!="
    constant = "text" if field.name != "text" else "words"
    plain = Field.string(field.name, levels=field.levels, optional=field.optional)
    expression = check(f"{spelled_name(field.name)} {op} {constant}", Schema([plain]), {constant: str(texts[0])})
    made = field_of(ufunc.__name__, expression, "")
    made = Field(made.name, made.kind, made.dtype, (), made.levels, optional=made.optional)
    return Recipe.made(Evaluated(field, expression, made), made, source)
