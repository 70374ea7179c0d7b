"""The place of a store that is to be: whether it is free, made, and given back."""

from __future__ import annotations

import contextlib
import os

from mmdask.errors import OptionError, StoreExistsError
from mmdask.store.manifest import CONVERSION, MANIFEST, generations, repair
from mmdask.store.storage import Entry, is_url, storage_of
from mmdask.store.system import SYSTEM
from mmdask.store.zarr.form import METADATA, Form, form_of, root_document

__all__ = ["check_free", "check_outside", "make_folder", "remove_folder", "restore_form"]

#: what a writer that died before its first commit may have left
_OURS = ("parts", "history", "cache", ".lock", METADATA)


def check_free(root: str) -> None:
    """Raise `StoreExistsError` unless a path is free, or a folder with only what a dead writer left of a store."""
    if is_url(root):
        _check_free_url(root)
        return
    check_outside(root)
    try:
        names = set(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.lexists(root):  # or not any more: another process that began here may give up at any time
            return
        raise StoreExistsError(f"{root} exists: it is a file; remove it or choose another path") from None
    if MANIFEST in names:
        raise StoreExistsError(f"{root} exists: it is a store; mm.append adds to it, or remove it first")
    if CONVERSION in names:
        raise StoreExistsError(f"{root} exists: an unfinished conversion; finish it with the same call, or remove it")
    ours = {n for n in names if n in _OURS or n.startswith((f"{MANIFEST}.tmp-", f"{METADATA}.tmp-"))}
    if names != ours:
        raise StoreExistsError(f"{root} exists, and holds other things than a store; choose another path")
    # The first commit writes history before it is one, so a first generation alone may be that of a dead writer.
    if (last := max(generations(root, 1 << 63), default=0)) > 1:
        raise StoreExistsError(f"{root} exists: a store without its {MANIFEST}; {repair(root, last)}")


def _check_free_url(root: str) -> None:
    storage = storage_of(root)
    storage.check_writable()
    if storage.has(MANIFEST):
        raise StoreExistsError(f"{root} exists: it is a store; mm.append adds to it, or remove it first")
    if storage.has(CONVERSION):
        raise StoreExistsError(f"{root} exists: an unfinished conversion; finish it with the same call, or remove it")
    if not {entry.name for entry in storage.entries()} <= {*_OURS}:
        raise StoreExistsError(f"{root} exists, and holds other things than a store; choose another URL")
    if (last := max(generations(root, 1 << 63), default=0)) > 1:
        raise StoreExistsError(f"{root} exists: a store without its {MANIFEST}; {repair(root, last)}")


def check_outside(root: str) -> None:
    """Raise `OptionError` if a path lies in a store; what is above a URL may not be for us to read."""
    if is_url(root):
        return
    above = os.path.dirname(os.path.realpath(root))
    while above != os.path.dirname(above):
        if all(os.path.lexists(os.path.join(above, name)) for name in (MANIFEST, "history")):
            raise OptionError(f"{root} lies in the store {above}; choose another path")
        above = os.path.dirname(above)


def make_folder(root: str, form: Form | None = None) -> None:
    """Make the folder of a new store, durably, or take over what a dead writer left of one.

    `form` is how its arrays will be stored, as its zarr.json tells all who write to it; None for ``.npy`` files.

    Raises
    ------
    StoreExistsError
        When something else is there.
    OptionError
        When there is no folder to make it in.
    """
    if is_url(root) or os.path.lexists(root):
        check_free(root)
    if not is_url(root) and not os.path.lexists(root):
        _make(root)
    storage = storage_of(root)
    if form is not None:
        storage.write(root_document(form), METADATA)
    elif storage.has(METADATA):
        storage.unlink([(METADATA,)])


def _make(root: str) -> None:
    parent = os.path.dirname(root)
    try:
        SYSTEM.mkdir(root)
    except FileNotFoundError:
        raise OptionError(f"cannot make {root}: there is no folder {parent}") from None
    except FileExistsError:  # another process began here at the same time; the commit says whose store it is
        return
    try:
        SYSTEM.fsync_folder(parent)
    except BaseException:
        remove_folder(root)
        raise


def remove_folder(root: str) -> None:
    """Remove the folder of a store that never came to be; one that others have put something into stays."""
    storage = storage_of(root)
    if storage.is_local:
        with contextlib.suppress(OSError):
            SYSTEM.rmdir(os.path.join(root, "parts"))
    with contextlib.suppress(OSError):
        # Another process that makes a store here goes by it, too.
        if storage.has(METADATA) and not any(map(_is_used, storage.entries())) and not storage.entries("parts"):
            storage.unlink([(METADATA,)])
    if storage.is_local:
        with contextlib.suppress(OSError):
            SYSTEM.rmdir(root)


def restore_form(root: str, form: Form | None) -> bool:
    """Write the zarr.json of a store again where it was lost; whether it was. Writers would go on with plain files.

    `form` is that of its manifest.
    """
    if form is None or form_of(root) is not None:
        return False
    storage_of(root).write(root_document(form), METADATA)
    return True


def _is_used(entry: Entry) -> bool:
    return entry.name not in ("parts", METADATA)
