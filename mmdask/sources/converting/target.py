"""The store that a conversion writes: what is at its path already, and conversion.json with what was asked for.

A store of zarr arrays has the zarr.json, by which its writers know that, before its conversion.json. The backend that
was asked for plays a part in the names of layers, so that no call takes those of another one for its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmdask.errors import (
    ConflictError,
    CorruptStoreError,
    FormatError,
    OptionError,
    StoreExistsError,
    StoreNotFoundError,
    UnfinishedError,
)
from mmdask.store import document
from mmdask.store.arrays.files import too_many_files
from mmdask.store.folder import check_outside, restore_form
from mmdask.store.manifest import CONVERSION, MANIFEST, Manifest, read_manifest, store_root
from mmdask.store.storage import Storage, is_url, storage_of
from mmdask.store.system import SYSTEM
from mmdask.store.zarr.form import METADATA, Backend, Form, Zarr, check_backend, fits, form_of, root_document, settled

__all__ = ["Target", "begin", "changed_options", "check_form", "check_options", "look", "with_backend"]


@dataclass(frozen=True)
class Target:
    """What is at the path: a manifest, unless nothing was committed yet, and the options of the last conversion.

    `fit` counts how often all inputs were converted again since later ones did not fit the types of the store. `zarr`
    is how its arrays were asked to be stored, None for plain files. `is_fit` is false where conversion.json does not
    say so yet.
    """

    root: str
    manifest: Manifest | None
    options: Mapping[str, Any] | None
    fit: int = 0
    is_fit: bool = True
    zarr: Zarr | None = None

    @property
    def beside(self) -> Mapping[str, Any]:
        """What conversion.json says beside the options."""
        fit = {_FIT: self.fit} if self.fit else {}
        return fit if self.zarr is None else {**fit, _ZARR: _dump(self.zarr)}

    def of_group(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What decides, together with an input, which data its layers hold, and how."""
        return {**options, **self.beside}

    def again(self) -> Target:
        """The same, with all inputs to be converted again."""
        return replace(self, fit=self.fit + 1, is_fit=False)


#: keys beside the options in conversion.json
_FIT, _ZARR = "fit", "zarr"


def look(path: str | os.PathLike[str], kind: str) -> Target:
    """See what is at a path, changing nothing.

    Raises
    ------
    StoreExistsError
        When something is there that no conversion of this kind wrote.
    CorruptStoreError, FormatError
        When conversion.json or manifest.json is damaged.
    OptionError
        When nothing can be written there.
    """
    root = store_root(path)
    storage = storage_of(root)
    storage.check_writable()
    # conversion.json is written before all else, so it is read last: whatever another call adds meanwhile is told by it
    manifest, is_free = None, True
    try:
        manifest = read_manifest(root)
    except UnfinishedError:
        pass
    except StoreNotFoundError:
        is_free = _is_free(storage)
    options, fit, zarr = _read_options(root, kind)
    if manifest is None:
        if options is None:
            if not is_free:
                raise StoreExistsError(f"{root} exists and is not a store; choose another path")
            check_outside(root)
        return Target(root, None, options, fit, zarr=zarr)
    if options is None:
        raise StoreExistsError(
            f"{root} is a store that was not converted from {kind} files; convert to another path, or append to it"
        )
    return Target(root, manifest, options, fit, zarr=zarr)


def with_backend(target: Target, backend: Backend | None, update: bool) -> Target:
    """The same, with how a user wants arrays to be stored; what is there decides where nothing is said.

    Raises
    ------
    OptionError
        When the store has them in another way, or was begun so and `update` does not say to begin again.
    """
    if target.manifest is None and target.options is None:
        return replace(target, zarr=check_backend(backend, remote=is_url(target.root)))
    if backend is None:
        return target
    zarr = check_backend(backend, remote=is_url(target.root))
    if target.manifest is not None:
        if not fits(zarr, target.manifest.zarr):
            raise OptionError(
                f"{target.root} was made with backend={_words(target.zarr)}, and {_words(zarr)} is asked for: a store "
                "keeps its arrays in one way. Leave backend= out, convert to another path, or copy the store by "
                "ds.save(path, backend=...)"
            )
        return target
    if zarr != target.zarr and not update:
        raise OptionError(
            f"{target.root} was begun to be converted with backend={_words(target.zarr)}, and {_words(zarr)} is asked "
            "for. Leave backend= out to go on, or pass update=True (--update) to begin again with this one"
        )
    return target if zarr == target.zarr else replace(target, zarr=zarr, is_fit=False)


