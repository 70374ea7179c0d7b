"""Stores of parts with constants, written by one commit and without syncs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from kinds import pack

import mmdask as mm
from mmdask.store.layer import new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part, dump_manifest, read_manifest
from mmdask.store.system import System


def write_parts(path, fields, parts):
    """A store with these parts, each a mapping of names to rows (a list), or to the one value that all rows have."""
    path = Path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(System, "fsync", lambda *_: None)
        patch.setattr(System, "fsync_folder", lambda *_: None)
        with mm.create(path, fields=fields):
            pass
        written = []
        for table in parts:
            n = max([len(rows) for rows in table.values() if isinstance(rows, list)])
            with LayerWriter(path, new_id()) as w:
                for field in fields:
                    rows = table[field.name]
                    if isinstance(rows, list):
                        w.field(field).write(pack(field, rows))
                    else:
                        w.constant(field, rows)
                layer = w.finish(n)
            written.append(Part(n, (layer.id,), layer.nbytes))
        manifest = dataclasses.replace(read_manifest(path), parts=tuple(written))
        (path / "manifest.json").write_bytes(dump_manifest(manifest))
    return path
