"""Errors of the system while a store is written: which store, and what became of what was written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mmdask.errors import ConflictError, MmdaskError

__all__ = ["removed_is_conflict", "writing"]


@contextlib.contextmanager
def writing(root: str, outcome: str) -> Iterator[None]:
    """Say of an error of the system which store was written, and what was committed.

    Parameters
    ----------
    root : str
        The store's folder, as `store_root` gives it.
    outcome : str
        What is so after an error, ``"nothing was assigned"``.

    Raises
    ------
    ConflictError
        When files that were just written are gone.
    """
    try:
        with removed_is_conflict(root, f"{outcome}; call again"):
            yield
    except OSError as error:
        # A note that names the store knows better: of a commit that may have happened.
        if not isinstance(error, MmdaskError) and not any(root in note for note in getattr(error, "__notes__", ())):
            error.add_note(f"while {root} was written: {outcome}")
        raise


@contextlib.contextmanager
def removed_is_conflict(root: str, outcome: str) -> Iterator[None]:
    """Raise `ConflictError` where files of the store that were just written are gone."""
    try:
        yield
    except FileNotFoundError as error:
        if isinstance(error, MmdaskError) or not str(error.filename).startswith(root + os.sep):
            raise
        raise ConflictError(
            f"{root}: files that were being written were removed meanwhile, by vacuum with a short grace=, or by "
            f"hand; {outcome} (a longer grace= of mm.vacuum leaves slow writers more time)"
        ) from error
