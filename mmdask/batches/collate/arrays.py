"""Steps for the arrays that others make: their dtype and their axes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate.base import Form, Packed
from mmdask.errors import OptionError
from mmdask.schema import stored_dtype

__all__ = ["AsType", "ExpandDims", "OneHot", "Squeeze", "astype", "common_dtype", "expand_dims", "one_hot", "squeeze"]


@dataclass(frozen=True)
class AsType:
    """Numbers in another dtype. Made by `astype`."""

    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"mm.astype({self.dtype.name!r})"

    def form(self, name: str, form: Form) -> Form:
        if form.what in ("text", "nested"):
            raise OptionError(f"field {name!r}: {self} is for numbers, and here it gets a {form}")
        return replace(form, dtype=self.cast(name, form.dtype))

    def cast(self, name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The new dtype, if numbers of the old one keep their kind in it."""
        if not np.can_cast(dtype, self.dtype, "same_kind") or (dtype.kind in "mM") != (self.dtype.kind in "mM"):
            raise OptionError(
                f"field {name!r}: {self} would change the kind of its numbers, which are {dtype}: fractions, signs or "
                "units would be lost; compute another field by ds.assign"
            )
        return self.dtype

    def apply(self, name: str, value: Any) -> Any:
        return each(value, lambda a: self.converted(name, a))

    def converted(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array in the new dtype; integers keep their values, floats may be rounded."""
        if (
            array.size
            and array.dtype.kind in "iu"
            and self.dtype.kind in "iu"
            and not np.can_cast(array.dtype, self.dtype)
        ):
            limits = np.iinfo(self.dtype)
            for found in (int(array.min()), int(array.max())):
                if not limits.min <= found <= limits.max:
                    raise OptionError(
                        f"field {name!r}: {self} holds {limits.min} to {limits.max}, and there is {found}; take a "
                        "wider dtype"
                    )
        return array.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class ExpandDims:
    """One more axis, of length 1. Made by `expand_dims`."""

    axis: int

    def __str__(self) -> str:
        return f"mm.expand_dims({self.axis})"

    def form(self, name: str, form: Form) -> Form:
        _needs_axes(name, self, form)
        if not -form.axes - 1 <= self.axis <= form.axes:
            raise OptionError(f"field {name!r}: {self} is beyond the {form.axes} axes of a row")
        return replace(form, axes=form.axes + 1)

    def apply(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return each(value, lambda a: np.expand_dims(a, self.axis))
        return np.expand_dims(value, self.axis + (self.axis >= 0))


@dataclass(frozen=True)
class Squeeze:
    """One axis less. Made by `squeeze`."""

    axis: int

    def __str__(self) -> str:
        return f"mm.squeeze({self.axis})"

    def form(self, name: str, form: Form) -> Form:
        _needs_axes(name, self, form)
        if not -form.axes <= self.axis < form.axes:
            raise OptionError(f"field {name!r}: {self} is beyond the {form.axes} axes of a row")
        return replace(form, axes=form.axes - 1)

    def apply(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return each(value, lambda a: self._squeezed(name, a, self.axis))
        return self._squeezed(name, value, self.axis + (self.axis >= 0))

    def _squeezed(self, name: str, array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        if array.shape[axis] != 1:
            raise OptionError(
                f"field {name!r}: {self} takes an axis of length 1 away, and it is {array.shape[axis]} long here"
            )
        return np.squeeze(array, axis)


@dataclass(frozen=True)
class OneHot:
    """Codes as rows of zeros and a one. Made by `one_hot`."""

    n: int = 0

    def __str__(self) -> str:
        return "mm.one_hot()"

    def form(self, name: str, form: Form) -> Form:
        if form.labels is None:
            raise OptionError(f"field {name!r}: {self} is for the codes of a category, and here it gets a {form}")
        return Form("array", np.dtype(np.float32), 1)

    def apply(self, name: str, value: Any) -> Any:
        out = np.zeros((len(value), self.n), np.float32)
        there = np.flatnonzero(value >= 0)
        out[there, value[there]] = 1
        return out


def each(value: Any, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Any:
    """Change an array, or each of a list, or the values that are packed; None stays."""
    if isinstance(value, Packed):
        return value._replace(values=each(value.values, change))
    if isinstance(value, list):
        return [None if v is None else each(v, change) for v in value]
    return change(value)


def common_dtype(name: str, dtypes: Mapping[str, np.dtype[Any]]) -> np.dtype[Any]:
    """The dtype of an array of several fields, in which all integers are what they were.

    Raises
    ------
    OptionError
        When there is none.
    """
    try:
        common = np.result_type(*dtypes.values())
    except TypeError as error:
        raise OptionError(f"collate[{name!r}]: its fields have no common dtype: {error}") from None
    for field, dtype in dtypes.items():
        if dtype.kind in "iu" and common.kind in "fc" and np.iinfo(dtype).bits > _exact_bits(common):
            of = ", ".join(f"{f!r} {d}" for f, d in dtypes.items())
            raise OptionError(
                f"collate[{name!r}]: integers of {field!r} would be rounded in {common}, which its fields have in "
                f"common: {of}; choose one for all, as step=[mm.astype('f8'), ...], or stack integers alone"
            )
    return common


def _exact_bits(dtype: np.dtype[Any]) -> int:
    """How long integers are that floats of a dtype hold exactly, with a sign."""
    return int(np.finfo(dtype).nmant) + 1


def _needs_axes(name: str, step: object, form: Form) -> None:
    if form.what not in ("array", "list"):
        raise OptionError(f"field {name!r}: {step} is for arrays, and here it gets {form}; put mm.pad() before it")


def astype(dtype: npt.DTypeLike) -> AsType:
    """Hand out numbers in another dtype of the same kind or a wider one, as numpy's ``casting="same_kind"``.

    Before a `pad` it changes what is padded, so that integers may be filled with nan:
    ``[mm.astype("f4"), mm.pad(8, value=np.nan)]``.

    Raises
    ------
    OptionError
        When the loader is made, if numbers would change their kind: floats to integers, say; at the batch that has an
        integer beyond those of the new dtype.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"n": [1, 2, 3]}, "astype.mm")
    >>> ds.batches(3, shuffle=False, collate={"n": mm.astype("f4")})[0]["n"]
    array([1., 2., 3.], dtype=float32)
    """
    return AsType(stored_dtype(dtype))


def expand_dims(axis: int) -> ExpandDims:
    """Add an axis of length 1, which numpy does too, but counted within a row: 0 is the first behind the rows.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"sound": [[1.0, 2.0], [3.0, 4.0]]}, "axes.mm")
    >>> step = [mm.pad(2, mask=False), mm.expand_dims(0)]
    >>> ds.batches(2, shuffle=False, collate={"sound": step})[0]["sound"].shape
    (2, 1, 2)
    """
    return ExpandDims(_axis("expand_dims", axis))


def squeeze(axis: int) -> Squeeze:
    """Take an axis of length 1 away, counted within a row: 0 is the first behind the rows.

    Raises
    ------
    OptionError
        At the batch where the axis is longer.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"image": np.zeros((3, 8, 8, 1))}, "grey.mm")
    >>> ds.batches(3, collate={"image": mm.squeeze(-1)})[0]["image"].shape
    (3, 8, 8)
    """
    return Squeeze(_axis("squeeze", axis))


def one_hot() -> OneHot:
    """Hand out a category as float32 ``(rows, labels)``: 1 for its label, else 0. A missing label is all zeros.

    Examples
    --------
    >>> import mmdask as mm
    >>> with mm.create("labels.mm", fields=[mm.Field.category("process")]) as w:
    ...     w.extend({"process": ["ttH", "ttbb", "ttH"]})
    >>> ds = mm.open("labels.mm")
    >>> ds.batches(3, shuffle=False, collate={"process": mm.one_hot()})[0]["process"].tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """
    return OneHot()


def _axis(what: str, axis: object) -> int:
    try:
        return operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"{what}(axis) is an integer, got {axis!r}") from None