def begin(target: Target, kind: str, options: Mapping[str, Any], row_nbytes: float) -> None:
    """Write conversion.json, durably, before any layer; the folder is made when it is not there.

    `row_nbytes` are the bytes of a row, about, by which chunks are cut.

    Raises
    ------
    ConflictError
        When another call made the store meanwhile, with another backend.
    """
    storage = storage_of(target.root)
    if storage.is_local and not os.path.isdir(target.root):
        _make_folder(target.root)
    if target.manifest is not None:
        restore_form(target.root, target.manifest.zarr)
    elif storage.has(MANIFEST):  # another call's, which was not there when this one looked
        check_form(target.root, target.zarr, form_of(target.root))
    elif not fits(target.zarr, form_of(target.root)):
        form = settled(target.zarr, row_nbytes)
        if form is None:
            storage.unlink([(METADATA,)])
        else:
            storage.write(root_document(form), METADATA)
    if target.options != options or not target.is_fit:
        text = {"format": "mmdask-conversion", "version": 1, "kind": kind, "options": dict(options), **target.beside}
        storage.write(document.dump(text), CONVERSION)


def check_form(root: str, zarr: Zarr | None, form: Form | None) -> None:
    """Raise `ConflictError` where the arrays of a new store would not be stored as they were asked to be."""
    if not fits(zarr, form):
        raise ConflictError(
            f"{root}: another process began to make a store here, with another backend. Nothing was committed: call "
            "again, when it has ended"
        )


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


def _read_options(root: str, kind: str) -> tuple[dict[str, Any] | None, int, Zarr | None]:
    path = os.path.join(root, CONVERSION)
    try:
        data = document.read_file(root, CONVERSION)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0, None
    except OSError as error:
        raise too_many_files(error, path) or CorruptStoreError(f"{path}: cannot be read: {error.strerror}") from None
    r = document.Reader(document.parse(data, path), path)
    r.text("format", "mmdask-conversion")
    if r.integer("version") != 1:
        r.fail("version", "1, which is what this version of mmdask reads")
    if r.text("kind") != kind:
        raise StoreExistsError(f"{root} was converted from {r.text('kind')} files, not from {kind} files")
    return r.object("options"), r.integer(_FIT, 0), _parse(r, path)


def _words(zarr: Zarr | None) -> str:
    """As it would be given."""
    if zarr is None or zarr == Zarr():
        return repr("memmap" if zarr is None else "zarr")
    return f"mm.Zarr({', '.join(f'{name}={value!r}' for name, value in _dump(zarr).items())})"


def _dump(zarr: Zarr) -> dict[str, Any]:
    return {name: value for name, value in asdict(zarr).items() if value is not None}


def _parse(r: document.Reader, path: str) -> Zarr | None:
    if _ZARR not in r.value:
        return None
    try:
        return Zarr(**r.object(_ZARR))
    except (TypeError, OptionError) as error:
        raise FormatError(f"{path}: {_ZARR!r} is no backend: {error}") from None


def _is_free(storage: Storage) -> bool:
    """Whether nothing is there, but what a call left that died before its conversion.json."""
    root = storage.root
    if storage.is_local and os.path.lexists(root) and not os.path.isdir(root):
        return False
    names = {entry.name for entry in storage.entries()}
    if METADATA in names:
        try:
            form_of(root)
        except FormatError:
            return False  # a group of zarr that is somebody's
    return all(n == METADATA or n.startswith((f"{CONVERSION}.tmp-", f"{METADATA}.tmp-")) for n in names)


def _make_folder(path: str) -> None:
    """Make a folder and those above it, durably."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        _make_folder(above)
    with contextlib.suppress(FileExistsError):  # another process began here at the same time
        SYSTEM.mkdir(path)
    SYSTEM.fsync_folder(above)
