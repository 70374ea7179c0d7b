"""Which fields a branch becomes, by uproot's interpretation of it, and how the arrays that uproot gives become rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import Field, FieldData
from mmdask.sources.root.file import brief
from mmdask.sources.root.forms import Layout, as_list, exact, plan_of, text

__all__ = ["Decoder", "decoder_of"]


@dataclass(frozen=True)
class Decoder:
    """What a branch becomes.

    uproot is asked for arrays of `interpretation` in `library`, of which `rows` makes the rows of some of the `fields`.
    `skipped` are members that become no field, with the reason; `item_nbytes` are bytes of an item in the file, 0 where
    they differ.
    """

    fields: tuple[Field, ...]
    skipped: tuple[tuple[str, str], ...]
    library: str
    interpretation: Any
    rows: Callable[[Any, Sequence[Field]], tuple[FieldData, ...]]
    item_nbytes: int = 0


def decoder_of(name: str, branch: Any) -> Decoder | str:
    """How a branch is decoded, or why it is not; empty text for a group, whose members count.

    Whatever is odd in the file comes out of uproot as any kind of exception.
    """
    import uproot

    i = branch.interpretation
    if isinstance(i, uproot.interpretation.grouped.AsGrouped):
        return ""
    if isinstance(i, Exception):
        return f"its type cannot be told {brief(i)}"
    if isinstance(i, uproot.AsStrings):
        return Decoder((Field.string(name),), (), "ak", i, _strings)
    ragged = isinstance(i, uproot.AsJagged)
    if ragged:
        i = _jagged(i.content, i.header_bytes)
    content = i.content if ragged else i
    truncated = isinstance(content, uproot.AsDouble32 | uproot.AsFloat16)
    if isinstance(content, uproot.AsDtype) and content.from_dtype.names and type(content) is uproot.AsDtype:
        return _members(name, i, ragged, content)
    if type(content) is not uproot.AsDtype and not truncated:
        return _formed(name, i, branch)
    dtype = content.to_dtype
    base, shape = dtype.subdtype or (dtype, ())
    make = Field.ragged if ragged else Field.dense
    try:
        field = make(name, base, tuple(int(length) for length in shape))
    except SchemaError as error:
        return str(error)
    if ragged and truncated and content.to_dims:
        return _truncated(field, i, content)
    return Decoder((field,), (), "ak" if ragged else "np", i, _lists if ragged else _numbers, _itemsize(content))


def _jagged(content: Any, header_bytes: int) -> Any:
    """The interpretation of lists of some content."""
    return _checked_lists()(content, header_bytes)


@functools.cache
def _checked_lists() -> Any:
    import uproot

    class AsCheckedJagged(uproot.AsJagged):  # type: ignore[misc]
        """Lists of which each basket has as many items as their counts say.

        uproot 5.7.7 returns uninitialised memory for items that are not there.
        """

        def hook_after_basket_array(self, *, output: Any, **_: Any) -> None:
            offsets, items = output.offsets, len(output.content)
            if offsets[0] != 0 or offsets[-1] != items or (np.diff(offsets) < 0).any():
                raise ValueError(f"a basket has {items} items, and lists of {offsets[-1] - offsets[0]} items")

    return AsCheckedJagged


def _itemsize(content: Any) -> int:
    return int(content.itemsize) * int(np.prod(getattr(content, "to_dims", ()), dtype=np.int64))


def _numbers(array: Any, fields: Sequence[Field]) -> tuple[FieldData, ...]:
    return (FieldData(exact(np.asarray(array), fields[0])),)


def _lists(array: Any, fields: Sequence[Field]) -> tuple[FieldData, ...]:
    field = fields[0]
    offsets, values = _flat(array)
    if not len(values):
        values = np.empty((0, *field.shape), field.dtype)  # awkward may have lost the type
    return (FieldData(exact(values, field), (offsets,)),)


def _strings(array: Any, fields: Sequence[Field]) -> tuple[FieldData, ...]:
    offsets, values = _flat(array)
    return (text(FieldData(np.ascontiguousarray(values, dtype="u1"), (offsets,))),)


def _flat(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Offsets from 0 and the numbers that they index, of an awkward array of lists."""
    import awkward as ak

    offsets, content = as_list(array.layout)
    return offsets, np.asarray(ak.to_numpy(content, allow_missing=False))


