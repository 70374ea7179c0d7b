"""Arrays of a store that are not per row: bin edges, scalers, lists of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdask import display
from mmdask.dataset.layouts import row
from mmdask.errors import FieldNotFoundError
from mmdask.rows.reading.part import read_aux
from mmdask.store.snapshot import Snapshot

__all__ = ["Aux"]


class Aux(Mapping[str, Any]):
    """The arrays of a store that are not per row; see `Dataset.aux`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __getitem__(self, name: str) -> Any:
        schema = self._snapshot.manifest.aux
        if name not in schema:
            raise FieldNotFoundError(schema.unknown(name).replace("no field", "no aux", 1))
        return row(schema[name], read_aux(self._snapshot, name))

    def __contains__(self, name: object) -> bool:
        return name in self._snapshot.manifest.aux

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot.manifest.aux)

    def __len__(self) -> int:
        return len(self._snapshot.manifest.aux)

    def __repr__(self) -> str:
        table = display.text_table(*self._snapshot.manifest.aux.table("name"), longest=64) if len(self) else ""
        return "\n".join(filter(None, [f"mm.Aux: {display.amount(len(self), 'array')}", table]))

    def _repr_html_(self) -> str:
        head = f"<small>mm.Aux: {display.amount(len(self), 'array')}</small>"
        table = display.html_table(*self._snapshot.manifest.aux.table("name")) if len(self) else ""
        return display.html_block(head, table)
