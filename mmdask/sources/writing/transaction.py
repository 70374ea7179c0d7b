"""What one block of a writer has written to a store, and which of it is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmdask.errors import ConflictError, MmdaskError, StoreExistsError, StoreNotFoundError
from mmdask.rows.views.derived import append_parts
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.commit import add_parts, amount, block_rows_for, commit, discard_layers
from mmdask.store.folder import make_folder, remove_folder, restore_form
from mmdask.store.layer import Layer, new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part, read_manifest
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import Form, form_of

__all__ = ["Transaction"]


class Transaction:
    """The layers that were written since the last commit, and what becomes of them.

    Parameters
    ----------
    root : str
        The store's folder.
    base : Manifest or None
        The store; None to create one.
    attrs, aux : mapping
        Of a store that is created: what is noted, and the one row of each array that is not per row.
    form : Form, optional
        Of a store that is created: how its arrays are stored.
    """

    def __init__(
        self,
        root: str,
        base: Manifest | None,
        attrs: Mapping[str, Any],
        aux: Mapping[str, tuple[Field, FieldData]],
        form: Form | None = None,
    ) -> None:
        self._form = form
        self.root = root
        #: the store as this transaction knows it; None until it exists
        self.newest = base
        #: rows that were committed
        self.n_committed = 0
        self._base = base
        self._attrs = attrs
        self._aux = aux
        self._finished: list[Layer] = []
        #: ids of all layers since the last commit, also of one that is not finished
        self._begun: list[str] = []
        self._committing = False

    def begin(self) -> None:
        """Make the folder of a store that is to be created, or take over what a dead writer left of one.

        Raises
        ------
        StoreExistsError
            When something else is there.
        """
        storage_of(self.root).check_writable()
        if self._base is None:
            make_folder(self.root, self._form)
        else:
            restore_form(self.root, self._base.zarr)

    def new_layer(self) -> str:
        """An id for a layer that is about to be written."""
        self._begun.append(new_id())
        return self._begun[-1]

    @property
    def rows(self) -> int:
        """Rows of this block in parts that are finished, committed or not."""
        return self.n_committed + sum(layer.rows for layer in self._finished)

    def add(self, layer: Layer) -> None:
        """A layer is finished: it is a part of the next commit."""
        self._finished.append(layer)

    def commit(self, schema: Schema) -> None:
        """Make the finished layers visible, durably; without any, only a store that is created."""
        if self.newest is not None and not self._finished:
            return
        parts = [Part(layer.rows, (layer.id,), layer.nbytes) for layer in self._finished]
        rows = sum(p.rows for p in parts)
        done = f"{amount(len(parts), 'part')}, {amount(rows, 'row')}"
        if self._base is None:
            self.newest = self._base = self._create(schema, parts, f"create {done}")
        else:
            self._committing = True
            self.newest = append_parts(self.root, schema, parts, base=self._base, action=f"append {done}")
        self._begun, self._finished, self._committing = [], [], False
        self.n_committed += rows

    def _create(self, schema: Schema, parts: list[Part], action: str) -> Manifest:
        block_rows = block_rows_for(self._finished)
        aux = Schema(field for field, _ in self._aux.values())
        aux_layers = (self._write_aux(),) if aux else ()

        def change(newest: Manifest | None) -> Manifest:
            if newest is not None:
                self._committing = False
                raise StoreExistsError(f"{self.root}: another process made a store here; mm.append adds to it")
            if form_of(self.root) != self._form:
                self._committing = False
                raise ConflictError(
                    f"{self.root}: another process began to make a store here, with another backend; nothing was "
                    "committed: write these rows again"
                )
            new = add_parts(None, schema, parts, block_rows=block_rows)
            return replace(new, attrs=self._attrs, aux=aux, aux_layers=aux_layers)

        self._committing = True
        return commit(self.root, change, action=action)

    def _write_aux(self) -> str:
        """A layer of one row, in which each array is the row of a field."""
        with LayerWriter(self.root, self.new_layer()) as w:
            for field, data in self._aux.values():
                w.field(field).write(data)
            return w.finish(1).id

    def outcome(self) -> str:
        """What was committed, in words, for the note of an error that ends the block."""
        if self._may_be_committed():
            return f"whether the last rows of this block are committed to {self.root} is not certain"
        if not self.n_committed:
            return f"nothing of this block was committed to {self.root}"
        return (
            f"{self.root}: {amount(self.n_committed, 'row')} of this block are committed, up to its last checkpoint; "
            "those after it are not"
        )

    def _may_be_committed(self) -> bool:
        """Whether a commit that raised did so behind the point at which it is visible."""
        if not self._committing:
            return False
        if storage_of(self.root).may_commit_late:
            return True
        try:
            newest = read_manifest(self.root)
        except StoreNotFoundError:
            return False
        except (MmdaskError, OSError):
            return True
        return self.newest is None or not newest.layers.isdisjoint(self._begun)

    def drop(self) -> None:
        """Take away what was not committed, and the folder of a store that never came to be."""
        if self._begun:
            discard_layers(self.root, self._begun)  # those of a commit that is visible stay
            self._remove_unfinished()
        if self.newest is None:
            remove_folder(self.root)

    def _remove_unfinished(self) -> None:
        """Whatever was interrupted: a layer that is not finished is in a folder of its id and ``.tmp-...``."""
        storage = storage_of(self.root)
        for entry in storage.entries("parts"):
            layer_id, mark, _ = entry.name.partition(".tmp-")
            if mark and layer_id in self._begun:
                storage.remove_folder("parts", entry.name)
