"""What people note about a store and its fields: anything that JSON holds, checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mmdask.errors import OptionError
from mmdask.store.document import MAX_DEPTH

__all__ = ["check_attrs"]

#: as text; every open reads them
MAX_NBYTES = 16 << 20


def check_attrs(attrs: object, what: str = "attrs") -> dict[str, Any]:
    """Return a copy of `attrs` as a store gives it back: of dicts, lists, texts, numbers, bools and None.

    Parameters
    ----------
    attrs : mapping
        Tuples become lists. `what` it is, for messages.

    Raises
    ------
    OptionError
        When it is no mapping, or holds what JSON does not; the message says where.

    Examples
    --------
    >>> check_attrs({"lumi": 139.0, "runs": (1, 2)})
    {'lumi': 139.0, 'runs': [1, 2]}
    """
    if not isinstance(attrs, Mapping):
        raise OptionError(f"{what} is a mapping of names to what JSON holds, got {type(attrs).__name__}")
    checked: dict[str, Any] = _copy(attrs, what, 0)
    nbytes = len(json.dumps(checked))
    if nbytes > MAX_NBYTES:
        raise OptionError(f"{what} has {nbytes} bytes as text, the limit is {MAX_NBYTES}; large arrays are for aux=")
    return checked


def _copy(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise OptionError(f"{where}: nested more deeply than {MAX_DEPTH} levels, or within itself")
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str):
        return str(value) if _is_utf8(value) else _refuse(where, "text that utf-8 cannot hold")
    if type(value) is int:
        return value if abs(value) < 1 << 64 else _refuse(where, "an integer of more than 64 bits")
    if type(value) is float:
        return value if math.isfinite(value) else _refuse(where, f"{value}, which JSON does not know")
    if isinstance(value, list | tuple):
        return [_copy(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        if wrong := [k for k in value if not isinstance(k, str) or not _is_utf8(k)]:
            return _refuse(where, f"a key that is not text: {wrong[0]!r}")
        return {str(k): _copy(v, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
    hint = ", as in x.tolist()" if hasattr(value, "tolist") else ""
    return _refuse(where, f"{type(value).__name__}; give a number, text, list or dict of Python{hint}")


def _refuse(where: str, got: str) -> Any:
    raise OptionError(f"{where}: {got}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
