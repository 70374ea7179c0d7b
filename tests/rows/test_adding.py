"""The tree in which sums are added: one result however it is shared out, and few tasks however many rows there are."""

from __future__ import annotations

import functools
import operator
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.rows.cuts.passes import run_serially
from mmdask.rows.sums import adding, reducing
from mmdask.rows.sums.adding import Later, Sum, add_up, branch, in_order, leaf, nodes_of, sum_of

#: of which no two sums in another order are equal, mostly
numbers = st.builds(
    lambda n, seed: (np.random.default_rng(seed).normal(size=n) * 1e9).tolist(), st.integers(1, 700), st.integers(0)
)


def by_hand(values):
    """Sixteen at a time, from the left, until one is left."""
    while len(values) > 1:
        some = [values[i : i + 16] for i in range(0, len(values), 16)]
        values = [functools.reduce(operator.add, each) for each in some]  # sum loses less from Python 3.12 on
    return values[0]


def tree_over(values):
    return branch(leaf(value, 1) for value in values)


def add(a, b):
    return a + b


def of(node):
    return sum_of(node, lambda x: x, add)


class Backwards:
    """Runs the last task first; what arguments will be is run when it is asked for, as on a cluster."""

    def __init__(self, travels):
        self.travels = travels
        self.n = self.n_given = 0

    def __call__(self, tasks, done):
        self.n_given += len(tasks)
        for i, task in reversed(list(enumerate(tasks))):
            done(i, self.one(pickle.loads(pickle.dumps(task))))

    def one(self, task):
        self.n += 1
        function, args = task
        return function(*[self.one(arg.task) if isinstance(arg, Later) else arg for arg in args])


@given(numbers)
def test_the_order_of_additions(values):
    assert sum_of(tree_over(values), lambda x: x, add) == by_hand(values)


@settings(max_examples=50)
@given(numbers, st.integers(1, 800), st.booleans())
def test_it_is_the_same_however_it_is_shared_out(values, most, travels):
    root = tree_over(values)

    def fits(node):
        return node.weight <= most

    run = Backwards(travels)
    assert add_up(run, root, fits, lambda node: (of, (node,)), add) == by_hand(values)
    n_tasks = len(nodes_of(root, fits))
    assert (run.n == n_tasks) if not travels else (n_tasks <= run.n <= 2 * n_tasks)
    assert run.n_given <= (adding.FAN if travels else n_tasks)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=300), st.integers(1, 4000))
def test_nodes_cover_all_leaves_once(weights, most):
    root = branch(leaf((i, w), w) for i, w in enumerate(weights))
    nodes = nodes_of(root, lambda node: node.weight <= most)
    assert [i for node in nodes for i, _ in node] == list(range(len(weights)))
    assert all(node.weight <= most or not node.below for node in nodes)
    assert root.weight == sum(weights)
    assert (root.leaves[0][0], root.leaves[1][0]) == (0, len(weights) - 1)


def test_results_are_taken_in_order_and_soon():
    taken, waiting = [], []

    def run(tasks, done):
        for i in (2, 0, 1):
            done(i, i)
            waiting.append(list(taken))

    in_order(run, [(len, ("",))] * 3, taken.append)
    assert waiting == [[], [0], [0, 1, 2]]
    in_order(run_serially, [], taken.append)


def test_a_sum_is_there_when_the_last_one_came():
    root = tree_over(range(40))
    total = Sum(root, root.below, add)
    for node, there in zip(root.below, (None, None, 780), strict=True):
        total.take(of(node))
        assert total.total == there


def store(lengths):
    return SimpleNamespace(parts=[SimpleNamespace(rows=n) for n in lengths])


@pytest.mark.parametrize(
    ("parts", "length", "fewest", "most"),
    [
        (1, 10, 1, 1),
        (8, 1 << 20, 8, 8),
        (100, 10_000_000, 900, 1000),  # 10**9 rows
        (1000, 100_000_000, 1000, 16_384),  # 10**11
        (100, 10_000_000_000, 1000, 16_384),  # 10**12, in large parts
        (20_000, 50_000_000, 1000, 16_384),  # 10**12
        (10_000, 1000, 30, 800),  # many small ones
        (30_000, 10, 110, 2000),
    ],
)
def test_tasks_are_few_and_enough(monkeypatch, parts, length, fewest, most):
    monkeypatch.setattr(reducing, "_TASK_ROWS", max(1 << 20, parts * length >> 15))  # many leaves are slow to make
    monkeypatch.setattr(reducing, "_MOST_TASKS", 1 << 14)
    root = reducing.tree_of(store([length] * parts), [True] * parts)
    n = len(nodes_of(root, reducing.fits_task(root)))
    assert fewest <= n <= most


@settings(max_examples=30)
@given(st.lists(st.sampled_from([1, 50, 900, 5000, 100_000]), min_size=1, max_size=300))
def test_tasks_stay_few_whatever_the_parts(lengths):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reducing, "_TASK_ROWS", 64)
        patch.setattr(reducing, "_PART_ROWS", 4)
        patch.setattr(reducing, "_MOST_TASKS", 64)
        root = reducing.tree_of(store(lengths), [True] * len(lengths))
        n = len(nodes_of(root, reducing.fits_task(root)))
    leaves = sum(-(-length // 64) for length in lengths)
    assert n <= leaves
    assert n <= 64 * 4 + 16


def test_rows_that_are_not_selected_are_in_no_leaf(monkeypatch):
    monkeypatch.setattr(reducing, "_TASK_ROWS", 64)
    bits = np.packbits(np.arange(256) // 64 == 2, bitorder="little")
    root = reducing.tree_of(store([256, 100, 256]), [bits, False, True])
    assert [(run.part, run.start, run.stop) for run in root] == [
        (0, 128, 192),
        *[(2, a, a + 64) for a in range(0, 256, 64)],
    ]
    assert reducing.tree_of(store([5]), [False]) is None
