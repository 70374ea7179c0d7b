"""Turn what users hand in (numpy, awkward, lists, text) into `FieldData`, exactly or not at all.

Python numbers take the dtype of the field that they go into. Arrays have a dtype of their own: they are converted only
where every value survives, else `SchemaError` says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData, stored_dtype

__all__ = ["to_field_data", "values_as"]


def to_field_data(name: str, value: Any, field: Field | None = None) -> tuple[Field, FieldData]:
    """Convert the rows of one field.

    Parameters
    ----------
    name : str
        The field's name.
    value : array-like
        One entry per row: a numpy array ``(rows, ...)``, an awkward array, or a list of numbers, texts, lists or
        arrays.
    field : Field, optional
        What it must become; by default what it looks like: text is a string field, equal rows of an array are dense,
        lists and awkward lists are ragged.

    Returns
    -------
    Field, FieldData
        The data share memory with `value` where they can.

    Raises
    ------
    SchemaError
        When the values have missing entries, are objects, or do not fit `field`.

    Examples
    --------
    >>> f, d = to_field_data("hits", [[1, 2], [], [3]])
    >>> f.describe(), d.values.tolist(), d.offsets[0].tolist()
    ('ragged int64', [1, 2, 3], [0, 2, 2, 3])
    """
    if isinstance(value, FieldData):
        data, weak = value, False
    elif type(value).__module__.partition(".")[0] == "awkward":
        data, weak = _from_awkward(name, value), False
    elif isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        data, weak = _from_numpy(name, value, field), False
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        data, weak = _from_list(name, value, field)
    else:
        raise SchemaError(f"field {name!r}: rows come as an array or a list, got {type(value).__name__}")
    if isinstance(value, FieldData):
        text = field is not None and field.kind == "string"  # bytes do not say whether they are text
    else:
        text = data.values.dtype == TEXT_DTYPE and data.labels == ("utf-8",)
        data = replace(data, labels=()) if text else data
    if field is None:
        return _infer(name, data, text), data
    return field, _fit(field, data, text, weak)


def _infer(name: str, data: FieldData, text: bool) -> Field:
    if text:
        return Field(name, "string", TEXT_DTYPE, levels=len(data.offsets) - 1)
    if data.labels:
        return Field.category(name, data.labels)
    if data.offsets:
        return Field.ragged(name, data.values.dtype, data.values.shape[1:], levels=len(data.offsets))
    return Field.dense(name, data.values.dtype, data.values.shape[1:])


def _text(texts: Sequence[str], name: str) -> FieldData:
    """A run of strings; marked by its labels until the caller knows the kind."""
    try:
        encoded = [t.encode() for t in texts]
    except (UnicodeEncodeError, AttributeError):
        wrong = next(t for t in texts if not isinstance(t, str) or not _is_utf8(t))
        raise SchemaError(f"field {name!r}: {wrong!r} is not text that utf-8 can hold") from None
    offsets = np.zeros(len(encoded) + 1, OFFSET_DTYPE)
    np.cumsum([len(t) for t in encoded], out=offsets[1:])
    return FieldData(np.frombuffer(b"".join(encoded), TEXT_DTYPE), (offsets,), ("utf-8",))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_numpy(name: str, value: Any, field: Field | None) -> FieldData:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise SchemaError(f"field {name!r}: masked entries cannot be stored; fill them first, as in x.filled(...)")
    array = np.asarray(value)
    if array.ndim == 0:
        raise SchemaError(f"field {name!r}: one value where rows are expected; wrap it in a list")
    if array.dtype.kind in "UT":
        if array.ndim > 1:
            raise SchemaError(f"field {name!r}: text has one string per row, got an array of shape {array.shape}")
        return _text(array.tolist(), name)
    if array.dtype.kind == "O":
        return _from_list(name, list(array), field)[0]
    return FieldData(np.ascontiguousarray(array).astype(stored_dtype(array.dtype, name=name), copy=False))


def _from_list(name: str, value: Sequence[Any], field: Field | None) -> tuple[FieldData, bool]:
    """Rows from a list, and whether their dtype is only Python's."""
    first = next((v for v in value if v is not None), None)
    if any(v is None for v in value):
        raise SchemaError(f"field {name!r}: row {list(value).index(None)} is None; missing values cannot be stored")
    if isinstance(first, str):
        return _text(value, name), True
    if first is None:
        return _empty(name, field), True
    if isinstance(first, np.ndarray):
        return _from_arrays(name, value, field), False
    if hasattr(first, "__len__") and not isinstance(first, bytes):
        if field is not None and field.kind == "dense":
            return FieldData(_numbers(name, value)), True
        import awkward as ak

        try:
            array = ak.Array(value)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"field {name!r}: rows that cannot be stored: {error}") from None
        return _from_awkward(name, array), True
    return FieldData(_numbers(name, value)), True


