"""Options that callers give, checked."""

from __future__ import annotations

import operator

from mmdask.errors import OptionError

__all__ = ["integer", "no_batches"]


def integer(name: str, value: object, low: int, end: int | None = None, limit: str = "") -> int:
    """An option that is an integer from `low` to below `end`, which `limit` names.

    Raises
    ------
    OptionError
        When it is something else.
    """
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        n = low - 1
    if isinstance(value, bool) or n < low or (end is not None and n >= end):
        below = f" and below {limit or end}{f' = {end}' if limit else ''}" if end is not None else ""
        raise OptionError(f"{name} is an integer, at least {low}{below}; got {value!r}")
    return n


def no_batches(n_rows: int | None, batch_size: int) -> str:
    """Why an epoch has no batches, and what to do."""
    if not n_rows:
        return "an epoch has no batches, for no rows are selected; ds.cutflow(...) shows how many each cut leaves"
    return (
        f"an epoch has no batches, for its {n_rows} rows do not fill one of {batch_size}, and last='drop', the default "
        "with several ranks, leaves out what is left over; take a smaller batch_size, or last='keep' or 'pad'"
    )
