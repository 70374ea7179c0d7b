"""The files in which cuts are kept: bits per part, and counts of whole selections; their names and their checks.

A mask is named by the hash of its cut's canonical text and the layers that the cut reads in that part. Parts are
immutable, so a mask is never stale; parts that were appended or converted again have other layers, and only they are
computed. The text stands in the file and is compared on every hit. Files are written beside their place and renamed,
so that processes which compute the same cut at once do no harm; nothing here is part of a commit.

Of many small parts the masks of a cut stand together in few files, which its text names: `bundled` says when.

What all cuts of a selection leave of a store is in one more file, of which the name has the identity of all rows: how
many rows of each grain, and all bits if they are few. So a selection of 10,000 parts is one file to open.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.expr import SEMANTICS, Expression, canonical, parse
from mmdask.expr.tree import Logic
from mmdask.rows.bits import GRAIN, PartBits, RowBits, count_bits, first_grains
from mmdask.rows.cuts.keyed import is_keyed
from mmdask.rows.cuts.naming import renamed_tree
from mmdask.rows.cuts.sealed import SUM, read_sealed, sealed
from mmdask.rows.views.views import SnapshotView
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.files import is_own_folder, open_file
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import is_url
from mmdask.store.system import SYSTEM, write_atomically

__all__ = ["LOADED", "Kept", "Mask", "MaskFiles", "cache_folder", "make_folder", "read_kept", "warn_not_kept"]

_MASK = b"mmdask-mask 2\n"
_WHOLE = b"mmdask-rows 1\n"
_BUNDLE = b"mmdask-many 1\n"
#: bytes of the line of a file that says what it is
_MAX_HEAD = 16 << 20
#: bits of all parts stand together in one file if there are no more than these, and few of each part
_WHOLE_NBYTES, _PART_NBYTES = 32 << 20, 64 << 10
#: there are no more numbers in it than these
_MOST_GRAINS = 1 << 22
#: from so many files on, those that are there are listed before they are looked for
_MANY = 256
#: masks that stand together: those of parts with as many rows at most, and so many of them in one file
_SMALL_ROWS, _BUNDLED = 1 << 14, 1024
_BUNDLE_NBYTES = 64 << 20
#: head and body of a mask, as it was read, and as it will be written
_Found = tuple[dict[str, Any], npt.NDArray[np.uint8]]
_Pending = tuple[dict[str, Any], list[npt.NDArray[np.uint8]]]
#: cache folders of which it was said that they take nothing
_TOLD: set[str] = set()
#: masks that were read, by path: each chunk of a cut needs a piece of one
LOADED: Cache[Mask] = Cache(128 << 20)


class Mask(NamedTuple):
    """The rows of a part for which a cut is true, and those in which it is not missing; None if that was not asked."""

    true: PartBits
    known: PartBits | None = True

    @property
    def nbytes(self) -> int:
        return sum(0 if b is None or isinstance(b, bool) else b.nbytes for b in self)


class Kept(NamedTuple):
    """What the head of a kept file says: the cuts, their layers in a part, or the identity of the rows of a store.

    `readable`: whether cuts mean now what they meant when it was written.
    """

    cuts: tuple[str, ...]
    layers: dict[str, str] | None
    identity: str
    rows: int
    kept: int
    readable: bool


class MaskFiles:
    """The kept cuts of a store: in its cache folder if that is ours, else in the user's.

    Those of a view of several stores are with the store that each part is in; of all its parts together nothing is
    kept then.

    Parameters
    ----------
    snapshot : Snapshot
        The store, or the view.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._folders = {store.key: os.path.join(cache_folder(store), "masks") for store in snapshot.stores}
        self.folder = next(iter(self._folders.values()))
        self._one = len(self._folders) == 1
        self._names: set[str] | None = None
        #: masks that are still to be written, by folder and cut
        self._pending: dict[tuple[str, str], list[_Pending]] | None = None
        #: masks that stand together, by folder and cut, and by their text
        self._bundles: dict[tuple[str, str], dict[str, _Found]] = {}

    def _folder(self, part: int) -> str:
        return self.folder if self._one else self._folders[self.snapshot.home(part).key]

    def list(self) -> None:
        """Find out which files are there, for many questions; a file that comes later is not seen."""
        if self._names is None:
            names: set[str] = set()
            for above in itertools.product(set(self._folders.values()), [f"{i:02x}" for i in range(256)]):
                with contextlib.suppress(OSError):
                    names.update([os.path.join(*above, name) for name in os.listdir(os.path.join(*above))])
            self._names = names

    def list_for(self, n_files: int) -> None:
        """`list` if it is worth it for so many files."""
        if n_files > _MANY:
            self.list()

    # Masks of parts -------------------------------------------------------------------------------------------------

    def text(self, part: int, cut: Expression) -> str:
        """What a mask is: the meaning of cuts, the cut, and the layers that it reads in a part."""
        return self._texts(part, cut)[0]

    def _texts(self, part: int, cut: Expression) -> tuple[str, str]:
        """What a mask is, and the text of its cut."""
        snapshot, number, names = _below(self.snapshot, part, cut.fields)
        ids = snapshot.parts[number].layers
        if not cut.fields:
            # A cut from outside that may have read anything.
            layers = {str(i): layer for i, layer in enumerate(ids)} if is_keyed(cut) else {}
        elif len(ids) == 1 and not isinstance(snapshot, SnapshotView):
            layers = dict.fromkeys(names.values(), ids[0])
        else:
            layers = {name: snapshot.stored(number, name)[0].id for name in names.values()}
        same = all(name == below for name, below in names.items())
        text = cut.canonical if same else canonical(renamed_tree(cut.tree, names))
        return json.dumps({"semantics": SEMANTICS, "cut": text, "layers": layers}, sort_keys=True), text

    def _path(self, folder: str, text: str, ending: str) -> str:
        name = xxhash.xxh3_128_hexdigest(text.encode())
        return os.path.join(folder, name[:2], name + ending)

    def there(self, part: int, cut: Expression) -> bool:
        """Whether there is a file for a mask, whatever is in it."""
        text, of_cut = self._texts(part, cut)
        path = self._path(self._folder(part), text, ".mask")
        there = path in self._names if self._names is not None else os.path.lexists(path)
        return there or text in self._bundled(self._folder(part), of_cut)

    def load(self, part: int, cut: Expression) -> Mask | None:
        """A kept mask, if it is whole and is what its name says."""
        text, of_cut = self._texts(part, cut)
        path = self._path(self._folder(part), text, ".mask")
        mask = LOADED.get(path)
        if mask is None:
            rows = self.snapshot.parts[part].rows
            found = None
            if self._names is None or path in self._names:
                found = self._read(path, _MASK, text, 2 * -(-rows // 8))
            if found is None and rows <= _SMALL_ROWS:
                found = self._bundled(self._folder(part), of_cut).get(text)
            mask = None if found is None else self._checked(*found, rows)
            if mask is not None:
                LOADED.put(path, mask, mask.nbytes + 512)
        return mask

    def _checked(self, head: dict[str, Any], body: npt.NDArray[np.uint8], rows: int) -> Mask | None:
        """The mask of head and body, if they are right for so many rows."""
        n = -(-rows // 8)
        pieces: list[PartBits | None] = []
        for key in ("true", "known"):
            kind = head.get(key)
            if kind == "bits":
                bits, body = body[:n], body[n:]
                if len(bits) != n or (rows % 8 and bits[-1] >> rows % 8):
                    return None
                pieces.append(bits)
            elif kind is None or isinstance(kind, bool):
                pieces.append(kind)
            else:
                return None
        true, known = pieces
        if true is None:
            return None
        mask = Mask(true, known)
        right = head.get("rows") == rows and head.get("kept") == _n_rows(mask.true, rows) and not len(body)
        return mask if right else None

    def save(self, part: int, cut: Expression, mask: Mask, kept: int) -> None:
        """Keep a mask, true for `kept` rows. A disk that takes nothing is a warning: the cut is computed, and works."""
        rows = self.snapshot.parts[part].rows
        text, of_cut = self._texts(part, cut)
        kinds = {k: b if b is None or isinstance(b, bool) else "bits" for k, b in mask._asdict().items()}
        body = [b for b in mask if isinstance(b, np.ndarray)]
        path = self._path(self._folder(part), text, ".mask")
        LOADED.discard(path)
        if not self.snapshot.home(part).on_disk:
            LOADED.put(path, mask, mask.nbytes + 512)
            return
        head = {"rows": rows, "kept": kept, **kinds, "text": text}
        if self._pending is None or rows > _SMALL_ROWS:
            self._write(path, _MASK, head, body)
            return
        key = self._folder(part), of_cut
        some = self._pending.setdefault(key, [])
        some.append((head, body))
        if len(some) == _BUNDLED:
            self._write_bundle(*key, self._pending.pop(key))

    # Masks of many parts --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def bundled(self, n_parts: int) -> Iterator[None]:
        """While this lasts, masks of so many parts stand together where parts are small and many.

        However it ends, what was saved is written.
        """
        if n_parts <= _MANY:
            yield
            return
        self._pending = {}
        try:
            yield
        finally:
            pending, self._pending = self._pending, None
            for key, some in pending.items():
                self._write_bundle(*key, some)

    def _bundle_path(self, folder: str, of_cut: str, content: str) -> str:
        name = xxhash.xxh3_128_hexdigest(json.dumps(["many", SEMANTICS, of_cut]).encode())
        return os.path.join(folder, name[:2], f"{name}-{content}.masks")

    def _write_bundle(self, folder: str, of_cut: str, some: Sequence[_Pending]) -> None:
        heads = [{**head, "nbytes": sum(b.nbytes for b in body)} for head, body in some]
        texts = "\n".join([head["text"] for head in heads])
        path = self._bundle_path(folder, of_cut, xxhash.xxh3_64_hexdigest(texts.encode()))
        text = json.dumps({"semantics": SEMANTICS, "cut": of_cut})
        self._write(path, _BUNDLE, {"text": text, "masks": heads}, [b for _, body in some for b in body])
        self._bundles.pop((folder, of_cut), None)

    def _bundled(self, folder: str, of_cut: str) -> dict[str, _Found]:
        """Heads and bodies of the masks of a cut that stand together, by their texts; looked for once."""
        found = self._bundles.get((folder, of_cut))
        if found is None:
            found = {}
            above, name = os.path.split(self._bundle_path(folder, of_cut, ""))
            text = json.dumps({"semantics": SEMANTICS, "cut": of_cut})
            with contextlib.suppress(OSError):
                for file in os.listdir(above):
                    if file.startswith(name.removesuffix(".masks")) and file.endswith(".masks"):
                        read = self._read(os.path.join(above, file), _BUNDLE, text, _BUNDLE_NBYTES)
                        found |= {} if read is None else _each_of(*read)
            self._bundles[folder, of_cut] = found  # now that it is whole
        return found

    # Whole selections -----------------------------------------------------------------------------------------------

    def _whole_text(self, cuts: Sequence[Expression]) -> str:
        texts = sorted({cut.canonical for cut in cuts})
        return json.dumps({"semantics": SEMANTICS, "cuts": texts, "rows": self.snapshot.identity}, sort_keys=True)

    def load_whole(self, cuts: Sequence[Expression], load: Callable[[int], PartBits]) -> RowBits | None:
        """The rows that pass all of some cuts, if that is kept; `load` gives the bits of a part that are not in it."""
        if not self._one:
            return None
        text = self._whole_text(cuts)
        starts = self.snapshot.starts
        first = first_grains(starts)
        found = self._read(self._path(self.folder, text, ".rows"), _WHOLE, text, 4 * int(first[-1]) + _WHOLE_NBYTES)
        if found is None:
            return None
        head, body = found
        size = 4 * int(first[-1])
        if len(body) < size:
            return None
        grains = body[:size].view("<u4")
        sums = np.zeros(len(grains) + 1, np.int64)
        np.cumsum(grains, out=sums[1:])
        at = sums[first]
        rows, counts = starts[1:] - starts[:-1], at[1:] - at[:-1]
        if (counts > rows).any() or head.get("kept") != int(sums[-1]):
            return None
        some = (counts > 0) & (counts < rows)
        parts = np.array([False, True, None])[np.where(some, 2, counts > 0)].tolist()
        ends = np.cumsum(-(-rows // 8) * some)
        bits = body[size:]
        if len(bits) not in (0, int(ends[-1]) if len(ends) else 0):
            return None

        def of_part(part: int) -> PartBits:
            n = int(rows[part])
            found = bits[ends[part] - -(-n // 8) : ends[part]]
            sound = count_bits(found) == counts[part] and not (n % 8 and found[-1] >> n % 8)
            return found if sound else load(part)

        return RowBits(starts, parts, grains=grains, counts=counts, load=of_part if len(bits) else load)

    def save_whole(self, cuts: Sequence[Expression], rows: RowBits) -> None:
        """Keep the rows that pass all of some cuts."""
        kept = self._one and self.snapshot.stores[0].on_disk
        if not kept or self.snapshot.rows // GRAIN + len(rows.parts) > _MOST_GRAINS:
            return
        text = self._whole_text(cuts)
        some = [bits for bits in rows.parts if isinstance(bits, np.ndarray)]
        nbytes = sum(bits.nbytes for bits in some)
        if nbytes > min(_WHOLE_NBYTES, _PART_NBYTES * len(some)):
            some = []
        grains = rows.grains  # first, for the counts follow from them
        body = [grains.astype("<u4").view(np.uint8), *some]
        head = {"rows": self.snapshot.rows, "kept": len(rows), "parts": len(rows.parts), "text": text}
        self._write(self._path(self.folder, text, ".rows"), _WHOLE, head, body)

    # Files ----------------------------------------------------------------------------------------------------------

    def _read(
        self, path: str, magic: bytes, text: str, most: int
    ) -> tuple[dict[str, Any], npt.NDArray[np.uint8]] | None:
        """Head and body of a file, if its checksum and its text are right."""
        above, name = os.path.split(path)
        folder, above = os.path.split(above)
        start = len(magic) + SUM
        data = read_sealed(magic, most + start + 4 * len(text) + 1024, folder, above, name)
        if data is None:
            return None
        end = data.find(b"\n", start)
        head = _parsed(data[start:end]) if end > 0 else None
        if head is None or head.get("text") != text:
            return None
        return head, np.frombuffer(data, np.uint8, offset=end + 1)

    def _write(self, path: str, magic: bytes, head: dict[str, Any], body: Sequence[npt.NDArray[Any]]) -> None:
        above = os.path.dirname(path)
        folder, name = os.path.split(above)
        try:
            if not is_own_folder(folder, name):
                raise OSError(errno.ELOOP, "a link, which is not followed in a store")
            make_folder(above)
            # What a power loss makes of it is found by its checksum, and computed again.
            write_atomically(path, sealed(magic, [json.dumps(head).encode() + b"\n", *body]), durable=False)
        except OSError as error:
            warn_not_kept(os.path.dirname(folder), error)


def _below(snapshot: Snapshot, part: int, names: Sequence[str]) -> tuple[Snapshot, int, dict[str, str]]:
    """Whose fields of which part these are, with their names there: of a view those of a store, if all are of one."""
    found = [snapshot.source(part, name) for name in names]
    places = [(base, number) for base, number, _ in found]
    if not found or any(place != places[0] for place in places):
        return snapshot, part, {name: name for name in names}
    return *places[0], {name: below for name, (_, _, below) in zip(names, found, strict=True)}


def _each_of(head: dict[str, Any], body: npt.NDArray[np.uint8]) -> dict[str, _Found]:
    """Heads and bodies of a file of many masks, by their texts; none if it is not one."""
    found = {}
    at = 0
    heads = head.get("masks")
    for one in heads if isinstance(heads, list) else ():
        n = one.get("nbytes") if isinstance(one, dict) else None
        if type(n) is not int or not 0 <= n <= len(body) - at or not isinstance(one.get("text"), str):
            return {}
        found[one["text"]] = one, body[at : at + n]
        at += n
    return found if at == len(body) else {}


def _n_rows(bits: PartBits, rows: int) -> int:
    return rows * bits if isinstance(bits, bool) else count_bits(bits)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def make_folder(path: str) -> None:
    """Make a folder and those above it, unless they are there."""
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(path)


def read_kept(path: str) -> list[Kept]:
    """What a kept file says it is, of many masks each; nothing when it is none, or damaged.

    Reads its head alone; no link is followed.
    """
    try:
        with open(open_file(os.path.dirname(path), os.path.basename(path)), "rb") as file:
            magic = file.read(len(_MASK))
            if magic not in (_MASK, _WHOLE, _BUNDLE):
                return []
            file.read(SUM)
            head = json.loads(file.readline(_MAX_HEAD))
            return [_kept_of(one, whole=magic == _WHOLE) for one in (head["masks"] if magic == _BUNDLE else [head])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _kept_of(head: Any, *, whole: bool) -> Kept:
    text = json.loads(head["text"])
    numbers = head["rows"], head["kept"]
    readable = text["semantics"] == SEMANTICS
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError("these are no numbers of rows")
    if whole:
        return Kept(tuple(map(str, text["cuts"])), None, str(text["rows"]), *numbers, readable)
    layers = {str(name): str(layer) for name, layer in text["layers"].items()}
    return Kept(_joined_once(text["cut"]), layers, "", *numbers, readable)


@lru_cache(maxsize=64)
def _joined_once(text: str) -> tuple[str, ...]:
    return _joined(text)


def _joined(text: str) -> tuple[str, ...]:
    """The cuts that a cut joins by "and", in the order of their texts; itself if it joins none."""
    tree = parse(text)
    if isinstance(tree, Logic) and tree.op == "and":
        return tuple(sorted(map(canonical, tree.args)))
    return (text,)


def warn_not_kept(above: str, error: OSError) -> None:
    """Say, once for a cache folder, that nothing can be kept there."""
    if above not in _TOLD:
        _TOLD.add(above)
        message = f"what was computed could not be kept in {above}, and will be computed again: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def cache_folder(snapshot: Snapshot) -> str:
    """Where computed things about a store are kept: in it if it is this user's, else in the user's cache.

    Bits that others could have written decide what passes a cut, so they are not read. Where there is no store, it is
    a folder that cannot be.
    """
    if not snapshot.on_disk:
        return os.path.join(os.devnull, snapshot.manifest.uuid)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    mine_alone = os.path.join(home, "mmdask", snapshot.manifest.uuid)
    if is_url(snapshot.path):
        return mine_alone  # whose the objects behind a URL are is not known
    inside = os.path.join(snapshot.path, "cache")
    owner = inside if os.path.lexists(inside) else snapshot.path
    try:
        mine = os.stat(owner, follow_symlinks=False).st_uid == os.getuid() and os.access(owner, os.W_OK)
    except OSError:
        mine = False
    if mine and is_own_folder(snapshot.path, "cache", "masks"):
        return inside
    return mine_alone