def _numbers(name: str, value: Sequence[Any]) -> npt.NDArray[Any]:
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:
        raise SchemaError(f"field {name!r}: rows that are no array: {error}") from None
    if array.dtype.kind == "O":
        raise SchemaError(f"field {name!r}: {type(value[0]).__name__} and others, which no one dtype holds")
    return array.astype(stored_dtype(array.dtype, name=name), copy=False)


def _from_arrays(name: str, rows: Sequence[Any], field: Field | None) -> FieldData:
    """Rows that are numpy arrays: of one axis ragged, of more dense, unless the field says otherwise."""
    arrays = [np.asarray(r) for r in rows]
    dense = field.kind == "dense" if field is not None else arrays[0].ndim != 1
    if dense:
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise SchemaError(f"field {name!r}: dense rows have one shape, got {sorted(shapes)[:3]}")
        return _from_numpy(name, np.stack(arrays), field)
    shapes = {a.shape[1:] for a in arrays}
    if len(shapes) > 1 or any(a.ndim == 0 for a in arrays):
        raise SchemaError(f"field {name!r}: items of ragged rows have one shape, got {sorted(shapes)[:3]}")
    offsets = np.zeros(len(arrays) + 1, OFFSET_DTYPE)
    np.cumsum([len(a) for a in arrays], out=offsets[1:])
    return replace(_from_numpy(name, np.concatenate(arrays), field), offsets=(offsets,))


def _empty(name: str, field: Field | None) -> FieldData:
    if field is None:
        return FieldData(np.empty(0))
    offsets = tuple(np.zeros(1, OFFSET_DTYPE) for _ in range(field.n_offsets))
    return FieldData(np.empty((0, *field.shape), field.dtype), offsets, field.labels)


def _from_awkward(name: str, array: Any) -> FieldData:
    """Offsets and values of an awkward array, without a copy where its layout has them."""
    import awkward as ak

    layout = ak.to_layout(array)
    offsets: list[npt.NDArray[np.int64]] = []
    while True:
        if layout.is_option:
            if ak.any(ak.is_none(ak.Array(layout), axis=0)):
                raise SchemaError(f"field {name!r}: missing values cannot be stored; fill them, as in ak.fill_none")
            layout = layout.project()
        elif layout.is_indexed:
            if layout.parameter("__array__") == "categorical" and not offsets:
                labels = ak.to_list(ak.Array(layout.content))
                if all(isinstance(label, str) for label in labels):
                    codes = np.asarray(layout.index.data).astype(CODE_DTYPE)
                    return FieldData(codes, labels=tuple(labels))
            layout = layout.project()
        elif layout.is_list and not (layout.is_regular and layout.parameter("__array__") is None):
            text = layout.parameter("__array__") in ("string", "bytestring")
            layout = layout.to_ListOffsetArray64(True).to_packed()
            offsets.append(np.asarray(layout.offsets.data).astype(OFFSET_DTYPE, copy=False))
            layout = layout.content
            if text:
                values = np.asarray(ak.to_numpy(ak.without_parameters(ak.Array(layout))))
                return FieldData(values.view(TEXT_DTYPE), tuple(offsets), ("utf-8",))
        elif layout.is_unknown:
            return FieldData(np.empty(0), tuple(offsets))
        elif layout.is_record:
            raise SchemaError(
                f"field {name!r}: records of {', '.join(layout.fields)}; give each as a field of its own, "
                f"as in {name}_{layout.fields[0] if layout.fields else 'x'}"
            )
        else:
            break
    try:
        values = np.asarray(ak.to_numpy(ak.Array(layout)))
    except (ValueError, TypeError) as error:
        raise SchemaError(f"field {name!r}: {array.type} cannot be stored: {error}") from None
    return replace(_from_numpy(name, values, None), offsets=tuple(offsets))


