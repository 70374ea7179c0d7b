"""Turn what users hand in (numpy, awkward, lists, text) into `FieldData`, exactly or not at all.

Python floats take the precision of the field that they go into. Everything else is converted only where every value
survives, else `SchemaError` says so. That needs care: numpy and awkward round integers when they meet floats, call
int64 to float64 a safe cast, and let dates that are out of range wrap.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData, empty, stored_dtype

__all__ = ["by_field", "to_field_data", "values_as"]


def by_field(rows: Any) -> Mapping[str, Any]:
    """Rows of several fields as a mapping of names to rows: mappings as they are, records of awkward or numpy apart.

    Raises
    ------
    SchemaError
        For anything else.
    """
    if isinstance(rows, Mapping):
        return rows
    names = getattr(getattr(rows, "dtype", None), "names", None) or getattr(rows, "fields", None)
    if not names:
        raise SchemaError(
            f"rows come as a mapping of field names to arrays, or as an array of records; got {type(rows).__name__}"
        )
    return {name: rows[name] for name in names}


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
        When the values have missing entries, are objects, do not fit `field` exactly, or are empty lists that need a
        `field` to say what their items are.

    Examples
    --------
    >>> f, d = to_field_data("hits", [[1, 2], [], [3]])
    >>> f.describe(), d.values.tolist(), d.offsets[0].tolist()
    ('ragged int64', [1, 2, 3], [0, 2, 2, 3])
    """
    if isinstance(value, FieldData):
        data, weak = value, False
    elif _is_awkward(value):
        data, weak = _from_awkward(name, value, field), False
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


def _check_mask(name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise SchemaError(f"field {name!r}: masked entries cannot be stored; fill them first, as in x.filled(...)")


def _is_awkward(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "awkward"


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, np.generic) and not _is_awkward(value)


def _is_list(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, str | bytes)) or getattr(value, "ndim", 0) > 0


def _from_numpy(name: str, value: Any, field: Field | None) -> FieldData:
    _check_mask(name, value)
    array = np.asarray(value)
    if array.ndim == 0:
        raise SchemaError(f"field {name!r}: one value where rows are expected; wrap it in a list")
    if array.dtype.kind in "UT":
        if array.ndim > 1:
            raise SchemaError(f"field {name!r}: text has one string per row, got an array of shape {array.shape}")
        return _text(array.tolist(), name)
    if array.dtype.kind == "O" and array.ndim > 1:
        return FieldData(_numbers(name, array.tolist(), field))
    if array.dtype.kind == "O":
        return _from_list(name, list(array), field)[0]
    return FieldData(np.ascontiguousarray(array).astype(stored_dtype(array.dtype, name=name), copy=False))


def _from_list(name: str, value: Sequence[Any], field: Field | None) -> tuple[FieldData, bool]:
    """Rows from a list, and whether their dtype is only Python's."""
    for i, row in enumerate(value):
        if row is None or row is np.ma.masked:
            raise SchemaError(f"field {name!r}: entry {i} is {row}; missing values cannot be stored")
    if not len(value):
        return FieldData(np.empty(0)), True
    first = value[0]
    if isinstance(first, str):
        return _text(value, name), True
    if isinstance(first, Mapping):
        raise _records(name, list(first))
    if _is_array(first):
        return _from_arrays(name, value, field), False
    if not _is_list(first) or (field is not None and field.kind == "dense"):
        return FieldData(_numbers(name, value, field)), True
    if not all(map(_is_list, value)):
        wrong = next(v for v in value if not _is_list(v))
        raise SchemaError(f"field {name!r}: {type(wrong).__name__} among lists; rows that cannot be stored")
    items = list(itertools.chain.from_iterable(value))
    if not items and field is None:
        raise _undeclared(name)
    inner, weak = _from_list(name, items, field)
    return replace(inner, offsets=(_offsets(value), *inner.offsets)), weak


def _offsets(lists: Sequence[Any]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lists) + 1, OFFSET_DTYPE)
    np.cumsum([len(v) for v in lists], out=offsets[1:])
    return offsets


def _undeclared(name: str) -> SchemaError:
    return SchemaError(
        f"field {name!r}: empty lists do not say what their items are; declare the field, as in "
        f"fields=[mm.Field.ragged({name!r}, 'f4')]"
    )


def _records(name: str, fields: Sequence[Any]) -> SchemaError:
    return SchemaError(
        f"field {name!r}: records of {', '.join(map(str, fields))}; give each as a field of its own, "
        f"as in {name}_{fields[0] if fields else 'x'}"
    )


