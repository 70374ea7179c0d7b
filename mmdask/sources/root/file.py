"""Open ROOT files: what is damaged or no ROOT file is told before anything is read; keys and cycles lead to a tree."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdask.errors import SourceError, SourceNotFoundError, did_you_mean
from mmdask.sources.address import public_address
from mmdask.sources.converting.inputs import Input
from mmdask.sources.remote import is_remote, read_header, remote_state
from mmdask.sources.root.local import local_source
from mmdask.sources.root.server import remote_source

__all__ = ["DAMAGED", "PRELIMINARY", "TREES", "brief", "classes_of", "open_file", "open_tree", "tree_names"]

#: where the first object of a ROOT file begins
HEADER_NBYTES = 100
#: trees of which the rows are looked up for a message
_MOST_OPENED = 40

DAMAGED = "damaged, or of a form that uproot does not read"
#: a TNtuple is a TTree of floats; an RNTuple has nothing to do with it
TREES = frozenset({"TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple"})
PRELIMINARY = frozenset({"ROOT::Experimental::RNTuple"})


@contextlib.contextmanager
def open_tree(source: Input) -> Iterator[tuple[Any, str]]:
    """The TTree or RNTuple of an input, and its name within the file."""
    with open_file(source.location) as file:
        key = _tree_key(file, source)
        try:
            tree = file[key]
        except Exception as error:
            raise _unread(source.path, error, f"the tree {key!r}") from error
        named_cycle = ";" in source.tree
        yield tree, (key if named_cycle else key.rpartition(";")[0])


def open_file(path: str) -> Any:
    """The file at a path or address, as uproot opens it, which learns no more of an address than may be shown."""
    import uproot

    _check_header(path)
    # A mapping, so that uproot does not look for a tree in the path; no caches, which would hold what was read.
    handler = remote_source(path) if is_remote(path) else local_source()
    options = {"handler": handler, "array_cache": None, "object_cache": None}
    shown = public_address(path) if is_remote(path) else path
    try:
        return uproot.open({shown: None}, **options)
    except Exception as error:
        raise _unread(shown, error, "its header or list of objects") from error


def _check_header(path: str) -> None:
    """Raise for a file that is gone, is no ROOT file, or is shorter than its header says."""
    try:
        if is_remote(path):
            (size, _), header = remote_state(path), read_header(path, HEADER_NBYTES)
        else:
            size = os.path.getsize(path)
            with open(path, "rb") as f:
                header = f.read(HEADER_NBYTES)
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path}: the file is gone") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    path = public_address(path) if is_remote(path) else path
    if header[:4] != b"root":
        what = f"it begins with {header[:4]!r} and not with b'root'" if size else "an empty file"
        raise SourceError(f"{path}: not a ROOT file: {what}")
    if len(header) < HEADER_NBYTES:
        raise SourceError(f"{path}: truncated: {size} bytes, and the header alone has {HEADER_NBYTES}")
    (version,) = struct.unpack_from(">i", header, 4)
    # fEND, which has 8 bytes in files that may grow beyond 2 GiB
    (end,) = struct.unpack_from(">q" if version >= 1_000_000 else ">i", header, 12)
    if end > size:
        raise SourceError(f"{path}: truncated: {size} bytes, its header says {end}")


def _tree_key(file: Any, source: Input) -> str:
    """The key of the tree, with its cycle: as named, or the only one."""
    classes = classes_of(file, source.path)
    trees = [key for key, name in classes.items() if name in TREES]
    highest = _highest(trees)
    names = sorted(highest)
    if not source.tree and len(highest) > 1:
        names = _by_rows(file, highest)
    listing = f"its trees are: {', '.join(names)}" if names else "it holds no TTree or RNTuple"
    if others := sorted({k.rpartition(";")[0] for k, name in classes.items() if name in PRELIMINARY}):
        listing += (
            f" (and {', '.join(others)}, RNTuple of a format before its first release, which uproot does not read; "
            "write it again with ROOT 6.34 or newer)"
        )
    if source.tree:
        wanted = source.tree.strip("/")
        if wanted in trees:
            return wanted
        if wanted in highest:
            return highest[wanted]
        name = wanted.rpartition(";")[0]
        if cycles := sorted(
            (int(key.rpartition(";")[2]) for key in trees if key.rpartition(";")[0] == name), reverse=True
        ):
            some = ", ".join(f"{name};{cycle}" for cycle in cycles)
            raise SourceError(f"{source.path}: no tree {source.tree!r}: of {name!r} there {_is_are(cycles)} {some}")
        if fit := fnmatch.filter(names, wanted):
            some = ", ".join(fit[:20])
            raise SourceError(f"{source.path}: no tree {source.tree!r}; name one of those that fit: {some}")
        raise SourceError(f"{source.path}: no tree {source.tree!r}{_near(wanted, highest)} ({listing})")
    if len(highest) != 1:
        example = f"; name one, as in '{os.path.basename(source.path)}:{names[0]}'" if names else ""
        raise SourceError(f"{source.path}: {listing}{example}")
    return next(iter(highest.values()))


def _is_are(several: Sequence[object]) -> str:
    return "are" if len(several) > 1 else "is"


def _near(wanted: str, names: Collection[str]) -> str:
    """The names nearest to one, also to that of a tree without its folder."""
    if near := did_you_mean(wanted, names):
        return near
    last = {name.rpartition("/")[2]: name for name in names}
    found = [name for short, name in last.items() if repr(short) in did_you_mean(wanted, last)]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def tree_names(path: str) -> list[str]:
    """The trees of a file, with their folders and without cycles, in their order.

    Raises
    ------
    SourceError
        When it is no ROOT file, or damaged.
    """
    with open_file(path) as file:
        return list(_highest(key for key, name in classes_of(file, file.file_path).items() if name in TREES))


def classes_of(file: Any, path: str) -> dict[str, str]:
    """The class of every object, by key, in folders too."""
    try:
        classes: dict[str, str] = file.classnames(recursive=True)
    except Exception as error:
        raise _unread(path, error, "its list of objects") from error
    return classes


def _unread(path: str, error: Exception, what: str) -> SourceError:
    """What to raise for an error of uproot, or of the system or a server below it."""
    if isinstance(error, OSError) and error.errno is not None:
        return SourceError(f"{path}: {what} cannot be read: {error.strerror}")
    return SourceError(f"{path}: damaged: {what} cannot be read {brief(error)}")


def _highest(keys: Iterable[str]) -> dict[str, str]:
    """The key of the highest cycle, by name."""
    highest: dict[str, str] = {}
    for key in keys:
        name, _, cycle = key.rpartition(";")
        if name not in highest or int(cycle) > int(highest[name].rpartition(";")[2]):
            highest[name] = key
    return highest


def _by_rows(file: Any, trees: Mapping[str, str]) -> list[str]:
    """Names of trees, those with most rows first; as in the file where they have equally many."""
    rows = {}
    for name in list(trees)[:_MOST_OPENED]:
        # for a message only: a tree that cannot be read comes last
        with contextlib.suppress(Exception):
            rows[name] = int(file[trees[name]].num_entries)
    return sorted(trees, key=lambda name: -rows.get(name, -1))


def brief(error: BaseException) -> str:
    """What uproot says, in brackets: the first line of its message, which often ends within a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0].rstrip(" ,;:") if lines else ""
    text = text if len(text) <= 200 else text[:197] + "..."
    return f"(uproot: {type(error).__name__}{': ' * bool(text)}{text})"