def _fit(field: Field, data: FieldData, text: bool, weak: bool) -> FieldData:
    """The data as rows of `field`, or SchemaError."""
    if field.kind == "category":
        return _codes(field, data, text)
    if data.labels:
        data = _label_text(field, data)
        text = True
    if text != (field.kind == "string") and len(data.values):
        raise SchemaError(f"field {field.name!r} is {field.describe()}; got {'text' if text else 'numbers'}")
    if not len(data) and not len(data.values):
        return _empty(field.name, field)
    if field.kind == "ragged" and not data.offsets and data.values.ndim > 1 and field.levels == 1:
        # A rectangular array is a ragged field whose rows happen to be equally long.
        n, length = data.values.shape[:2]
        offsets = np.arange(n + 1, dtype=OFFSET_DTYPE) * length
        data = FieldData(data.values.reshape(n * length, *data.values.shape[2:]), (offsets,))
    while 0 < len(data.offsets) < field.n_offsets and not len(data.values):
        # Lists that are all empty do not say how deep they would go.
        data = replace(data, offsets=(*data.offsets, np.zeros(int(data.offsets[-1][-1]) + 1, OFFSET_DTYPE)))
    if len(data.offsets) != field.n_offsets:
        raise SchemaError(
            f"field {field.name!r} is {field.describe()} with {field.n_offsets} levels of lists; "
            f"got {len(data.offsets)} levels"
        )
    if data.values.shape[1:] != field.shape:
        if not len(data.values):
            return replace(data, values=np.empty((0, *field.shape), field.dtype))
        raise SchemaError(f"field {field.name!r} has items of shape {field.shape}; got {data.values.shape[1:]}")
    return replace(data, values=values_as(field, data.values, weak))


def _codes(field: Field, data: FieldData, text: bool) -> FieldData:
    if data.labels:
        return data
    if not text:
        if len(data.values):
            raise SchemaError(f"field {field.name!r} is a category: its rows are texts, got {data.values.dtype}")
        return FieldData(np.empty(0, CODE_DTYPE), labels=field.labels)
    raw, offsets = data.values.tobytes(), data.offsets[0].tolist()
    known: dict[bytes, int] = {label.encode(): i for i, label in enumerate(field.labels)}
    codes = [known.setdefault(raw[a:b], len(known)) for a, b in itertools.pairwise(offsets)]
    return FieldData(np.array(codes, CODE_DTYPE), labels=tuple(k.decode() for k in known))


def _label_text(field: Field, data: FieldData) -> FieldData:
    return replace(_text([data.labels[c] for c in data.values.tolist()], field.name), labels=())


def values_as(field: Field, values: npt.NDArray[Any], weak: bool = False) -> npt.NDArray[Any]:
    """Values in the dtype of `field`, unless that would change one of them.

    `weak` values are Python numbers: floats may be rounded to the field's precision, as numpy does.
    """
    dtype = field.dtype
    if values.dtype == dtype:
        return values
    if np.can_cast(values.dtype, dtype, "safe"):
        return values.astype(dtype)
    if dtype.kind == "c" and values.dtype.kind in "biuf":
        real = replace(field, dtype=np.dtype(f"<f{dtype.itemsize // 2}"))
        return values_as(real, values, weak).astype(dtype)
    numbers = "fc" if dtype.kind == "c" else "biuf"
    if values.dtype.kind in numbers and dtype.kind in "biufc":
        with np.errstate(all="ignore"):
            cast = values.astype(dtype)
            if _survives(values, cast) or (weak and values.dtype.kind == "f" and _rounded(values, cast)):
                return cast
    raise SchemaError(
        f"field {field.name!r} is {field.describe()}; {values.dtype} values do not all fit exactly: "
        f"convert them first, as in x.astype({dtype.name!r})"
    )


def _survives(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether every value is the same after the cast."""
    if values.dtype.kind in "iu" and cast.dtype.kind == "f":
        # A float beyond the integers does not come back as one; what it comes back as differs between processors.
        limit = 2.0 ** (np.iinfo(values.dtype).bits - (values.dtype.kind == "i"))
        if not (np.abs(cast.astype("f8")) < limit).all():
            return False
    if values.dtype.kind in "iu" and cast.dtype.kind in "iu" and ((cast < 0) != (values < 0)).any():
        return False
    return np.array_equal(cast.astype(values.dtype), values, equal_nan=values.dtype.kind in "fc")


def _rounded(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether floats only lost precision."""
    return cast.dtype.kind == "f" and not (np.isinf(cast) & ~np.isinf(values)).any()
