"""`Dataset`: the lazy view of a set of rows of a store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmdask.batches.collate import Collate
from mmdask.batches.loader import Balance, Last, Loader, Shuffle
from mmdask.batches.loading.fetching import Transform
from mmdask.batches.normalisation import Normalisation, check_normalised
from mmdask.batches.ordering.balanced import classes_of
from mmdask.batches.ordering.bucketing import Bucket
from mmdask.dataset.given import each_masked
from mmdask.dataset.layouts import records
from mmdask.dataset.lists.recipe import Frame
from mmdask.dataset.lists.records import Records, zipped
from mmdask.dataset.making.saving import order_of, workers_for
from mmdask.dataset.run import dask_runner, resolve
from mmdask.dataset.shapes.frames import OnRagged, dask_frame, frame_names, pandas_frame, xarray_of
from mmdask.dataset.shaping import Shaping
from mmdask.errors import OptionError
from mmdask.export.root import Format, rows_to_root
from mmdask.export.save import save_rows
from mmdask.rows.draws.weighing import weigh
from mmdask.rows.rows import Rows
from mmdask.rows.sums.counting import check_weight
from mmdask.store.arrays.place import IO
from mmdask.store.snapshot import Snapshot, open_snapshot
from mmdask.store.zarr.form import Backend

__all__ = ["Dataset", "dataset_of", "open_dataset"]

CHUNK_ROWS = 1 << 20
CHUNK_NBYTES = 128 << 20


class Dataset(Shaping):
    """A set of rows of a store, in store order, as lazy fields by name. Immutable.

    Made by `mmdask.open`, and by slicing, cutting and splitting another one, none of which copies data.
    It pickles as a reference: the path, the generation and the selection.
    """

    # Handing out ----------------------------------------------------------------------------------------------------

    def batches(
        self,
        batch_size: int,
        *,
        fields: str | Iterable[str] | None = None,
        shuffle: Shuffle = True,
        seed: int = 0,
        collate: Collate | None = None,
        last: Last | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        window: int | str | None = None,
        block: int | Literal["chunk"] | None = None,
        weights: str | None = None,
        balance: Balance | None = None,
        normalise: Normalisation | None = None,
        bucket: Bucket | None = None,
        transform: Transform | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> Loader:
        """Iterate over the rows in batches, shuffled, each exactly once per epoch.

        Parameters
        ----------
        batch_size : int
            Rows of a batch, over all ranks.
        fields : str or iterable of str, optional
            Names or patterns (``"jet_*"``); all by default.
        shuffle : bool or "exact"
            Mixed in windows of many blocks; one permutation of all rows; or, if False, in store order.
        seed : int
            Another seed gives another order.
        collate : mapping, optional
            What to do with a field, as ``{"jet_pt": mm.pad(22)}``: a step, a list of steps, or `mm.stack`;
            ragged fields are packed by default.
        last : {"keep", "drop", "pad"}, optional
            What to do with rows that fill no batch; kept by one process, dropped by several.
        rank, world_size : int, optional
            Which part of every batch this process takes, of how many; by default as torch.distributed has it, if it is
            initialised.
        window, block : optional
            Bytes that are mixed together, rows that stay together; see `Loader`, as for all of these.
        weights : str, optional
            A field or an expression with one number per row: draw rows as often as it says, in epochs as long as
            without. It is looked at once, at once.
        balance : str or mapping, optional
            A field of classes, as "process", which have one share of every batch; or shares of its labels, as
            ``{"ttH": 1, "ttbb": 3}``. Rows of small classes come several times in an epoch.
        normalise : Normalisation, optional
            From `normalisation`: fields are normalised before they are padded or stacked.
        bucket : optional
            Batches of rows of similar length, as ``mm.bucket("parts")``.
        transform : callable, optional
            What is done to each batch where it is made: gets a `Batch`, returns it or a dict of its entries.
        memory : int or str, optional
            Bytes that the loader may take, "1GiB" by default.
        threads : int, optional
            Threads that gather rows; by default one for each core, 4 at most.

        Returns
        -------
        Loader
            Iterable; each batch is a dict of arrays with `rows`.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [1.0, 2.0, 3.0], "jets": [[1.5], [], [2.5, 3.5]]}, "few.mm")
        >>> for batch in ds.batches(2, collate={"jets": mm.pad(2)}, shuffle=False):
        ...     print(batch["met"], batch["jets"].shape, batch.rows)
        [1. 2.] (2, 2) [0 1]
        [3.] (1, 2) [2]
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("batches hold", names)
        balance = self._whole(balance)
        self._readable("weights and classes are", [_field_of(balance)], [weights])
        if isinstance(bucket, Bucket):
            bucket = replace(bucket, field=self._whole(bucket.field))
        rows = self._resolved()
        weight = None if weights is None else check_weight(weights, rows, "weights")
        classes = None if balance is None else classes_of(rows, balance, dask_runner("classes"))
        for some in [rows.cut(c.cut) for c in classes] if classes else [rows]:
            if classes:
                resolve(some)
            if weight is not None:
                weigh(some, weight, dask_runner("weights", weight.fields))
        return Loader(
            rows.only([*names, *([bucket.field] if isinstance(bucket, Bucket) else [])]),
            batch_size,
            fields=names,
            shuffle=shuffle,
            seed=seed,
            collate=collate,
            last=last,
            rank=rank,
            world_size=world_size,
            window=window,
            block=block,
            weights=weight,
            balance=classes,
            normalise=None if normalise is None else check_normalised(normalise, self.schema),
            bucket=bucket,
            transform=transform,
            memory=memory,
            threads=threads,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        fields: str | Iterable[str] | None = None,
        part_nbytes: int | str = "1 GiB",
        order: Literal["shuffled"] | None = None,
        seed: int = 0,
        progress: bool = True,
        backend: Backend | None = None,
    ) -> Dataset:
        """Write the rows as a new store, and open it. Eager, in bounded memory; by the workers of a dask client.

        Units, docs, labels, attrs and aux are kept, also the expressions of fields if the fields that they read are
        saved, too. What is constant for a whole part takes no space. ``ds.sources`` of the new store says where its
        rows come from.

        Parameters
        ----------
        path : path
            Where it will be; nothing may be there yet.
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        part_nbytes : int or str
            Bytes of a part, about; less, down to 64 MiB, where several workers share them.
        order : {None, "shuffled"}
            As the rows lie, or mixed once and for all: any neighbours are then rows from everywhere, and batches of
            the new store are mixed as well with the smallest window as by ``shuffle="exact"``.
        seed : int
            Of the mixed order.
        progress : bool
            Whether a progress bar is shown.
        backend : {"memmap", "zarr"} or mmdask.Zarr, optional
            How arrays are stored: in files that are mapped, or compressed in chunks. By default the former, and the
            latter behind a URL.

        Returns
        -------
        Dataset
            Of the new store.

        Raises
        ------
        StoreExistsError
            When something is at `path`.
        FieldNotFoundError
            When a name or pattern matches no field.
        OptionError
            When `path` lies in this store, or `part_nbytes` is no number of bytes.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, 70.0], "n": [1, 2, 3]}, "whole.mm")
        >>> skim = ds[ds.cut("met > 50")].save("skim.mm", fields="n")
        >>> skim["n"].compute()
        array([2, 3])
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("a store holds", names)
        rows = self._resolved()
        save_rows(
            rows,
            names,
            path,
            part_nbytes=part_nbytes,
            progress=progress,
            order=order_of(rows, order, seed),
            backend=backend,
            workers=workers_for(rows, path),
        )
        return open_dataset(path)

    def to_root(
        self,
        path: str | os.PathLike[str],
        tree: str = "events",
        *,
        fields: str | Iterable[str] | None = None,
        format: Format = "ttree",
        compression: str | None = "zstd",
        fill: Any = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> None:
        """Write the rows as a tree of a new ROOT file. Eager, in bounded memory; ROOT itself is not needed.

        Numbers, also lists of them, are written bit for bit. Labels become text, times the whole numbers that they
        are, half floats float32, and fixed bytes arrays of uint8. Lists of a TTree have a branch that counts their
        items, which those of one name up to the last ``_`` share: ``njet`` for ``jet_pt`` and ``jet_eta``. An RNTuple
        also holds lists of lists, lists of text, what is missing, and arrays of differing shape as lists of lists.

        Parameters
        ----------
        path : path
            Of the file, which is there when all of it is written, or not at all.
        tree : str
            Its name; ``"folder/events"`` is in a folder of the file.
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        format : {"ttree", "rntuple"}
            What ROOT has had for thirty years, or its successor.
        compression : str, optional
            "zlib", "lz4", "zstd" or "lzma", also with a level as in ``"zstd:9"``; None for none.
        fill : value or mapping, optional
            What stands for missing values, of all fields that have some, or by name of field as ``{"lead": -999}``;
            missing lists become empty ones. A TTree needs it.
        overwrite : bool
            Whether a file that is there may be replaced.
        progress : bool
            Whether a progress bar is shown.

        Raises
        ------
        OptionError
            When a field has a type that the format does not hold, when the file cannot be there, or an option is wrong.
            The message says what to do.
        StoreExistsError
            When something is at `path`.
        FieldNotFoundError
            When a name or pattern matches no field.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [10.0, 60.0, 70.0], "jet_pt": [[1.5], [], [2.5, 3.5]]}, "to.mm")
        >>> ds[ds.cut("met > 50")].to_root("skim.root", "nominal")
        >>> mm.from_root("skim.root:nominal", "back.mm", progress=False).fields
        ('met', 'njet', 'jet_pt')
        """
        names = self._names if fields is None else self.schema.match(fields)
        self._readable("a file holds", names)
        rows_to_root(
            self._resolved(),
            names,
            path,
            tree,
            format=format,
            compression=compression,
            fill=fill,
            overwrite=overwrite,
            progress=progress,
        )

    def to_awkward(self, fields: str | Sequence[str] | None = None) -> Any:
        """Read fields into one awkward array of records, at once.

        Members of a record are put together again, as ``array.jets.pt``: as lists of records where they are lists of
        equal counts. What is missing is None.

        Parameters
        ----------
        fields : str or list of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        """
        import dask

        names = self.schema.match(fields) if fields is not None else list(self._names)
        if not names:
            raise OptionError("an awkward array of records needs one field or more")
        values = dask.compute(*(self[name] for name in names))
        values = [each_masked(v) if name in self._given else v for name, v in zip(names, values, strict=True)]
        return records(self.schema, names, values)

    def to_dataframe(
        self, fields: str | Iterable[str] | None = None, *, ragged: OnRagged = "error", lazy: bool = False
    ) -> Any:
        """Read fields into a pandas DataFrame, chunk by chunk; or make a lazy dask one.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names of fields or records, or patterns (``"jet_*"``); all by default.
        ragged : {"error", "drop", "lists"}
            What to do with fields that have lists, or arrays of differing shape, in their rows: refuse them, leave them
            out, or make columns of arrays.
        lazy : bool
            Whether to make a ``dask.dataframe``, in the chunks of the dataset and with known divisions, which reads
            when it is computed.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            Its index numbers the rows of this dataset. Labels are a `Categorical` of all labels of the store, text has
            the dtype ``string``. What is missing is NA, in `Int64`, `Float32`, `boolean` and so on; NaT for times, nan
            for complex numbers. A field ``p3`` of a fixed shape becomes columns ``p3[0]``, ``p3[1]``, ``p3[2]``.

        Raises
        ------
        OptionError
            When a field has lists and `ragged` is "error".
        MissingDependencyError
            When pandas, or what ``dask.dataframe`` needs, is not installed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0], "n": [3, 4], "jets": [[1.5], []]}, "frame.mm")
        >>> ds.to_dataframe(["met", "n"])["met"].max()
        np.float64(41.5)
        """
        names = frame_names(self.schema, self._names if fields is None else self.schema.match(fields), ragged)
        edges = [0, *itertools.accumulate(self.chunks)]
        if lazy:
            self._readable("a lazy data frame has", names)
            return dask_frame(self._rows, names, edges)
        given = {name: self[name].compute() for name in names if name in self._given}
        return pandas_frame(self._rows, names, edges, given)

    def to_xarray(self, fields: str | Iterable[str] | None = None) -> Any:
        """Make an xarray Dataset around the lazy arrays of fields, with the dimension ``row``. Computes nothing.

        Parameters
        ----------
        fields : str or iterable of str, optional
            Names or patterns of fields of numbers, times and labels, also with a fixed shape, whose dimensions are
            called ``p3_0`` and so on. By default all that there are of these.

        Returns
        -------
        xarray.Dataset
            Units and docs are the attributes ``units`` and ``long_name``. As xarray knows no masks, what is missing is
            nan (integers and booleans that can be are float64 therefore), NaT, or empty text.

        Raises
        ------
        OptionError
            When a field that is named has lists or text, or when all have.
        MissingDependencyError
            When xarray is not installed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"met": [41.5, 7.0], "n": [3, 4]}, "xarray.mm")
        >>> ds.to_xarray().met.mean().compute().item()
        24.25
        """
        dense = [name for name, f in self.schema.items() if f.kind in ("dense", "category")]
        # If there are none of these, the error says of the first one what it is.
        names = (dense or self._names) if fields is None else self.schema.match(fields)
        return xarray_of(self.schema, names, self._field, self.attrs)

    def zip(self, record: str, /) -> Records:
        """Fields that belong together as one lazy collection of awkward records. Of a cut, only its rows are found.

        Parameters
        ----------
        record : str
            The name of a record; or what the names of fields begin with: "jet" for ``jet_pt`` and ``jet_eta``, "mu" for
            ``mu.fP.fX`` and ``mu.fE``, whose members are ``fX`` and ``fE``. If some of them are lists, these are taken,
            and are lists of records; else each row is one.

        Returns
        -------
        Records
            Lazy; `compute` gives an awkward array. Records of ``pt``, ``phi``, ``eta`` and ``mass`` or ``e``, and the
            like, are momenta of `vector`, if it is installed.

        Raises
        ------
        FieldNotFoundError
            When there are no such fields.
        ExpressionError
            When lists differ in their numbers of items; when it is computed.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], []], "jet_eta": [[0.5, -1.0], []]}, "jets.mm")
        >>> ds.zip("jet").compute().to_list()
        [[{'pt': 50.0, 'eta': 0.5}, {'pt': 30.0, 'eta': -1.0}], []]
        """
        frame = Frame(self._resolved().stored, self._chunk_rows)
        return zipped(self.schema, record, self._names, self._field, frame)


def _field_of(balance: object) -> str:
    """The field that is named by `balance`, if one is."""
    return balance if isinstance(balance, str) else next(iter(balance), "") if isinstance(balance, Mapping) else ""


def open_dataset(
    path: str | os.PathLike[str],
    *,
    generation: int | None = None,
    chunks: int | str = "auto",
    io: IO = "auto",
) -> Dataset:
    """Open a store: reads its manifest and nothing else, and never creates or changes anything.

    Parameters
    ----------
    path : path
        The store's folder.
    generation : int, optional
        An older commit from the store's history; the newest by default.
    chunks : int or "auto"
        Rows of a chunk, rounded up to a power of two. By default 2**20, fewer where a field is so wide that a chunk
        of it would exceed 128 MiB. Chunks end where parts end.
    io : {"auto", "mmap", "pread"}
        How files are read: "mmap" through maps, "pread" by plain reads with nothing mapped. By default maps, except on
        file systems of a server and in workers of a cluster.

    Returns
    -------
    Dataset
        All rows and fields, lazy. It goes on showing this commit, whatever is written later.

    Raises
    ------
    StoreNotFoundError
        When there is no store at `path`; `UnfinishedError` when a conversion began there and did not end.
    CorruptStoreError, FormatError
        When the manifest is damaged, or of a newer version of mmdask.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "small.mm")
    >>> mm.open("small.mm")["met"].sum().compute()
    np.float64(48.5)
    """
    snapshot = open_snapshot(path, generation, io=io)
    return dataset_of(snapshot, chunks)


def dataset_of(snapshot: Snapshot, chunks: int | str) -> Dataset:
    """All rows and fields of a snapshot; `chunks` as that of `open_dataset`."""
    if chunks == "auto":
        chunk_rows = _auto_chunk_rows(snapshot)
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        chunk_rows = 1 << (chunks - 1).bit_length()
    else:
        raise OptionError(f"chunks is a number of rows or 'auto', got {chunks!r}")
    return Dataset(Rows(snapshot), list(snapshot.schema), chunk_rows)


def _auto_chunk_rows(snapshot: Snapshot) -> int:
    """A power of two, such that a chunk of the widest field has up to 128 MiB."""
    block_rows = snapshot.manifest.block_rows
    dense = [f.item_nbytes for f in snapshot.schema.values() if f.kind == "dense"]
    # A block of the widest field has up to 64 KiB, unless it is one row; then all that is not dense may be one field.
    other = (1 << 16) / block_rows if block_rows > 1 else Rows(snapshot).row_nbytes - sum(dense)
    return min(CHUNK_ROWS, 1 << max(int(CHUNK_NBYTES / max(1, other, *dense)).bit_length() - 1, 0))
