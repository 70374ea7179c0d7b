"""Several trees of one file: patterns of their names, and the name as a label."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mmdask.errors import OptionError, SourceError, did_you_mean
from mmdask.schema import check_name
from mmdask.sources.converting.inputs import Input

__all__ = ["expand_trees"]


def expand_trees(
    inputs: Iterable[Input], tree_label: str | None, tree_names: Callable[[str], Sequence[str]]
) -> list[Input]:
    """One input for each tree that a pattern fits, in the order of the file, with the tree's name as a label.

    A file is opened, and its trees are listed, only where that cannot be done without.

    Parameters
    ----------
    inputs : iterable of Input
        As `find_inputs` gives them; a tree may be a pattern, as ``nominal*``.
    tree_label : str, optional
        The label that gets the name of the tree, without folders' slashes at its ends and without its cycle.
    tree_names : callable
        From a path to the names of the trees in it.

    Raises
    ------
    SourceError
        When no tree fits a pattern, or it is not said which of several is meant.
    OptionError
        When a tree is named twice, or there is a label of this name.

    Examples
    --------
    >>> file = Input("/a.root", "nom*", 1, 1)
    >>> [(i.tree, i.labels) for i in expand_trees([file], "systematic", lambda path: ["nominal", "nom_up", "other"])]
    [('nominal', (('systematic', 'nominal'),)), ('nom_up', (('systematic', 'nom_up'),))]
    """
    if tree_label is not None:
        if not isinstance(tree_label, str):
            raise OptionError(f"tree_label is the name of a label, got {tree_label!r}")
        check_name(tree_label)
    found: dict[tuple[str, str], Input] = {}
    for i in inputs:
        for tree in _trees(i, tree_label, tree_names):
            if (i.path, tree) in found:
                raise OptionError(f"{i.path}:{tree} is named twice, by its name and by a pattern")
            labels = i.labels
            if tree_label is not None:
                if tree_label in dict(labels):
                    raise OptionError(f"{i.name}: {tree_label!r} is both a label and tree_label; rename one of them")
                labels = (*labels, (tree_label, tree.strip("/").partition(";")[0]))
            found[i.path, tree] = replace(i, tree=tree, labels=labels)
    return list(found.values())


def _trees(source: Input, tree_label: str | None, tree_names: Callable[[str], Sequence[str]]) -> list[str]:
    """The names of the trees that an input means."""
    pattern = source.tree
    if not glob.has_magic(pattern) and (pattern or tree_label is None):
        return [pattern]
    names = list(tree_names(source.location))
    some = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    its = f"its trees are: {some}" if names else "it holds no tree"
    if not pattern:
        if len(names) != 1:
            raise SourceError(f"{source.path}: {its}; say which, as in '{source.path}:*' for all of them")
        return names
    if pattern.strip("/") in names:
        return [pattern]  # a name may hold brackets
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern.strip("/"))]
    if not found:
        bare, cycle, number = pattern.rpartition(";")
        hint = did_you_mean(pattern, names)
        if cycle and number.isdecimal():
            hint = f"; a pattern means the highest cycle of each tree, so write {bare!r}"
        raise SourceError(f"{source.path}: no tree fits {pattern!r}{hint} ({its})")
    return found
