"""What a conversion reads at one go: a branch of a TTree, or a top-level field of an RNTuple; and the tree of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from mmdask.schema import Field, FieldData

__all__ = ["Column", "Lazy", "Tree"]

T = TypeVar("T")


class Column(Protocol):
    """One field, or several where an object is flattened, which come out of the same bytes.

    `nbytes` are decoded bytes of each field, about. `skipped` are members that become no field, with the reason.
    """

    @property
    def name(self) -> str: ...

    @property
    def fields(self) -> tuple[Field, ...]: ...

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def nbytes(self) -> tuple[int, ...]: ...

    @property
    def offsets(self) -> Sequence[int]:
        """First row of each basket, cluster or group of pages, and the end of the last: what is decoded as a whole."""
        ...

    def ends(self, start: int, stop: int, limit: int, wanted: Sequence[Field]) -> Iterator[int]:
        """Where runs of about `limit` decoded bytes end, the last at `stop`; raises `UnreadableError`."""
        ...

    def read(self, start: int, stop: int, wanted: Sequence[Field]) -> tuple[FieldData, ...]:
        """Rows `start` to `stop` of some of its fields; raises `UnreadableError` when they cannot be read."""
        ...


class Tree(Protocol):
    """A TTree or an RNTuple that is open.

    `columns` are in the order of the file and made when they are asked for; text says why there is none, and is empty
    for a group, whose members count. `types` are as the file calls them. `doubles` are names that came twice.
    """

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, Column | str]: ...

    @property
    def types(self) -> Mapping[str, str]: ...

    @property
    def doubles(self) -> Sequence[str]: ...

    @property
    def metadata_nbytes(self) -> int:
        """What it takes in memory while it is open, about."""
        ...


class Lazy(Mapping[str, T]):
    """A mapping whose values are made when they are first asked for.

    Examples
    --------
    >>> lengths = Lazy(["a", "bb"], len)
    >>> list(lengths), lengths["bb"]
    (['a', 'bb'], 2)
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], T]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            if name not in self._names:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
