"""Packages that only some functions need, imported where these are called."""

from __future__ import annotations

import importlib
from typing import Any

from mmdask.errors import MissingDependencyError

__all__ = ["imported"]


def imported(module: str, install: str) -> Any:
    """A module; `install` is what pip installs for it.

    Raises
    ------
    MissingDependencyError
        When its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingDependencyError(f'{package} is not installed; run: pip install "{install}"') from None
