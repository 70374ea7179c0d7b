"""The tree in which sums over rows are added, so that they are the same bit for bit however rows are shared out.

Its leaves are runs of up to 2**20 rows of one part, in the order of the store. Up to `FAN` neighbours are added from
the first one on, then up to `FAN` of these sums, until there is one for each part; sums of parts are added in the same
way. So the order of additions depends on the parts and on the rows selected. Which nodes of the tree are one task, and
whether a node is added by a worker or by the process that asked, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from mmdask.rows.cuts.passes import Runner, Task

__all__ = ["FAN", "Later", "Node", "Sum", "add_up", "branch", "in_order", "leaf", "nodes_of", "sum_of"]

L = TypeVar("L")
S = TypeVar("S")
#: how many neighbours are added to one
FAN = 16


@dataclass(frozen=True, slots=True, eq=False)
class Node(Generic[L]):
    """A leaf, or up to `FAN` nodes that are added.

    Attributes
    ----------
    weight : int
        How much work there is below, in rows.
    leaves : tuple
        The first and the last leaf below.
    below : tuple of Node
        What is added; nothing below a leaf.
    """

    weight: int
    leaves: tuple[L, L]
    below: tuple[Node[L], ...] = ()

    def __iter__(self) -> Iterator[L]:
        """All leaves."""
        if not self.below:
            yield self.leaves[0]
        for node in self.below:
            yield from node

    def map(self, change: Callable[[L], Any]) -> Node[Any]:
        """The same tree of other leaves."""
        if not self.below:
            return leaf(change(self.leaves[0]), self.weight)
        return _joined([node.map(change) for node in self.below])


def leaf(item: L, weight: int) -> Node[L]:
    return Node(weight, (item, item))


def _joined(nodes: Sequence[Node[L]]) -> Node[L]:
    if len(nodes) == 1:
        return nodes[0]
    return Node(sum(node.weight for node in nodes), (nodes[0].leaves[0], nodes[-1].leaves[1]), tuple(nodes))


def branch(nodes: Iterable[Node[L]]) -> Node[L] | None:
    """The tree over some nodes; None over none.

    Examples
    --------
    >>> tree = branch(leaf(i, 1) for i in range(40))
    >>> [node.weight for node in tree.below]
    [16, 16, 8]
    """
    level = list(nodes)
    while len(level) > 1:
        level = [_joined(level[i : i + FAN]) for i in range(0, len(level), FAN)]
    return level[0] if level else None


def nodes_of(root: Node[L], fits: Callable[[Node[L]], bool]) -> list[Node[L]]:
    """The highest nodes that fit, from left to right; a leaf always does.

    Examples
    --------
    >>> [node.weight for node in nodes_of(branch([leaf("a", 9), leaf("b", 2), leaf("c", 9)]), lambda n: n.weight < 12)]
    [9, 2, 9]
    """
    if not root.below or fits(root):
        return [root]
    return [node for below in root.below for node in nodes_of(below, fits)]


def sum_of(node: Node[L], of: Callable[[L], S], add: Callable[[S, S], S]) -> S:
    """The sum of what leaves give."""
    if not node.below:
        return of(node.leaves[0])
    total = sum_of(node.below[0], of, add)
    for other in node.below[1:]:
        total = add(total, sum_of(other, of, add))
    return total


def _added(add: Callable[[S, S], S], *sums: S) -> S:
    """The sum of some neighbours; a task of its own."""
    total = sums[0]
    for other in sums[1:]:
        total = add(total, other)
    return total


@dataclass(frozen=True)
class Later:
    """An argument of a task: what another task will give. Only runners that `travels` is true of know it."""

    task: Task


class Sum(Generic[L, S]):
    """Takes the sums of nodes from left to right, and adds them as their tree says.

    Parameters
    ----------
    root : Node
        The tree.
    nodes : sequence of Node
        Those of which sums will come, and which together have every leaf once.
    add : callable
        The sum of two sums; it changes neither.
    """

    def __init__(self, root: Node[L], nodes: Iterable[Node[L]], add: Callable[[S, S], S]) -> None:
        self._given = {id(node) for node in nodes}
        self._add = add
        self._folding = self._fold(root)
        next(self._folding)
        self.total: S | None = None

    def _fold(self, node: Node[L]) -> Generator[None, S, S]:
        if id(node) in self._given:
            return (yield)
        total = yield from self._fold(node.below[0])
        for other in node.below[1:]:
            total = self._add(total, (yield from self._fold(other)))
        return total

    def take(self, value: S) -> None:
        """The sum of the next node."""
        try:
            self._folding.send(value)
        except StopIteration as end:
            self.total = end.value


def given(run: Runner, top: Node[L], fits: Callable[[Node[L]], bool]) -> list[Node[L]]:
    """The nodes of which the sums come here, where those that fit are tasks.

    All of these, unless results travel: then those of `FAN` of them are added by a task again, and so on.
    """
    if not top.below or fits(top):
        return [top]
    return list(top.below) if getattr(run, "travels", False) else nodes_of(top, fits)


def task_of(
    node: Node[L], fits: Callable[[Node[L]], bool], work: Callable[[Node[L]], Task], add: Callable[[S, S], S]
) -> Task:
    """The task that gives the sum of a node; those below it that fit are work for one."""
    if not node.below or fits(node):
        return work(node)
    return partial(_added, add), tuple([Later(task_of(below, fits, work, add)) for below in node.below])


def add_up(
    run: Runner,
    root: Node[L],
    fits: Callable[[Node[L]], bool],
    work: Callable[[Node[L]], Task],
    add: Callable[[S, S], S],
    check: Callable[[S], None] | None = None,
) -> S:
    """The sum over a tree, found by tasks.

    Parameters
    ----------
    run : callable
        Runs the tasks.
    root : Node
        The tree.
    fits : callable
        Whether a node is no more than one task; a leaf never is.
    work : callable
        The task that gives the sum of a node.
    add : callable
        The sum of two sums; it changes neither.
    check : callable, optional
        Is given each sum that comes here, in the order of the rows, and may raise.
    """
    nodes = given(run, root, fits)
    total: Sum[L, S] = Sum(root, nodes, add)

    def take(value: S) -> None:
        if check is not None:
            check(value)
        total.take(value)

    in_order(run, [task_of(node, fits, work, add) for node in nodes], take)
    assert total.total is not None
    return total.total


def in_order(run: Runner, tasks: Sequence[Task], take: Callable[[Any], None]) -> None:
    """Run tasks, and hand on their results in the order of the tasks, each as soon as those before it are there."""
    waiting: dict[int, Any] = {}
    n_taken = 0

    def done(number: int, result: Any) -> None:
        nonlocal n_taken
        waiting[number] = result
        while n_taken in waiting:
            take(waiting.pop(n_taken))
            n_taken += 1

    if tasks:
        run(tasks, done)
