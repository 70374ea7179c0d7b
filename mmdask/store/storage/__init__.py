"""Where the files of a store lie: in a folder of the system, or behind a URL.

`storage_of` chooses by the root of a store, which is text everywhere else: an absolute path, or a URL.
"""

from __future__ import annotations

from mmdask.store.storage.base import Entry, LayerFiles, Size, Storage, Turn
from mmdask.store.storage.local import LocalStorage
from mmdask.store.storage.url import is_url

__all__ = ["Entry", "LayerFiles", "Size", "Storage", "Turn", "is_url", "storage_of"]


def storage_of(root: str) -> Storage:
    """The storage of a store's root, as `store_root` gives it."""
    if not is_url(root):
        return LocalStorage(root)
    from mmdask.store.storage.remote import remote_storage

    return remote_storage(root)
