"""`Normalisation`: means and standard deviations of fields, which are taken off where batches are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.batches.collate import Packed
from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.rows.rows import Rows
from mmdask.schema import Field, FieldData, Schema

__all__ = ["Normalisation", "NormalisedRows", "check_normalised"]

_FORMAT = 1

Floats = npt.NDArray[np.float64]


class Normalisation:
    """Means and standard deviations of fields: ``(x - mean) / std`` is what a batch holds then.

    Made by `Dataset.normalisation`, or of numbers that are known. A std of 0 leaves differences as they are.

    Parameters
    ----------
    mean, std : mapping
        By the names of fields: a number, or for a field with a shape an array of that shape.
    dtype : dtype
        Of what is normalised: float32, or another float. It is computed in float64 whatever that is.

    Attributes
    ----------
    mean, std : dict of numpy.ndarray
        float64, of the shape of an item.
    dtype : numpy.dtype

    Raises
    ------
    OptionError
        When these are no such numbers.

    Examples
    --------
    >>> n = Normalisation({"met": 50.0}, {"met": 20.0})
    >>> n.apply({"met": np.array([30.0, 60.0]), "n": np.array([3, 4])})
    {'met': array([-1. ,  0.5], dtype=float32), 'n': array([3, 4])}
    >>> n.invert({"met": np.array([-1.0, 0.5])})
    {'met': array([30., 60.])}
    """

    def __init__(self, mean: Mapping[str, Any], std: Mapping[str, Any], *, dtype: npt.DTypeLike = "float32") -> None:
        if list(mean) != list(std):
            raise OptionError(f"mean and std are of the same fields, got {list(mean)} and {list(std)}")
        self.mean = {name: _numbers(name, value) for name, value in mean.items()}
        self.std = {name: _numbers(name, value) for name, value in std.items()}
        self.dtype = np.dtype(dtype)
        if self.dtype.kind != "f":
            raise OptionError(f"what is normalised is a float, as float32, not {self.dtype}")
        for name in self.mean:
            if self.mean[name].shape != self.std[name].shape or (self.std[name] < 0).any():
                raise OptionError(
                    f"{name!r}: mean and std have one shape and no std is negative; got {mean[name]!r} and "
                    f"{std[name]!r}"
                )

    @property
    def fields(self) -> tuple[str, ...]:
        """Which fields."""
        return tuple(self.mean)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalisation) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        cells = [[name, _text(self.mean[name]), _text(self.std[name])] for name in self.mean]
        return f"mm.Normalisation to {self.dtype}\n{display.text_table(cells, ['field', 'mean', 'std'], 'lrr')}"

    def apply(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Normalise the entries that have a mean, and hand on the others.

        Parameters
        ----------
        arrays : mapping
            By name: arrays of numpy, awkward or dask, `Packed`, or a `Batch`. Padding counts as a value: batches of
            ``ds.batches(normalise=)`` are padded afterwards.

        Returns
        -------
        dict
            New arrays of `dtype`.
        """
        return {
            name: _each(value, lambda x, n=name: self._down(n, x)) if name in self.mean else value
            for name, value in arrays.items()
        }

    def invert(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """What the entries were before `apply`, but for rounding, in float64; others are handed on."""
        return {
            name: _each(value, lambda x, n=name: self._up(n, x)) if name in self.mean else value
            for name, value in arrays.items()
        }

    @once
    def _scale(self) -> dict[str, Floats]:
        return {name: np.where(std == 0, 1.0, std) for name, std in self.std.items()}

    def _down(self, name: str, x: Any) -> Any:
        return _as((_wide(x) - _number(self.mean[name])) / _number(self._scale[name]), self.dtype)

    def _up(self, name: str, x: Any) -> Any:
        return _wide(x) * _number(self._scale[name]) + _number(self.mean[name])

    def values(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Normalise the items of a field, a new array of `dtype`."""
        x = values.astype(np.float64)
        x -= self.mean[name]
        x /= self._scale[name]
        return x.astype(self.dtype, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON.

        Examples
        --------
        >>> n = Normalisation({"p": [1.0, 2.0]}, {"p": [0.5, 0.0]})
        >>> Normalisation.from_dict(n.to_dict()) == n
        True
        """
        each = {name: {"mean": self.mean[name].tolist(), "std": self.std[name].tolist()} for name in self.mean}
        return {"format": _FORMAT, "dtype": self.dtype.name, "fields": each}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Normalisation:
        """What `to_dict` saved.

        Raises
        ------
        OptionError
            When it is something else.
        """
        try:
            if saved["format"] != _FORMAT:
                raise KeyError
            each = saved["fields"]
            mean, std = ({name: value[what] for name, value in each.items()} for what in ("mean", "std"))
            dtype = np.dtype(saved["dtype"])
        except (KeyError, TypeError, AttributeError):
            raise OptionError(f"not what Normalisation.to_dict of this version gives: {saved!r:.200}") from None
        return cls(mean, std, dtype=dtype)


def _numbers(name: str, value: Any) -> Floats:
    try:
        found = np.array(value, np.float64)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise OptionError(f"mean and std of {name!r} are finite numbers, got {value!r}")
    return found


def _text(numbers: Floats) -> str:
    return f"{numbers:.6g}" if not numbers.shape else f"{numbers.shape}"


def _each(value: Any, change: Any) -> Any:
    """Change the values of an entry, which may be packed or a list of arrays."""
    if isinstance(value, Packed):
        return value._replace(values=_each(value.values, change))
    if isinstance(value, list):
        return [None if x is None else change(x) for x in value]
    return change(value)


def _number(x: Floats) -> Any:
    """A number as such, which arrays of all libraries take."""
    return x if x.shape else float(x)


def _wide(x: Any) -> Any:
    return _as(x, np.dtype(np.float64))


def _as(x: Any, dtype: np.dtype[Any]) -> Any:
    if type(x).__module__.partition(".")[0] == "awkward":
        import awkward as ak

        return ak.values_astype(x, dtype)
    return x.astype(dtype) if hasattr(x, "astype") else np.asarray(x, dtype)


def check_normalised(normalisation: object, schema: Schema) -> Normalisation:
    """Raise unless a normalisation fits the fields of a dataset.

    Raises
    ------
    FieldNotFoundError, OptionError
        When it is something else, or names fields that there are not, or that are no numbers of its shape.
    """
    if not isinstance(normalisation, Normalisation):
        raise OptionError(f"normalise= is what ds.normalisation(...) gives, got {normalisation!r:.80}")
    for name in normalisation.fields:
        check_number(schema[name])
        shape = normalisation.mean[name].shape
        if shape not in ((), schema[name].shape):
            raise OptionError(f"field {name!r} is {schema[name].describe()}, and its mean has the shape {shape}")
    return normalisation


def check_number(field: Field) -> None:
    """Raise `OptionError` unless the items of a field are real numbers."""
    if field.kind not in ("dense", "ragged", "shaped") or field.dtype.kind not in "biuf":
        raise OptionError(f"field {field.name!r} is {field.describe()}, and real numbers are normalised")


class NormalisedRows(Rows):
    """The same rows, of which some fields are normalised when they are read; what is missing is nan.

    Parameters
    ----------
    rows : Rows
        The rows.
    normalisation : Normalisation
        What is taken off, of those fields that there are.
    """

    def __init__(self, rows: Rows, normalisation: Normalisation) -> None:
        super().__init__(rows.snapshot, rows.steps, rows.derived)
        self.before, self.normalisation = rows, normalisation

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.before, self.normalisation)

    @once
    def schema(self) -> Schema:
        """All fields, with the dtype that they have then."""
        named = self.normalisation.mean
        dtype = self.normalisation.dtype
        return Schema(
            dataclasses.replace(f, dtype=dtype, expression="") if f.name in named else f
            for f in self.before.schema.values()
        )

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
        return self.take_many([name], rows)[name]

    def take_many(
        self, names: Iterable[str], rows: npt.NDArray[np.int64], *more: Any, **options: Any
    ) -> dict[str, FieldData]:
        taken = self.before.take_many(names, rows, *more, **options)
        return {
            name: self._normalised(name, data) if name in self.normalisation.mean else data
            for name, data in taken.items()
        }

    def _normalised(self, name: str, data: FieldData) -> FieldData:
        values = self.normalisation.values(name, data.values)
        field = self.before.schema[name]
        valid = None if field.kind == "shaped" else data.valid_at(field.n_offsets)
        if valid is not None:
            values[~valid] = np.nan
        return dataclasses.replace(data, values=values)

    def is_stored(self, name: str) -> bool:
        return name not in self.normalisation.mean and self.before.is_stored(name)
