"""ROOT files as a source: `convert_root`, which `mm.from_root` calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmdask.errors import OptionError
from mmdask.sources.conversion import convert
from mmdask.sources.inputs import Label, PathLike, find_inputs
from mmdask.sources.recipe import make_recipe
from mmdask.sources.rootfile import RootFiles

__all__ = ["convert_root"]


def convert_root(
    sources: PathLike | Iterable[PathLike] | Mapping[PathLike, Mapping[str, Label]],
    path: PathLike,
    *,
    fields: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    tree: str | None = None,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weights: str | Iterable[str] = (),
    update: bool = False,
    missing: str = "error",
    progress: bool = True,
    part_nbytes: int = 2**30,
) -> None:
    """Convert TTrees of ROOT files to the store at `path`; what it holds already is not read again.

    Every branch of numbers, fixed arrays, lists of these and text becomes a field of its name. Reading goes branch by
    branch along its baskets, in bounded memory. Nothing is visible before one commit at the end; an interrupted call is
    resumed by the same call.

    Parameters
    ----------
    sources : path, glob, ``"file.root:tree"``, list of these, or mapping of these to labels
        In the order in which the rows are to come; the files of a glob are sorted. Without a tree the file must hold
        only one. Labels such as ``{"process": "ttbb", "year": 2016}`` become fields: a category for text, else int64,
        float64 or bool.
    path : path
        Of the store. Inputs that changed since it was written replace their rows, new ones are appended.
    fields, exclude : name, pattern or list of these, optional
        Branches to take, in this order (default: all), and to leave out.
    tree : str, optional
        For sources that name none.
    cut : str, optional
        Rows that do not pass are not kept. It may read any branch, label and alias; what only it reads is not kept.
    aliases : mapping, optional
        Fields that are computed: names to expressions of branches, labels and other aliases.
    weights : str or list of str, optional
        Numbers per row, as names or expressions, that are summed over all rows before the cut, for each source.
    update : bool
        Convert again when the options differ from those of the last call, instead of raising.
    missing : {"error", "drop"}
        Of an input that the store holds and that is no longer there or no longer named: raise, or drop its rows.
    progress : bool
        Show a bar.
    part_nbytes : int
        Decoded bytes of a part, about.

    Raises
    ------
    ExpressionError
        When the cut, an alias or a weight cannot be read, or does not fit the branches; before any data are read.
    SourceNotFoundError
        When a name matches no file, or an input vanished.
    SourceError
        When an input is no ROOT file, is truncated, has no such tree, several trees of which none is named, or changes
        while it is read.
    FieldNotFoundError
        When a pattern matches no branch.
    SchemaError
        When inputs differ in their fields or labels, or a branch that was named has a type that cannot be stored.
    StoreExistsError
        When `path` holds something else than a store of these sources.
    OptionError
        When the options differ from those of the last call, cannot be used, or leave no field.
    OSError
        When the disk takes nothing more, or forbids it; what was finished stays, and the same call goes on from there.

    Warns
    -----
    SkippedFieldsWarning
        Once, with the branches that were left out and why, those whose data cannot be read first.
    """
    if type(part_nbytes) is not int or part_nbytes < 1:
        raise OptionError(f"part_nbytes is a positive number of bytes, got {part_nbytes!r}")
    inputs, absent = find_inputs(sources, tree)
    wanted = None if fields is None else _patterns(fields)
    recipe = make_recipe(cut, aliases, weights, inputs)
    if wanted == () and not recipe.aliases:
        raise OptionError("no field is selected: fields is empty; leave it out to take all")
    reader = RootFiles(wanted, _patterns(() if exclude is None else exclude), part_nbytes, recipe)
    convert(inputs, absent, path, reader, update=update, missing=missing, progress=progress)


def _patterns(names: str | Iterable[str]) -> tuple[str, ...]:
    what = "fields and exclude are names or patterns of branches"
    if not isinstance(names, Iterable):
        raise OptionError(f"{what}, got {names!r}")
    patterns = (names,) if isinstance(names, str) else tuple(names)
    for p in patterns:
        if not isinstance(p, str) or not p:
            raise OptionError(f"{what}, got {p!r}")
    return tuple(dict.fromkeys(patterns))
