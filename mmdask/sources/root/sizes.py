"""What branches and fields take in a ROOT file: bytes, pieces and codecs, told by metadata."""

from __future__ import annotations

import contextlib
import queue
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Sizes", "sizes_of"]

#: how a compressed block begins
_MARKS = {b"ZL": "ZLIB", b"XZ": "LZMA", b"L4": "LZ4", b"ZS": "ZSTD", b"CS": "old ZLIB"}
#: how a basket begins: its bytes, version, bytes when decoded, time, and bytes of this key, which its names follow
_KEY = struct.Struct(">ihiIh")
_KEY_NBYTES = 1024


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk, bytes that these decode to, how many baskets or pages there are, and the codec of the first."""

    compressed: int = 0
    decoded: int = 0
    pieces: int = 0
    codec: str = ""

    def __add__(self, other: Sizes) -> Sizes:
        codecs = dict.fromkeys(c for text in (self.codec, other.codec) for c in text.split(", ") if c)
        return Sizes(
            self.compressed + other.compressed,
            self.decoded + other.decoded,
            self.pieces + other.pieces,
            ", ".join(codecs),
        )


def sizes_of(tree: Any) -> Mapping[str, Sizes]:
    """What each branch of a TTree of uproot, or each top-level field of an RNTuple, takes."""
    return _of_fields(tree) if tree.classname == "ROOT::RNTuple" else _of_branches(tree)


def _of_branches(tree: Any) -> dict[str, Sizes]:
    found: dict[str, Sizes] = {}
    baskets: dict[str, int] = {}
    for name, branch in tree.iteritems():
        if name in found:
            continue
        found[name] = Sizes()
        # what is odd in a file of another decade comes out of uproot as any kind of exception
        with contextlib.suppress(Exception):
            stored = Sizes(int(branch.compressed_bytes), int(branch.uncompressed_bytes), int(branch.num_baskets))
            found[name] = replace(stored, codec=_said(branch, stored))
            if stored.pieces and not found[name].codec:
                baskets[name] = int(branch.member("fBasketSeek")[0])
    with contextlib.suppress(Exception):
        for name, codec in _marks(tree.file, baskets).items():
            found[name] = replace(found[name], codec=codec)
    return found


def _said(branch: Any, stored: Sizes) -> str:
    """The codec that the metadata name, if they do."""
    said = branch.compression
    if said is not None and said.level:
        return f"{type(said).__name__} {said.level}"
    return "none" if 0 < stored.decoded <= stored.compressed else ""


def _marks(file: Any, baskets: Mapping[str, int]) -> dict[str, str]:
    """The codecs of baskets at some places of a file, all read at once."""
    baskets = {name: at for name, at in baskets.items() if 0 < at < int(file.fEND) - _KEY.size}
    ranges = [(at, min(at + _KEY_NBYTES, int(file.fEND))) for at in baskets.values()]
    found = {}
    for name, chunk in zip(baskets, file.source.chunks(ranges, queue.Queue()), strict=True):
        raw = bytes(chunk.raw_data)
        nbytes, _, total, _, key = _KEY.unpack_from(raw)
        plain = total == nbytes - key  # a basket that does not become smaller is stored as it is
        found[name] = "none" if plain else _MARKS.get(raw[key : key + 2], "")
    return found


def _of_fields(ntuple: Any) -> dict[str, Sizes]:
    from uproot.models.RNTuple import compression_settings_dict

    top = [_top(ntuple.field_records, i) for i in range(len(ntuple.field_records))]
    found = {ntuple.field_records[i].field_name: Sizes() for i in dict.fromkeys(top)}
    for links in ntuple.page_link_list:
        for record, link in zip(ntuple.column_records, links, strict=False):
            if link.suppressed:
                continue
            algorithm, level = divmod(int(link.compression_settings), 100)
            known = str(compression_settings_dict.get(algorithm) or "").upper()
            codec = f"{known} {level}".strip() if level else "none"
            elements = sum(abs(int(page.num_elements)) for page in link.pages)
            name = ntuple.field_records[top[record.field_id]].field_name
            found[name] += Sizes(
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
