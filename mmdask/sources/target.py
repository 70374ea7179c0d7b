"""The store that a conversion writes: what is at its path already, and conversion.json with what was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmdask.errors import CorruptStoreError, OptionError, StoreExistsError, StoreNotFoundError, UnfinishedError
from mmdask.store import document
from mmdask.store.folder import check_outside
from mmdask.store.manifest import CONVERSION, Manifest, read_manifest, store_root
from mmdask.store.storage import is_url
from mmdask.store.system import SYSTEM, write_atomically

__all__ = ["Target", "begin", "changed_options", "check_options", "look"]


@dataclass(frozen=True)
class Target:
    """What is at the path: a manifest, unless nothing was committed yet, and the options of the last conversion.

    `fit` counts how often all inputs were converted again since later ones did not fit the types of the store.
    """

    root: str
    manifest: Manifest | None
    options: Mapping[str, Any] | None
    fit: int = 0
    is_fit: bool = True

    def of_group(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What decides, together with an input, which data its layers hold."""
        return {**options, _FIT: self.fit} if self.fit else options

    def again(self) -> Target:
        """The same, with all inputs to be converted again."""
        return replace(self, fit=self.fit + 1, is_fit=False)


#: a key beside the options in conversion.json
_FIT = "fit"


def look(path: str | os.PathLike[str], kind: str) -> Target:
    """See what is at a path, changing nothing.

    Raises
    ------
    StoreExistsError
        When something is there that no conversion of this kind wrote.
    CorruptStoreError, FormatError
        When conversion.json or manifest.json is damaged.
    """
    root = store_root(path)
    if is_url(root):
        raise OptionError(
            f"{root}: files are converted to a folder, where a conversion can go on after it was interrupted; then "
            "ds.save(url) copies the store"
        )
    options, fit = _read_options(root, kind)
    try:
        manifest = read_manifest(root)
    except UnfinishedError:
        return Target(root, None, options, fit)
    except StoreNotFoundError:
        # A conversion that died before its first file was in place left an empty folder, or a file that is none yet.
        if os.path.lexists(root) and not _is_begun(root):
            raise StoreExistsError(f"{root} exists and is not a store; choose another path") from None
        check_outside(root)
        return Target(root, None, None)
    if options is None:
        raise StoreExistsError(
            f"{root} is a store that was not converted from {kind} files; convert to another path, or append to it"
        )
    return Target(root, manifest, options, fit)


def begin(target: Target, kind: str, options: Mapping[str, Any]) -> None:
    """Write conversion.json, durably, before anything else; the folder is made when it is not there."""
    if not os.path.isdir(target.root):
        _make_folder(target.root)
    if target.options != options or not target.is_fit:
        text = {"format": "mmdask-conversion", "version": 1, "kind": kind, "options": dict(options)}
        text |= {_FIT: target.fit} if target.fit else {}
        write_atomically(os.path.join(target.root, CONVERSION), document.dump(text))


def changed_options(target: Target, options: Mapping[str, Any]) -> list[str]:
    """The names of the options that are not what the store was converted with."""
    old = target.options or {}
    names = [*options, *(n for n in old if n not in options)]
    return [name for name in names if old.get(name) != options.get(name)] if target.options is not None else []


def check_options(target: Target, options: Mapping[str, Any], update: bool) -> None:
    """Raise `OptionError` naming each option that is not what the store was converted with."""
    old = target.options
    if old is None or update or old == options:
        return
    changed = changed_options(target, options)
    differences = [
        f"{name} was {old.get(name)!r} and is {options.get(name)!r}" for name in changed if name != "semantics"
    ] or ["in this version of mmdask, expressions mean something else"]
    began = "was converted" if target.manifest else "was begun to be converted"
    raise OptionError(
        f"{target.root} {began} with other options: {'; '.join(differences)}. "
        "Pass update=True (--update) to convert it again with these"
    )


def _read_options(root: str, kind: str) -> tuple[dict[str, Any] | None, int]:
    path = os.path.join(root, CONVERSION)
    try:
        data = document.read_file(root, CONVERSION)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    except OSError as error:
        raise CorruptStoreError(f"{path}: cannot be read: {error.strerror}") from None
    r = document.Reader(document.parse(data, path), path)
    r.text("format", "mmdask-conversion")
    if r.integer("version") != 1:
        r.fail("version", "1, which is what this version of mmdask reads")
    if r.text("kind") != kind:
        raise StoreExistsError(f"{root} was converted from {r.text('kind')} files, not from {kind} files")
    return r.object("options"), r.integer(_FIT, 0)


def _is_begun(root: str) -> bool:
    return os.path.isdir(root) and all(name.startswith(f"{CONVERSION}.tmp-") for name in os.listdir(root))


def _make_folder(path: str) -> None:
    """Make a folder and those above it, durably."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        _make_folder(above)
    SYSTEM.mkdir(path)
    SYSTEM.fsync_folder(above)