def _formed(name: str, interpretation: Any, branch: Any) -> Decoder | str:
    """Objects, lists of lists, text in lists, maps, sets: whatever has an awkward form."""
    try:
        form = interpretation.awkward_form(branch.file)
    except Exception as error:
        return f"type {_short(branch)} has no form that could be stored {brief(error)}"
    layout: Layout = plan_of(name, form)
    content = getattr(interpretation, "content", interpretation)
    nbytes = int(getattr(content, "itemsize", 0) or 0)
    return Decoder(layout.fields, layout.skipped, "ak", interpretation, layout.data, nbytes)


def _short(branch: Any) -> str:
    name = str(branch.typename)
    return name if len(name) <= 80 else name[:77] + "..."


# Items that are read as bytes ----------------------------------------------------------------------------------------


def _bytes_of(interpretation: Any, ragged: bool, nbytes: int) -> Any:
    """The interpretation that gives each item as its bytes."""
    import uproot

    content = uproot.AsDtype(np.dtype(("u1", (nbytes,))))
    return _jagged(content, interpretation.header_bytes) if ragged else content


def _items(array: Any, ragged: bool, nbytes: int) -> tuple[tuple[npt.NDArray[np.int64], ...], npt.NDArray[np.uint8]]:
    """Offsets, if there are any, and the bytes of all items in one row each."""
    offsets, values = _flat(array) if ragged else (None, np.asarray(array))
    values = np.ascontiguousarray(values, dtype="u1").reshape(-1, nbytes)
    return (() if offsets is None else (offsets,)), values


def _members(name: str, interpretation: Any, ragged: bool, content: Any) -> Decoder:
    """A leaf list: the members of a struct. uproot has no awkward form of those that are arrays."""
    dtype = content.from_dtype
    make = Field.ragged if ragged else Field.dense
    fields: dict[str, Field] = {}
    skipped: list[tuple[str, str]] = []
    for member in dtype.names:
        base, shape = dtype[member].subdtype or (dtype[member], ())
        try:
            fields[member] = make(f"{name}.{member}", base, shape)
        except SchemaError as error:
            skipped.append((f"{name}.{member}", str(error)))
    members = {f.name: member for member, f in fields.items()}

    def rows(array: Any, wanted: Sequence[Field]) -> tuple[FieldData, ...]:
        offsets, values = _items(array, ragged, dtype.itemsize)
        struct = values.view(dtype).reshape(-1)
        native = ((f, struct[members[f.name]]) for f in wanted)
        return tuple(FieldData(exact(v.astype(v.dtype.newbyteorder("=")), f), offsets) for f, v in native)

    asked = _bytes_of(interpretation, ragged, dtype.itemsize)
    library = "ak" if ragged else "np"
    return Decoder(tuple(fields.values()), tuple(skipped), library, asked, rows, dtype.itemsize)


def _truncated(field: Field, interpretation: Any, content: Any) -> Decoder:
    """Lists of arrays of Double32_t or Float16_t.

    uproot 5.7.7 counts their bytes as if each item had no dimensions, and returns uninitialised memory; so their bytes
    are read, and each number is decoded alone.
    """
    nbytes = _itemsize(content)
    number = type(content)(content.low, content.high, content.num_bits)

    def rows(array: Any, wanted: Sequence[Field]) -> tuple[FieldData, ...]:
        offsets, values = _items(array, True, nbytes)
        flat = number.basket_array(values.reshape(-1), None, None, None, None, 0, None, None)
        return (FieldData(exact(flat.reshape(-1, *field.shape), field), offsets),)

    return Decoder((field,), (), "ak", _bytes_of(interpretation, True, nbytes), rows, nbytes)