def _numbers(name: str, value: Sequence[Any], field: Field | None) -> npt.NDArray[Any]:
    """Scalars, or equally long lists of them, as an array that holds every one exactly."""
    try:
        array, elements = np.array(value), np.array(value, object).ravel().tolist()
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaError(f"field {name!r}: rows that are no array: {error}") from None
    types = set(map(type, elements))
    if array.dtype.kind == "f" and elements and all(issubclass(t, int | np.integer | np.bool_) for t in types):
        # Beyond int64 numpy takes floats, also where uint64 holds all of them.
        ints = list(map(int, elements))
        if min(ints) >= 0:
            array = np.array(ints, np.uint64).reshape(array.shape)
    if array.dtype.kind == "O":
        raise SchemaError(f"field {name!r}: {type(elements[0]).__name__} and others, which no one dtype holds")
    array = array.astype(stored_dtype(array.dtype, name=name), copy=False)
    if array.dtype.kind in "mM":
        if len({getattr(e, "dtype", None) for e in elements}) > 1:
            return np.array(_one_dtype(name, [np.asarray(e) for e in elements], None)).reshape(array.shape)
    elif array.dtype.kind in "fcS" and types not in ({float}, {complex}):
        _check_same(name, elements, array, field)
    return array


def _check_same(name: str, elements: list[Any], array: npt.NDArray[Any], field: Field | None) -> None:
    """Whether an array holds its elements exactly, and integers also when it takes the precision of `field`."""
    rounded = array
    if field is not None and field.dtype.kind in "fc" and np.can_cast(array.dtype, field.dtype, "same_kind"):
        with np.errstate(all="ignore"):
            rounded = array.astype(field.dtype)
    for element, as_float, as_field in zip(elements, array.ravel().tolist(), rounded.ravel().tolist(), strict=True):
        exact = element.item() if isinstance(element, np.generic) else element
        stored = as_field if isinstance(exact, int) else as_float
        # Python compares numbers of different types exactly; nan differs from itself.
        if exact != stored and exact == exact:
            raise SchemaError(
                f"field {name!r}: {exact!r} would become {stored!r} beside the others, of which it shares one dtype: "
                "give an array of the dtype that it should have"
            )


def _from_arrays(name: str, rows: Sequence[Any], field: Field | None) -> FieldData:
    """Rows that are numpy arrays: of one axis ragged, of more dense, unless the field says otherwise."""
    for row in rows:
        _check_mask(name, row)
    arrays = [np.asarray(r) if _is_array(r) else _numbers(name, r, None) for r in rows]
    dense = field.kind == "dense" if field is not None else arrays[0].ndim != 1
    if dense:
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise SchemaError(f"field {name!r}: dense rows have one shape, got {sorted(shapes)[:3]}")
        return _from_numpy(name, np.stack(_one_dtype(name, arrays, field)), field)
    shapes = {a.shape[1:] for a in arrays}
    if len(shapes) > 1 or any(a.ndim == 0 for a in arrays):
        raise SchemaError(f"field {name!r}: items of ragged rows have one shape, got {sorted(shapes)[:3]}")
    inner = _from_numpy(name, np.concatenate(_one_dtype(name, arrays, field)), field)
    return replace(inner, offsets=(_offsets(arrays), *inner.offsets))


def _one_dtype(name: str, arrays: list[npt.NDArray[Any]], field: Field | None) -> list[npt.NDArray[Any]]:
    """The arrays in the field's dtype, or one that holds all their values exactly. Empty ones have no say."""
    dtypes = {a.dtype for a in arrays if a.size} or {a.dtype for a in arrays}
    try:
        dtype = np.result_type(*dtypes)
    except TypeError as error:
        raise SchemaError(f"field {name!r}: rows of {', '.join(sorted(map(str, dtypes)))}: {error}") from None
    if dtype.kind in "OUT":
        if dtype.kind != "O" and any(d.kind not in "UT" for d in dtypes):
            raise SchemaError(f"field {name!r}: text and other rows: {', '.join(sorted(map(str, dtypes)))}")
    else:
        declared = field is not None and field.kind in ("dense", "ragged")
        target = field if field is not None and declared else Field.dense(name, dtype)
        arrays, dtype = [values_as(target, a) if a.size else a for a in arrays], target.dtype
    return [a if a.size else np.empty(a.shape, dtype) for a in arrays]


