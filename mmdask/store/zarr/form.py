"""How a store keeps its arrays where they are no ``.npy`` files: as arrays of zarr v3, in chunks that are compressed.

A store of this form has a zarr.json at its root, which says what its writers use; every layer is a group of zarr, and
part.json says of each of its arrays all that is needed to read it. The documents of zarr are for other programs:
`zarr.open` reads the arrays by them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mmdask.errors import FormatError, OptionError
from mmdask.schema import Field
from mmdask.store import document
from mmdask.store.storage import storage_of
from mmdask.store.zarr.spec import Codec, ZarrSpec

__all__ = [
    "GROUP",
    "METADATA",
    "Backend",
    "Form",
    "Zarr",
    "about_nbytes",
    "array_metadata",
    "check_backend",
    "chunk_length",
    "dump_form",
    "dump_zarr",
    "fits",
    "form_of",
    "parse_form",
    "parse_zarr",
    "root_document",
    "rounded",
    "settled",
]

METADATA = "zarr.json"
#: bytes of a chunk of a wide field: as much as a read of its own is worth, and few beside a window of batches
CHUNK_NBYTES = 8 << 20
#: a chunk is in memory as a whole, so that nobody may claim larger ones
MAX_CHUNK_NBYTES = 1 << 30
MAX_CHUNK_ROWS = 1 << 20
#: bytes of the rows of a chunk, all fields together, of which a window of batches holds some; and their numbers
ROWS_NBYTES = 16 << 20
LEAST_ROWS, MOST_ROWS = 1 << 10, 1 << 18
MOST_SHARDS = 64
#: of a row of lists or text, about
_LIST_NBYTES = 40
MAX_SHARDS = 1 << 16
#: level of each codec: lz4 is as quick at 5 as at 1, and zstd at 3 is what others use
LEVELS = {"lz4": 5, "zstd": 3, "none": 0}
_MAX_FORM_NBYTES = 1 << 16

#: of a layer
GROUP = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'


@dataclass(frozen=True)
class Zarr:
    """How a new store keeps its arrays: in zarr v3, compressed, in chunks.

    Parameters
    ----------
    codec : {"lz4", "zstd", "none"}
        What compresses the chunks, in blosc with shuffled bytes: "lz4" is read about as quickly as nothing, "zstd" is
        smaller.
    chunk_rows : int, optional
        Elements of a chunk along the first axis, a power of two up to 2**20. A chunk of a wide array has fewer, so that
        it has about 8 MiB at most. By default 2**18, fewer where rows are wide: what a shuffle moves together.
    shards : int, optional
        Chunks that share a file, or an object: 1 for one each. By default so many that these are not small.
    keepbits : int, optional
        Bits of the mantissa that are kept of reals, the others become zeros and take little space: 10 keep three
        decimal digits. By default all are. What is rounded off is lost.

    Raises
    ------
    OptionError
        When a value is none of these.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "small.mm", backend=mm.Zarr(codec="zstd"))
    >>> ds["met"].compute()
    array([41.5,  7. ])
    """

    codec: Codec = "lz4"
    chunk_rows: int | None = None
    shards: int | None = None
    keepbits: int | None = None

    def __post_init__(self) -> None:
        n, shards = self.chunk_rows, self.shards
        if self.codec not in get_args(Codec):
            raise OptionError(f"codec is one of {', '.join(map(repr, get_args(Codec)))}, got {self.codec!r}")
        if n is not None and (type(n) is not int or not 1 <= n <= MAX_CHUNK_ROWS or n & (n - 1)):
            raise OptionError(f"chunk_rows is a power of two up to {MAX_CHUNK_ROWS}, got {n!r}")
        if shards is not None and (type(shards) is not int or not 1 <= shards <= MAX_SHARDS):
            raise OptionError(f"shards is a number of chunks from 1 to {MAX_SHARDS}, got {shards!r}")
        if self.keepbits is not None and (type(self.keepbits) is not int or not 1 <= self.keepbits <= 52):
            raise OptionError(f"keepbits is a number of bits from 1 to 52, got {self.keepbits!r}")


Backend = Literal["memmap", "zarr"] | Zarr


@dataclass(frozen=True)
class Form:
    """How a store keeps its arrays, with nothing left open; see `Zarr`."""

    codec: Codec
    chunk_rows: int
    shards: int
    keepbits: int | None = None


def settled(zarr: Zarr | None, row_nbytes: float) -> Form | None:
    """The form of a store whose rows have so many bytes; None for ``.npy`` files.

    Examples
    --------
    >>> settled(Zarr(), 24.0)
    Form(codec='lz4', chunk_rows=262144, shards=1, keepbits=None)
    >>> settled(Zarr(), 4000.0)
    Form(codec='lz4', chunk_rows=4096, shards=64, keepbits=None)
    """
    if zarr is None:
        return None
    n = zarr.chunk_rows
    if n is None:
        fitting = int(ROWS_NBYTES / max(row_nbytes, 1.0))
        n = min(max(1 << max(fitting.bit_length() - 1, 0), LEAST_ROWS), MOST_ROWS)
    return Form(zarr.codec, n, zarr.shards or min(max(MOST_ROWS // n, 1), MOST_SHARDS), zarr.keepbits)


def about_nbytes(fields: Iterable[Field]) -> float:
    """About how many bytes a row of these fields has; of none, of a few numbers."""
    return sum(f.item_nbytes if f.kind == "dense" else _LIST_NBYTES for f in fields) or 64.0


def check_backend(backend: object, *, remote: bool) -> Zarr | None:
    """The form of a new store that a user names; None for plain ``.npy`` files.

    Raises
    ------
    OptionError
        When it is none, or the store is to be behind a URL, where nothing can be mapped.
    """
    if isinstance(backend, Zarr):
        return backend
    if backend == "zarr" or (backend is None and remote):
        return Zarr()
    if backend == "memmap" and remote:
        raise OptionError("a store behind a URL keeps its arrays in zarr, since nothing can be mapped there")
    if backend is None or backend == "memmap":
        return None
    raise OptionError(f"backend is 'memmap', 'zarr' or an mm.Zarr(...), got {backend!r}")


def fits(zarr: Zarr | None, form: Form | None) -> bool:
    """Whether a form is one that was asked for.

    Examples
    --------
    >>> form = settled(Zarr(), 24.0)
    >>> fits(Zarr(), form), fits(Zarr(codec="zstd"), form), fits(None, form)
    (True, False, False)
    """
    if zarr is None or form is None:
        return zarr is None and form is None
    asked = (zarr.chunk_rows, form.chunk_rows), (zarr.shards, form.shards)
    return (zarr.codec, zarr.keepbits) == (form.codec, form.keepbits) and all(a in (None, b) for a, b in asked)


# The document at the root ---------------------------------------------------------------------------------------------


def dump_form(form: Form) -> dict[str, Any]:
    """As the manifest has it."""
    entry: dict[str, Any] = {"codec": form.codec, "chunk_rows": form.chunk_rows, "shards": form.shards}
    return entry if form.keepbits is None else {**entry, "keepbits": form.keepbits}


def parse_form(r: document.Reader) -> Form:
    """The form in a document of a store.

    Raises
    ------
    FormatError
        When a value is none that it can have.
    """
    keepbits = r.integer("keepbits") if "keepbits" in r.value else None
    values = r.text("codec"), r.integer("chunk_rows"), r.integer("shards"), keepbits
    try:
        Zarr(*values)  # type: ignore[arg-type]
    except OptionError as error:
        raise FormatError(f"{r.where}: {error}") from None
    return Form(*values)  # type: ignore[arg-type]


def root_document(form: Form) -> bytes:
    """zarr.json of a store, which makes it a group of zarr."""
    attributes = {"mmdask": dump_form(form)}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2).encode() + b"\n"


def form_of(root: str) -> Form | None:
    """What writers of a store use, as its zarr.json says; None for plain ``.npy`` files, which a store has without one.

    Raises
    ------
    OSError
        When it cannot be read.
    FormatError
        When it is not one of a store.
    """
    try:
        data = storage_of(root).read(METADATA, limit=_MAX_FORM_NBYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _parse_root(data, f"{root}/{METADATA}")


@functools.lru_cache(maxsize=64)
def _parse_root(data: bytes, where: str) -> Form:
    if len(data) > _MAX_FORM_NBYTES:
        raise FormatError(f"{where}: more than {_MAX_FORM_NBYTES} bytes")
    try:
        found = json.loads(data)
        entry = found["attributes"]["mmdask"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise FormatError(f"{where}: is not what mmdask writes into a store of zarr arrays") from None
    return parse_form(document.Reader(entry, where))


# Arrays -------------------------------------------------------------------------------------------------------------


def chunk_length(form: Form, dtype: np.dtype[Any], item_shape: tuple[int, ...]) -> int:
    """Elements of a chunk: a power of two, as many as the form says or fit into some megabytes.

    Examples
    --------
    >>> form = Form("lz4", 1 << 18, 1)
    >>> chunk_length(form, np.dtype("f4"), ()), chunk_length(form, np.dtype("f4"), (64, 64))
    (262144, 512)
    """
    width = max(dtype.itemsize * math.prod(item_shape), 1)
    return min(form.chunk_rows, 1 << max((CHUNK_NBYTES // width).bit_length() - 1, 0))


def array_metadata(dtype: np.dtype[Any], shape: tuple[int, ...], zarr: ZarrSpec) -> bytes:
    """zarr.json of an array."""
    items = [max(n, 1) for n in shape[1:]]
    codecs: list[dict[str, Any]] = [_codec("bytes") if dtype.itemsize == 1 or dtype.kind == "S" else _LITTLE]
    if zarr.codec != "none":
        shuffle = {"typesize": dtype.itemsize, "shuffle": "shuffle"} if _shuffles(dtype) else {"shuffle": "noshuffle"}
        codecs.append(_codec("blosc", cname=zarr.codec, clevel=LEVELS[zarr.codec], blocksize=0, **shuffle))
    if zarr.shards > 1:
        inner = {"chunk_shape": [zarr.chunk, *items], "codecs": codecs}
        codecs = [_codec("sharding_indexed", **inner, index_codecs=[_LITTLE, _codec("crc32c")], index_location="end")]
    kind, fill = _data_type(dtype)
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": kind,
            "chunk_grid": _codec("regular", chunk_shape=[zarr.chunk * zarr.shards, *items]),
            "chunk_key_encoding": _codec("default", separator="/"),
            "fill_value": fill,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }
    ).encode()


def _codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration} if configuration else {"name": name}


_LITTLE = _codec("bytes", endian="little")
_NAT = -(1 << 63)


def _shuffles(dtype: np.dtype[Any]) -> bool:
    """Whether bytes of elements are sorted by their place in them; blosc knows elements of up to 255."""
    return 1 < dtype.itemsize < 256


def _data_type(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """What zarr calls a dtype, and what stands for elements that nobody wrote."""
    if dtype.kind == "S":
        return _codec("null_terminated_bytes", length_bytes=dtype.itemsize), ""
    if dtype.kind in "mM":
        unit, scale = np.datetime_data(dtype)
        name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
        return _codec(name, unit=unit, scale_factor=scale), _NAT
    fill: Any = {"b": False, "i": 0, "u": 0, "f": 0.0, "c": [0.0, 0.0]}[dtype.kind]
    return dtype.name, fill


def parse_zarr(r: document.Reader, n_elements: int, width: int) -> ZarrSpec:
    """How part.json says that an array is stored, every value checked.

    Parameters
    ----------
    r : Reader
        Of the object.
    n_elements : int
        Of the array along its first axis.
    width : int
        Bytes of one.
    """
    chunk, shards, codec = r.integer("chunk"), r.integer("shards"), r.text("codec")
    if not 1 <= chunk <= MAX_CHUNK_ROWS or chunk * width > MAX_CHUNK_NBYTES:
        r.fail("chunk", f"1 to {MAX_CHUNK_ROWS} elements of {MAX_CHUNK_NBYTES} bytes at most")
    if not 1 <= shards <= MAX_SHARDS:
        r.fail("shards", f"1 to {MAX_SHARDS}")
    if codec not in get_args(Codec):
        r.fail("codec", "one of " + ", ".join(get_args(Codec)))
    n = -(-n_elements // (chunk * shards)) if width else 0
    sizes, hashes = tuple(r.integers("sizes")), tuple(r.texts("hashes", "[0-9a-f]{16}"))
    if len(sizes) != n or len(hashes) != n:
        r.fail("sizes", f"one for each of {n} objects, as 'hashes'")
    if any(size > _most_nbytes(chunk * width, shards) for size in sizes):
        r.fail("sizes", "no more than the data and the index of an object take")
    return ZarrSpec(chunk, shards, codec, sizes, hashes)  # type: ignore[arg-type]


def _most_nbytes(chunk_nbytes: int, shards: int) -> int:
    """Bytes that an object can have: blosc adds 16 to what it cannot compress, an index has 16 for each chunk."""
    return shards * (chunk_nbytes + 16 + 16) + 4


def dump_zarr(zarr: ZarrSpec) -> dict[str, Any]:
    """As part.json has it."""
    return {
        "chunk": zarr.chunk,
        "shards": zarr.shards,
        "codec": zarr.codec,
        "sizes": list(zarr.sizes),
        "hashes": list(zarr.hashes),
    }


def rounded(values: np.ndarray[Any, Any], keepbits: int | None) -> np.ndarray[Any, Any]:
    """Reals, also those of complex numbers, with so many bits of their mantissas, to the nearest, ties to even.

    Examples
    --------
    >>> rounded(np.array([1 / 3, np.inf, np.nan, 1e30], "f4"), 4).tolist()
    [0.328125, inf, nan, 9.903520314283042e+29]
    """
    if keepbits is None or values.dtype.kind not in "fc" or not values.size:
        return values
    if values.dtype.kind == "c":
        parts = np.ascontiguousarray(values).view(values.real.dtype)
        return rounded(parts, keepbits).view(values.dtype)
    mantissa = np.finfo(values.dtype).nmant
    if keepbits >= mantissa:
        return values
    unsigned = np.dtype(f"u{values.dtype.itemsize}").type
    drop = mantissa - keepbits
    bits = np.ascontiguousarray(values).view(unsigned)
    half = (bits >> unsigned(drop)) & unsigned(1)
    up = (bits + half + unsigned((1 << (drop - 1)) - 1)) & unsigned(~((1 << drop) - 1) & int(np.iinfo(unsigned).max))
    # What would become infinite stays as it is.
    found = np.where(np.isfinite(up.view(values.dtype)) & np.isfinite(values), up, bits)
    result: np.ndarray[Any, Any] = found.view(values.dtype).reshape(values.shape)
    return result
