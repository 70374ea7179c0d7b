"""`once`: what is found when it is first asked for, and kept, with no lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):
    """`functools.cached_property` of Python 3.12, for what is asked for in threads; two of them may both find it.

    Before, all objects of a class share a lock: threads wait for each other, and a child that is forked meanwhile waits
    for a thread that it does not have.

    Examples
    --------
    >>> class Table:
    ...     @once
    ...     def rows(self):
    ...         print("counted")
    ...         return 3
    >>> table = Table()
    >>> table.rows + table.rows
    counted
    6
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object, owner: type) -> once[T] | T:
        if instance is None:
            return self
        # Looked at first from now on; where two threads found it, both take that of the first.
        found: T = instance.__dict__.setdefault(self._name, self._find(instance))
        return found
