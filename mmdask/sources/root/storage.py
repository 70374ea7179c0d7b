"""What branches and fields take in a ROOT file: bytes, pieces and codecs, told by metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Storage", "storage_of"]

#: how a compressed block begins
_MARKS = {b"ZL": "ZLIB", b"XZ": "LZMA", b"L4": "LZ4", b"ZS": "ZSTD", b"CS": "old ZLIB"}
#: a branch of more decoded bytes than this was compressed by whoever compresses at all
_WORTH_IT = 1000


@dataclass(frozen=True)
class Storage:
    """Bytes on disk, bytes that these decode to, how many baskets or pages there are, and the codec of the first."""

    compressed: int = 0
    decoded: int = 0
    pieces: int = 0
    codec: str = ""

    def __add__(self, other: Storage) -> Storage:
        codecs = dict.fromkeys(c for text in (self.codec, other.codec) for c in text.split(", ") if c)
        return Storage(
            self.compressed + other.compressed,
            self.decoded + other.decoded,
            self.pieces + other.pieces,
            ", ".join(codecs),
        )


def storage_of(tree: Any) -> Mapping[str, Storage]:
    """What each branch of a TTree of uproot, or each top-level field of an RNTuple, takes."""
    return _of_fields(tree) if tree.classname == "ROOT::RNTuple" else _of_branches(tree)


def _of_branches(tree: Any) -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    for name, branch in tree.iteritems():
        storage = Storage()
        # what is odd in a file of another decade comes out of uproot as any kind of exception
        with contextlib.suppress(Exception):
            storage = Storage(int(branch.compressed_bytes), int(branch.uncompressed_bytes), int(branch.num_baskets))
        with contextlib.suppress(Exception):
            storage = replace(storage, codec=_codec(branch, storage))
        found.setdefault(name, storage)
    return found


def _codec(branch: Any, storage: Storage) -> str:
    """The codec that the metadata name; of files that name none, that of the first basket."""
    said = branch.compression
    if said is not None and said.level:
        return f"{type(said).__name__} {said.level}"
    if not storage.pieces or storage.compressed >= storage.decoded:
        return "none" if storage.pieces else ""
    key = branch.basket_key(0)
    if key.data_compressed_bytes == key.data_uncompressed_bytes:
        return "none" if storage.decoded < _WORTH_IT else ""
    at = key.data_cursor.index
    mark = bytes(branch.file.source.chunk(at, at + 2).raw_data[:2])
    return _MARKS.get(mark, "")


def _of_fields(ntuple: Any) -> dict[str, Storage]:
    from uproot.models.RNTuple import compression_settings_dict

    top = [_top(ntuple.field_records, i) for i in range(len(ntuple.field_records))]
    found = {ntuple.field_records[i].field_name: Storage() for i in dict.fromkeys(top)}
    for links in ntuple.page_link_list:
        for record, link in zip(ntuple.column_records, links, strict=False):
            if link.suppressed:
                continue
            algorithm, level = divmod(int(link.compression_settings), 100)
            known = str(compression_settings_dict.get(algorithm) or "").upper()
            codec = f"{known} {level}".strip() if level else "none"
            elements = sum(abs(int(page.num_elements)) for page in link.pages)
            name = ntuple.field_records[top[record.field_id]].field_name
            found[name] += Storage(
                sum(int(page.locator.num_bytes) for page in link.pages),
                -(-elements * int(record.nbits) // 8),
                len(link.pages),
                codec if link.pages else "",
            )
    return found


def _top(records: Any, i: int) -> int:
    """The top-level field that a field belongs to."""
    for _ in range(len(records)):
        parent = int(records[i].parent_field_id)
        if parent == i:
            return i
        i = parent
    return i
