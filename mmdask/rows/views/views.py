"""`SnapshotView`: snapshots that are made of others, with rows and fields of their own and no byte on disk.

What is found out about parts is kept by the ids of their layers, in memory and on disk. So a view keeps an id only
where the fields in that layer are the same under the same names; everywhere else it has ids of its own, as
``1f3a~5c2e``, which no stored layer has. A view pickles as what it is made of.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, RowBits
from mmdask.store.layer import Layer, StoredField
from mmdask.store.manifest import Manifest
from mmdask.store.snapshot import LostSnapshot, Snapshot

__all__ = ["TAG", "LayerOf", "SnapshotView", "hashed", "layer_of", "one_store", "stored_id", "view_of"]

#: between the id of a layer of a store, and what a view makes of it
TAG = "~"
_VIEWS: OrderedDict[Any, SnapshotView] = OrderedDict()
_VIEWS_LIMIT = 64


@dataclass(frozen=True)
class LayerOf(Layer):
    """A layer of a view; its arrays are those of a layer of a store."""

    owner: Snapshot | None = field(default=None, compare=False)
    inner: Layer | None = field(default=None, compare=False)


def layer_of(owner: Snapshot, layer: Layer, layer_id: str, stored: dict[str, StoredField]) -> LayerOf:
    """A layer of a store, or of a view, under another id and with these fields."""
    if isinstance(layer, LayerOf) and layer.owner is not None:
        owner, inner = layer.owner, layer.inner
    else:
        inner = layer
    known = {f.name: getattr(layer, f.name) for f in fields(Layer)}
    return LayerOf(**{**known, "id": layer_id, "fields": stored}, owner=owner, inner=inner)


def stored_id(layer_id: str) -> str:
    """The id of the layer of a store that a layer of a view is made of."""
    return layer_id.partition(TAG)[0]


def hashed(*what: object) -> str:
    """A hash of 32 digits of what JSON holds."""
    return str(xxhash.xxh3_128_hexdigest(json.dumps(what).encode()))


class SnapshotView(Snapshot):
    """A snapshot that is made of others.

    Parameters
    ----------
    bases : sequence of Snapshot
        The others.
    parameters : tuple
        What else it is made from; hashable.
    path : str
        What it is called.
    manifest : Manifest
        What it holds; its uuid tells what is made of which stores.
    """

    def __init__(self, bases: Sequence[Snapshot], parameters: tuple[Any, ...], path: str, manifest: Manifest) -> None:
        super().__init__(path, manifest, bases[0].io)
        self.bases = tuple(bases)
        self.parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        return _referred, (type(self), self.bases, *self.parameters)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(repr, self.bases))}>"

    @once
    def identity(self) -> str:
        return hashed(self.manifest.uuid, [base.identity for base in self.bases])

    @once
    def key(self) -> tuple[Any, ...]:
        return (self.manifest.uuid, *(base.key for base in self.bases))

    @property
    def stores(self) -> tuple[Snapshot, ...]:
        return tuple(dict.fromkeys(store for base in self.bases for store in base.stores))

    def home(self, part: int) -> Snapshot:
        return self.bases[0].home(part)

    def newest(self) -> Snapshot:
        return view_of(type(self), tuple([base.newest() for base in self.bases]), *self.parameters)

    @property
    def origin(self) -> str:
        return " and ".join([base.origin for base in self.bases])

    # Arrays ---------------------------------------------------------------------------------------------------------

    @property
    def addressable(self) -> bool:
        return all(base.addressable for base in self.bases)

    def _owner(self, layer: Layer) -> tuple[Snapshot, Layer]:
        if isinstance(layer, LayerOf) and layer.owner is not None and layer.inner is not None:
            return layer.owner, layer.inner
        return self.bases[0], layer  # one of auxiliary arrays

    def array(self, layer: Layer, number: int) -> npt.NDArray[Any]:
        owner, inner = self._owner(layer)
        return owner.array(inner, number)

    def read(self, layer: Layer, number: int, start: int, stop: int) -> npt.NDArray[Any]:
        owner, inner = self._owner(layer)
        return owner.read(inner, number, start, stop)

    def read_runs(
        self, layer: Layer, number: int, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        owner, inner = self._owner(layer)
        return owner.read_runs(inner, number, starts, stops)

    @property
    def in_files(self) -> bool:
        return all(base.in_files for base in self.bases)

    def ask(self, layer: Layer, number: int, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        owner, inner = self._owner(layer)
        owner.ask(inner, number, starts, stops)

    def in_memory(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> bool:
        owner, inner = self._owner(layer)
        return owner.in_memory(inner, number, at)

    @property
    def chunked(self) -> bool:
        return all(base.chunked for base in self.bases)

    def elements(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        owner, inner = self._owner(layer)
        return owner.elements(inner, number, at)

    def pieces(self, layer: Layer, number: int, chunks: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
        owner, inner = self._owner(layer)
        return owner.pieces(inner, number, chunks)

    def expect(self, layer: Layer, number: int, chunks: Sequence[int], room: int) -> tuple[int, list[npt.NDArray[Any]]]:
        owner, inner = self._owner(layer)
        return owner.expect(inner, number, chunks, room)

    def release(self, layer: Layer, number: int, but: npt.NDArray[np.int64] | None = None) -> None:
        owner, inner = self._owner(layer)
        owner.release(inner, number, but)

    def stored_aux(self, name: str) -> tuple[Layer, StoredField]:
        return self.bases[0].stored_aux(name)

    # Selections -----------------------------------------------------------------------------------------------------

    def lifted(self, bits: Sequence[RowBits]) -> list[PartBits]:
        """For each part the rows that are made of some rows of the bases."""
        raise NotImplementedError

    def span(self, spans: Sequence[range]) -> range | None:
        """The rows that are made of some rows of the bases, if they are a range."""
        return None


def _referred(kind: type[SnapshotView], bases: tuple[Snapshot, ...], *parameters: Any) -> Snapshot:
    """What a pickle refers to; lost if one of the stores is, see `LostSnapshot`."""
    for base in bases:
        if isinstance(base, LostSnapshot):
            return LostSnapshot(base.path, base.error, (_referred, (kind, bases, *parameters)))
    return view_of(kind, bases, *parameters)


def view_of(kind: type[SnapshotView], bases: tuple[Snapshot, ...], *parameters: Any) -> SnapshotView:
    """Make a view, or find it if this process has it already: tasks refer to the same one again and again."""
    key = kind, tuple([(base.key, base.io) for base in bases]), parameters
    view = _VIEWS.pop(key, None)
    if view is None:
        view = kind(bases, *parameters)
    _VIEWS[key] = view
    while len(_VIEWS) > _VIEWS_LIMIT:
        _VIEWS.popitem(last=False)
    return view


def one_store(snapshot: Snapshot, what: str) -> Snapshot:
    """The store that a snapshot is, or is made of.

    Raises
    ------
    OptionError
        When there is none, or there are several, of which each has one of `what`.
    """
    first, *others = {store.path: store for store in snapshot.stores}.values()
    if not first.on_disk:
        raise OptionError(f"a view of arrays is no store, which could have {what}; ds.save(path) makes one")
    if others:
        paths = ", ".join([first.path, *(store.path for store in others)])
        raise OptionError(f"each store has {what} of its own, and this dataset is made of several: {paths}")
    return first