def _from_awkward(name: str, array: Any, field: Field | None) -> FieldData:
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
            if field is None:
                raise _undeclared(name)
            return FieldData(np.empty(0), tuple(offsets))
        elif layout.is_record:
            raise _records(name, layout.fields)
        elif layout.is_union:
            raise SchemaError(f"field {name!r}: {array.type} cannot be stored: its values have several types")
        else:
            break
    try:
        values = ak.to_numpy(ak.Array(layout))  # with a mask, where values are missing within items
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
    if not len(data) and not len(data.values):
        return empty(field)
    # Empty lists may be rows of any number of strings; rows of text are never lists of numbers.
    unclear = not text and not len(data.values) and len(data.offsets) <= field.levels
    if text != (field.kind == "string") and not (field.kind == "string" and unclear):
        raise SchemaError(f"field {field.name!r} is {field.describe()}; got {'text' if text else 'numbers'}")
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
    if not len(data):
        return FieldData(np.empty(0, CODE_DTYPE), labels=field.labels)
    if not text or len(data.offsets) != 1:
        got = "lists" if data.offsets else str(data.values.dtype)
        raise SchemaError(f"field {field.name!r} is a category: its rows are texts, got {got}")
    raw, offsets = data.values.tobytes(), data.offsets[0].tolist()
    known: dict[bytes, int] = {label.encode(): i for i, label in enumerate(field.labels)}
    codes = [known.setdefault(raw[a:b], len(known)) for a, b in itertools.pairwise(offsets)]
    try:
        labels = tuple(k.decode() for k in known)
    except UnicodeDecodeError as error:
        raise SchemaError(f"field {field.name!r}: labels are text in utf-8, got {error.object!r}") from None
    return FieldData(np.array(codes, CODE_DTYPE), labels=labels)


def _label_text(field: Field, data: FieldData) -> FieldData:
    return replace(_text([data.labels[c] for c in data.values.tolist()], field.name), labels=())


def values_as(field: Field, values: npt.NDArray[Any], weak: bool = False) -> npt.NDArray[Any]:
    """Values in the dtype of `field`, unless that would change one of them.

    `weak` values are Python numbers: floats may be rounded to the field's precision, as numpy does.
    """
    dtype = field.dtype
    if values.dtype == dtype:
        return values
    if not values.size:
        return np.empty(values.shape, dtype)
    if dtype.kind == "c" and values.dtype.kind in "biuf":
        real = replace(field, dtype=np.dtype(f"<f{dtype.itemsize // 2}"))
        return values_as(real, values, weak).astype(dtype)
    numbers = values.dtype.kind in "biuf" and dtype.kind in "biuf"
    if numbers or (values.dtype.kind == dtype.kind and dtype.kind in "cSmM"):
        with np.errstate(all="ignore"):
            cast = values.astype(dtype)
            if _always_exact(values.dtype, dtype) or _survives(values, cast) or (weak and _rounded(values, cast)):
                return cast
    raise SchemaError(
        f"field {field.name!r} is {field.describe()}; {values.dtype} values do not all fit exactly: "
        f"convert them first, as in x.astype({dtype.name!r})"
    )


def _always_exact(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether a cast changes no number. Numpy calls those "safe", and some that round or wrap."""
    rounds = source.kind in "iu" and target.kind == "f" and source.itemsize == 8
    return source.kind not in "mM" and not rounds and bool(np.can_cast(source, target, "safe"))


def _survives(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether every value is the same after the cast."""
    source, target = values.dtype.kind, cast.dtype.kind
    if source == "c":
        return _survives(values.real, cast.real) and _survives(values.imag, cast.imag)
    # A float beyond the integers becomes any of them: which one differs between processors.
    if source in "iu" and target == "f" and not _within(cast, values.dtype):
        return False
    if source == "f" and target in "iu" and not _within(values, cast.dtype):
        return False
    if source in "iu" and target in "iu" and ((cast < 0) != (values < 0)).any():
        return False
    return np.array_equal(cast.astype(values.dtype), values, equal_nan=source in "fmM")


def _within(floats: npt.NDArray[Any], integer: np.dtype[Any]) -> bool:
    """Whether all floats lie in the range of an integer dtype."""
    info, doubles = np.iinfo(integer), floats.astype("f8")
    return bool(((doubles >= float(info.min)) & (doubles < float(info.max + 1))).all())


def _rounded(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether floats only lost precision."""
    return values.dtype.kind == cast.dtype.kind == "f" and not (np.isinf(cast) & ~np.isinf(values)).any()
