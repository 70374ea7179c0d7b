"""`convert_root`, which `mm.from_root` calls: options are checked, inputs found, and handed to the conversion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmdask.errors import OptionError
from mmdask.sources.agreeing.mismatch import make_modes
from mmdask.sources.agreeing.padding import make_pads
from mmdask.sources.agreeing.renaming import check_rename
from mmdask.sources.agreeing.shaping import Shaping
from mmdask.sources.converting.conversion import convert
from mmdask.sources.converting.conversion_plan import ConversionPlan
from mmdask.sources.converting.inputs import Label, PathLike, find_inputs
from mmdask.sources.converting.recipe import make_recipe
from mmdask.sources.converting.trees import expand_trees
from mmdask.sources.root.file import tree_names
from mmdask.sources.root.reader import RootFiles
from mmdask.store.zarr.form import Backend

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
    workers: object = None,
    check: str = "stat",
    plan: bool = False,
    on_mismatch: str | Mapping[str, str] = "error",
    rename: Mapping[str, str] | None = None,
    pad: Mapping[str, int | tuple[int, Any]] | None = None,
    tree_label: str | None = None,
    backend: Backend | None = None,
) -> ConversionPlan | None:
    """Convert TTrees or RNTuples of ROOT files to the store at `path`; what it holds already is not read again.

    Every branch becomes a field of its name, an object or a map one of each member: numbers, fixed arrays, text, and
    lists of all these, of any depth. Reading goes branch by branch along its baskets, in bounded memory. Nothing is
    visible before one commit at the end; an interrupted call is resumed by the same call.

    Parameters
    ----------
    sources : path, address, glob, ``"file.root:tree"``, list of these, or mapping of these to labels
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
    workers : int or Workers, optional
        Processes that share the work; this one does all by default.
    check : {"stat", "hash"}
        What tells that an input changed: size and time of its file, or its contents.
    plan : bool
        Write nothing, and return what would be done.
    on_mismatch : {"error", "common", "promote"} or mapping
        Of fields that inputs do not have alike: raise; take only those that all have alike; or store them so that no
        value is lost, missing where an input has none. Or by name or pattern one of these, or a dtype.
    rename : mapping, optional
        New names of fields, by name or pattern, or of objects with their members: each ``*`` of a new name is what the
        next wildcard stands for. `fields` and `exclude` have the names of the file, expressions may use both.
    pad : mapping, optional
        By name or pattern how many items each row of a list gets, or that and what fills it: ``{"jet_pt": (22, nan)}``.
        The field is then dense; cuts, aliases and weights see the whole lists.
    tree_label : str, optional
        A label that is the name of the tree. Trees may be patterns: ``"a.root:nominal*"`` is one source for each.
    backend : {"memmap", "zarr"} or Zarr, optional
        How arrays are stored; by default as the store has them, and of a new one in plain files, or, behind a URL, in
        chunks of zarr.

    Returns
    -------
    ConversionPlan
        With `plan`, else None.

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
        When inputs differ in their fields or labels, a branch that was named has a type that cannot be stored, a field
        cannot be renamed or padded so, or rows that the store has would have to be of another type.
    StoreExistsError
        When `path` holds something else than a store of these sources.
    OptionError
        When the options differ from those of the last call, cannot be used, or leave no field.
    WorkerError
        When a worker process dies; what was finished stays.
    OSError
        When the disk takes nothing more, or forbids it; what was finished stays, and the same call goes on from there.

    Warns
    -----
    SkippedFieldsWarning
        Once, with the branches that were left out and why, those whose data cannot be read first.
    DroppedItemsWarning
        When padding cut items off.
    RuntimeWarning
        When no row passes the cut, or the sum of a weight is no finite number.
    """
    if type(part_nbytes) is not int or part_nbytes < 1:
        raise OptionError(f"part_nbytes is a positive number of bytes, got {part_nbytes!r}")
    shaping = Shaping(check_rename(rename), make_pads(pad), make_modes(on_mismatch))
    inputs, absent = find_inputs(sources, tree)
    inputs = expand_trees(inputs, tree_label, tree_names)
    wanted = None if fields is None else _patterns(fields)
    recipe = make_recipe(cut, aliases, weights, inputs)
    if wanted == () and not recipe.aliases:
        raise OptionError("no field is selected: fields is empty; leave it out to take all")
    reader = RootFiles(wanted, _patterns(() if exclude is None else exclude), part_nbytes, recipe, shaping)
    how: dict[str, Any] = {"update": update, "missing": missing, "progress": progress}
    how |= {"workers": workers, "check": check, "part_nbytes": part_nbytes, "plan": plan}
    how["backend"] = backend
    return convert(inputs, absent, path, reader, **how)


def _patterns(names: str | Iterable[str]) -> tuple[str, ...]:
    what = "fields and exclude are names or patterns of branches"
    if not isinstance(names, Iterable):
        raise OptionError(f"{what}, got {names!r}")
    patterns = (names,) if isinstance(names, str) else tuple(names)
    for p in patterns:
        if not isinstance(p, str) or not p:
            raise OptionError(f"{what}, got {p!r}")
    return tuple(dict.fromkeys(patterns))
