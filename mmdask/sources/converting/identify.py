"""The names that all layers of an input share: by size and time of its file, or by what is in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import xxhash

from mmdask.errors import OptionError, SourceError
from mmdask.sources.converting.inputs import Input
from mmdask.sources.converting.pieces import pieces_of
from mmdask.sources.converting.plan import group_id, group_of
from mmdask.sources.converting.table import Reader
from mmdask.sources.converting.target import Target
from mmdask.sources.remote import hash_remote, is_remote
from mmdask.store.layer import Source, read_layer

__all__ = ["hash_file", "identify"]

_BLOCK = 8 << 20


def identify(target: Target, sources: Sequence[Input], reader: Reader, check: str) -> dict[str, Input]:
    """Inputs by group.

    With ``check="stat"`` a file is another one when its size or time is. With ``check="hash"`` every file is read: one
    with other contents is another one, also at the same time and size, and one with the same contents is the same at
    any time. That needs the hash of the file as it was when it was converted: rows that were converted without
    have none, and go by the time.
    """
    if check not in ("stat", "hash"):
        raise OptionError(f"check is 'stat' or 'hash', got {check!r}")

    options = target.of_group(reader.options)

    def group_of_input(s: Input, key: str = "") -> str:
        return group_id(s, {**options, "hash": key} if key else options, reader.recipe.labels_of(s))

    if check == "stat":
        return {group_of_input(s): s for s in sources}
    known = _converted(target)
    groups: dict[str, Input] = {}
    for s in sources:
        s = replace(s, hash=hash_file(s))
        candidates = known.get(s.path, {})
        group = group_of_input(s)
        for old, source in candidates.items():
            before = replace(s, mtime_ns=source.mtime_ns)
            if source.hash == s.hash and old in (group_of_input(before), group_of_input(before, s.hash)):
                group = old
                break
        else:
            if group in candidates and candidates[group].hash not in ("", s.hash):
                group = group_of_input(s, s.hash)  # other contents of the same size and time
        groups[group] = s
    return groups


def _converted(target: Target) -> Mapping[str, Mapping[str, Source]]:
    """Where the converted rows of a store came from: by file and group."""
    found: dict[str, dict[str, Source]] = {}
    for p in pieces_of(target.root, target.manifest.parts if target.manifest else ()):
        source = p.source if p.merged is not None else read_layer(target.root, p.data).source
        if source is not None:
            found.setdefault(source.uri, {})[group_of(p.data)] = source
    return found


def hash_file(source: Input) -> str:
    """xxh3-128 of the contents of a file, as 32 hex digits."""
    state = xxhash.xxh3_128()
    try:
        if is_remote(source.path):
            for block in hash_remote(source.location):
                state.update(block)
            return str(state.hexdigest())
        with open(source.path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while block := file.read(_BLOCK):
                state.update(block)
    except OSError as error:
        raise SourceError(f"{source.path}: cannot be read: {error.strerror}") from None
    return str(state.hexdigest())
