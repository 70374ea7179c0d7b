"""Make a store and open it, or look at arrays without one: functions as users call them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import dask

from mmdask.dataset.dataset import Dataset, dataset_of, open_dataset
from mmdask.dataset.making.dask_workers import workers_of
from mmdask.display import parse_nbytes
from mmdask.schema import Field
from mmdask.sources.arrays import write_arrays
from mmdask.sources.converting.conversion_plan import ConversionPlan
from mmdask.sources.converting.inputs import Label, PathLike
from mmdask.sources.foreign import view_arrays
from mmdask.sources.root import convert_root
from mmdask.store.arrays.place import IO
from mmdask.store.layer import Scalar
from mmdask.store.zarr.form import Backend

__all__ = ["from_arrays", "from_root", "view"]


def from_arrays(
    data: Any,
    path: str | os.PathLike[str],
    *,
    fields: Iterable[Field] | None = None,
    labels: Mapping[str, Scalar] | None = None,
    attrs: Mapping[str, Any] | None = None,
    aux: Mapping[str, Any] | None = None,
    backend: Backend | None = None,
) -> Dataset:
    """Write arrays as a new store and open it.

    Parameters
    ----------
    data : mapping, or records
        One entry per field, all with the same number of rows: a numpy array (dense), an awkward array or a list of
        lists (ragged), arrays of differing shape (shaped), text (string), a dask array, a field of another store, or
        a list of numbers; records, or lists of them, become one field for each member, as ``jets_pt``. None, masked
        numbers and missing values of awkward arrays make a field optional. An awkward array of records and a
        structured numpy array are taken apart. Arrays are read and converted in pieces of about 64 MiB; pieces of
        dask arrays end where chunks of all of them end, so that each chunk is computed once, unless that takes more
        than 1 GiB.
    path : path
        Where the store will be; nothing may be there yet.
    fields : iterable of Field, optional
        What fields must become where that is not what they look like, as ``[mm.Field.category("process")]``.
    labels : mapping, optional
        Values that are the same for all rows; they become fields.
    attrs : mapping, optional
        Notes on the store, of anything JSON holds.
    aux : mapping, optional
        Arrays that are not per row, as bin edges or lists of names: `Dataset.aux`.
    backend : {"memmap", "zarr"} or mmdask.Zarr, optional
        How arrays are stored: in files that are mapped, or compressed in chunks. By default the former, and the latter
        behind a URL.

    Returns
    -------
    Dataset
        Of the new store.

    Raises
    ------
    StoreExistsError
        When something is at `path`.
    SchemaError
        When fields differ in length or cannot be stored exactly, or when lists without any item do not say what their
        items would be and `fields` does not either, or values are missing where a Field of `fields` is not optional.
    OptionError
        When `attrs` are not JSON.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [0.5, 1.5], "jets": [[1], [2, 3]], "name": ["a", "b"]}, "arrays.mm")
    >>> ds[1]
    {'x': np.float64(1.5), 'jets': array([2, 3]), 'name': 'b'}
    """
    write_arrays(
        data, path, fields=fields, labels=labels, attrs=attrs, aux=aux, compute=compute_together, backend=backend
    )
    return open_dataset(path)


def compute_together(lazy: Sequence[Any]) -> Sequence[Any]:
    """Several collections in one pass, so that what they share is computed once."""
    computed: Sequence[Any] = dask.compute(*lazy, traverse=False)
    return computed


_RootSources = PathLike | Iterable[PathLike] | Mapping[PathLike, Mapping[str, Label]]


class RootOptions(TypedDict, total=False):
    """The options of `from_root` but `plan`, which decides what it returns."""

    fields: str | Iterable[str] | None
    exclude: str | Iterable[str] | None
    tree: str | None
    cut: str | None
    aliases: Mapping[str, str] | None
    weights: str | Iterable[str]
    update: bool
    missing: str
    progress: bool
    workers: int | Any
    check: str
    part_nbytes: int | str
    on_mismatch: str | Mapping[str, str]
    rename: Mapping[str, str] | None
    pad: Mapping[str, int | tuple[int, Any]] | None
    tree_label: str | None
    backend: Backend | None


@overload
def from_root(
    sources: _RootSources,
    path: str | os.PathLike[str],
    *,
    plan: Literal[False] = False,
    **options: Unpack[RootOptions],
) -> Dataset: ...
@overload
def from_root(
    sources: _RootSources, path: str | os.PathLike[str], *, plan: Literal[True], **options: Unpack[RootOptions]
) -> ConversionPlan: ...
@overload
def from_root(
    sources: _RootSources, path: str | os.PathLike[str], *, plan: bool, **options: Unpack[RootOptions]
) -> Dataset | ConversionPlan: ...
def from_root(
    sources: _RootSources,
    path: str | os.PathLike[str],
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
    workers: int | Any = 1,
    check: str = "stat",
    part_nbytes: int | str = "1 GiB",
    plan: bool = False,
    on_mismatch: str | Mapping[str, str] = "error",
    rename: Mapping[str, str] | None = None,
    pad: Mapping[str, int | tuple[int, Any]] | None = None,
    tree_label: str | None = None,
    backend: Backend | None = None,
) -> Dataset | ConversionPlan:
    """Convert TTrees or RNTuples of ROOT files to a store and open it; what is converted already is not read again.

    Branches are read one by one along their baskets, in bounded memory. Nothing is visible before the end; a call that
    was interrupted goes on where it stopped when it is made again. Made again later, it converts what is new, replaces
    the rows of files that changed, and says nothing where nothing did.

    Parameters
    ----------
    sources : path, address, glob, ``"file.root:tree"``, list of these, or mapping of these to labels
        The files, in the order of the rows; those of a glob are sorted. A file with one tree needs no tree name, and
        ``"file.root:nominal*"`` means every tree that fits. Labels are values that are the same for all rows of a file,
        as ``{"process": "ttbb", "year": 2016}``; they become fields, text a category.
    path : path or URL
        Of the store.
    fields, exclude : str or list of str, optional
        Names or patterns (``"jet_*"``) of branches to take, and to leave out; all are taken by default. Branches of a
        kind that is not supported are left out with a `SkippedFieldsWarning`, and are an error when named.
    tree : str, optional
        For sources that name none.
    cut : str, optional
        Only rows that pass are kept, as ``"nJets >= 4"``: an expression of branches, labels and aliases. Branches that
        only it needs are read, but not kept, unless `fields` has them, too.
    aliases : mapping, optional
        Fields that are computed from branches, labels and other aliases, as ``{"ht": "sum(jet_pt)"}``. They are stored.
    weights : str or list of str, optional
        Weights whose sums over all rows, before the cut, are kept for each source: `Dataset.sources`,
        `Dataset.cutflow`. Names of branches or aliases, or expressions.
    update : bool
        Convert again when options differ from those of the last call, instead of raising.
    missing : {"error", "drop"}
        What to do with rows of a file that is gone, or no longer among the sources.
    progress : bool
        Whether a progress bar is shown.
    workers : int or dask.distributed.Client
        How many processes of this machine share the work, or whose workers do; they see the files and the store under
        the same paths. With 1, this process does it. Files are divided among them, and large ones cut into parts.
    check : {"stat", "hash"}
        What tells that a file changed: its size and time, or its contents, for which each file is read.
    part_nbytes : int or str
        Decoded bytes of a part, about. Larger files become several parts. Where a call makes more than 32, small files
        that follow each other with the same labels become one part together.
    plan : bool
        Write nothing, and return a `ConversionPlan` of what would be done, and why. Files that would be read are
        opened, and what is wrong with them raises.
    on_mismatch : {"error", "common", "promote"} or mapping
        What to do with fields that files do not have alike: raise; leave them out; or store them in a type that holds
        all values exactly, missing in files that have none. As a mapping of names or patterns to one of these, or to a
        dtype: ``{"*": "promote", "eventNumber": "float64"}``.
    rename : mapping, optional
        New names of fields, by name or pattern, or of objects with all their members:
        ``{"GEN.x": "gen_x", "jet_*": "j_*", "p4": "mu"}``. `fields` and `exclude` have the
        names in the file; the cut, aliases, weights and `pad` may use both.
    pad : mapping, optional
        Lists that become dense fields, by name or pattern, with the items of each row, and perhaps what stands where
        there are fewer: ``{"jet_pt": (22, nan)}``. The cut, aliases and weights see the whole lists. What is cut off is
        counted, and warned of.
    tree_label : str, optional
        A label that is the name of the tree, as ``"systematic"``: a category.
    backend : {"memmap", "zarr"} or mmdask.Zarr, optional
        How the arrays of a new store are stored: in files that are mapped, or compressed in chunks. By default the
        former, and the latter behind a URL; a store that is there goes on as it was made.

    Returns
    -------
    Dataset
        Of the whole store; with `plan`, a `ConversionPlan`.

    Raises
    ------
    ExpressionError
        When the cut, an alias or a weight cannot be read or does not fit the branches; before any data are read.
    SourceNotFoundError
        When no file has this name, or one is gone.
    SourceError
        When a file is no ROOT file, is truncated, changes while it is read, or has no such tree.
    FieldNotFoundError
        When a name or pattern matches no branch.
    SchemaError
        When files differ in their branches, or labels in their names; with `on_mismatch`, where there is no way to
        store them together, or the store would have to hold other types than it does (``update=True``).
    StoreExistsError
        When something else is at `path`.
    OptionError
        When the store was made with other options, or another backend; it names them.
    WorkerError
        When a worker process dies. What was finished stays, and the same call goes on from there.

    Warns
    -----
    SkippedFieldsWarning
        With the branches that were left out, and why.
    DroppedItemsWarning
        When rows were longer than what `pad` makes of them, with how many items were cut off.
    RuntimeWarning
        When no row passes the cut; when the sum of a weight is no finite number, so that nothing can be normalised by
        it.
    """
    found = convert_root(
        sources,
        path,
        fields=fields,
        exclude=exclude,
        tree=tree,
        cut=cut,
        aliases=aliases,
        weights=weights,
        update=update,
        missing=missing,
        progress=progress,
        workers=workers_of(workers),
        check=check,
        part_nbytes=parse_nbytes(part_nbytes),
        plan=plan,
        on_mismatch=on_mismatch,
        rename=rename,
        pad=pad,
        tree_label=tree_label,
        backend=backend,
    )
    return open_dataset(path) if found is None else found


def view(
    data: Mapping[str, Any],
    *,
    fields: Iterable[Field] | None = None,
    chunks: int | str = "auto",
    io: IO = "auto",
) -> Dataset:
    """Look at arrays that lie elsewhere as a dataset: no store, no copy, nothing is written.

    Parameters
    ----------
    data : mapping
        Arrays by name, all with the same number of rows: a `numpy.memmap` or the path of a ``.npy`` file, which are
        referred to; an `mmdask.Raw`, a file without a header; an array of zarr or h5py, or of anything else that has
        `shape`, `dtype` and gives slices of itself; a numpy or awkward array, or a list, as `from_arrays` takes them,
        which stay in memory. An array of records becomes one field for each member, as ``hits_x``.
    fields : iterable of Field, optional
        What fields are where that is not what they look like; also units and docs.
    chunks : int or "auto"
        Rows of a chunk, as of `mmdask.open`.
    io : {"auto", "mmap", "pread"}
        How files are read. By default plainly: a file that has changed is an error then. "mmap" maps them, which is
        quicker for rows in any order; whoever makes a file shorter that is mapped kills this process.

    Returns
    -------
    Dataset
        Lazy fields, cuts, histograms and batches as those of a store; `Dataset.save` makes one of it. Cuts are kept in
        memory, as long as the process runs and there is room. Files are pickled as a reference, and what is in memory
        with its values.

    Raises
    ------
    SourceNotFoundError, SourceError
        When a file is missing, truncated or no ``.npy`` file; later, when a file has changed since.
    SchemaError
        When arrays differ in their number of rows, or cannot be fields.
    OptionError
        When something else is given, as a dask array, which `from_arrays` stores.

    Notes
    -----
    What is looked at must not change. Of a file that does, size and time of writing tell, before and after each read;
    of arrays in memory nothing does. A store can grow meanwhile, is checked and mapped: `from_arrays` makes one.

    Examples
    --------
    >>> import mmdask as mm
    >>> import numpy as np
    >>> np.save("pt.npy", np.array([10.0, 60.0, 70.0]))
    >>> ds = mm.view({"pt": "pt.npy", "hits": [[1], [], [2, 3]]})
    >>> ds[ds.cut("pt > 50 & any(hits > 2)")][0]
    {'pt': np.float64(70.0), 'hits': array([2, 3])}
    """
    return dataset_of(view_arrays(data, fields, io), chunks)
