"""Make golden-1-kinds.store and golden-1-kinds.json: ``python -m tests.format.make_golden_kinds``.

Done once. The store stays readable for ever, so it is never made again; this says how it came to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import mmdask as mm
from tests.format import kinds

HERE = Path(__file__).parent
STORE = HERE / "golden-1-kinds.store"
EXPECTED = HERE / "golden-1-kinds.json"


def as_json(value: Any) -> Any:
    """Plain rows as JSON: bytes and complex numbers as texts, what is no number as one, too."""
    if isinstance(value, list):
        return [as_json(v) for v in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, complex):
        return [value.real, value.imag]
    return "nan" if isinstance(value, float) and value != value else value


def expected() -> dict[str, Any]:
    """Every field of every generation as the store gives it, and its aux."""
    found: dict[str, Any] = {}
    for entry in mm.open(STORE).history():
        ds = mm.open(STORE, generation=entry.generation)
        rows = {n: as_json(kinds.to_rows(f, ds._rows.read(n, 0, len(ds)))) for n, f in ds.schema.items()}
        found[str(entry.generation)] = {"fields": rows, "attrs": dict(ds.attrs), "aux": sorted(ds.aux)}
    return found


def main() -> None:
    if STORE.exists():
        raise SystemExit(f"{STORE} is there, and is never made again")
    kinds.write_store(STORE)
    mm.assign(STORE, given=np.arange(8, dtype="i2"), total="sum(r)", progress=False)
    mm.drop(STORE, ["i1", "given"])
    mm.annotate(STORE, attrs={"more": True}, fields={"f8": {"unit": "GeV", "optional": (0,)}}, aux={"scale": None})
    (STORE / ".lock").unlink()
    EXPECTED.write_text(json.dumps(expected(), indent=0, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
