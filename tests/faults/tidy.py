"""Which files belong to a store: found from its JSON alone, as a stranger to the package would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import xxhash

from tests.faults.content import Wrong

HEADER = 4096


def memory_folder() -> str | None:
    """A folder in memory, if there is one with room: that of a container may have 64 MB."""
    if not os.access("/dev/shm", os.W_OK):
        return None
    found = os.statvfs("/dev/shm")
    return "/dev/shm" if found.f_bavail * found.f_frsize >= 2 << 30 else None


@contextlib.contextmanager
def scratch(above: str | None = None) -> Iterator[str]:
    """A new folder, by default where temporary files are, that is removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="mmdask-faults-", dir=above) as folder:
        yield folder


def load(path: str) -> dict[str, Any]:
    """A document of a store."""
    with open(path, "rb") as file:
        document: dict[str, Any] = json.load(file)
    return document


def named_layers(manifest: dict[str, Any]) -> set[str]:
    """Ids of the layers that a manifest names."""
    parts = {layer for layers in manifest["parts"]["layers"] for layer in layers}
    return parts | set(manifest.get("aux", {}).get("layers", []))


def names(path: str) -> set[str]:
    """Every file below a folder, and every folder (with a `/`)."""
    found = set()
    for folder, folders, files in os.walk(path):
        inside = os.path.relpath(folder, path)
        for name in [*files, *(f"{f}/" for f in folders)]:
            found.add(name if inside == "." else f"{inside}/{name}")
    return found


def left_over(path: str) -> list[str]:
    """Files and folders in a store that belong to no generation."""
    newest = load(os.path.join(path, "manifest.json"))
    past = [n for n in os.listdir(os.path.join(path, "history")) if re.fullmatch(r"\d{8,}\.json", n)]
    past = [n for n in past if int(n[:-5]) <= newest["generation"]]
    layers = set.union(*[named_layers(load(os.path.join(path, "history", n))) for n in past], named_layers(newest))
    known = {"manifest.json", ".lock", "conversion.json", "history/", "parts/", *(f"history/{n}" for n in past)}
    known |= {"zarr.json"} if "zarr" in newest else set()
    for layer in layers:
        arrays = load(os.path.join(path, "parts", layer, "part.json"))["arrays"]
        known |= {f"parts/{layer}/", f"parts/{layer}/part.json"}
        known |= {f"parts/{layer}/zarr.json"} if "zarr" in newest else set()
        for array in arrays:
            for file in files_of(array):
                above = file.split("/")[:-1]
                known |= {f"parts/{layer}/{file}"}
                known |= {f"parts/{layer}/{'/'.join(above[: i + 1])}/" for i in range(len(above))}
            known |= {f"parts/{layer}/{array['file']}/{name}" for name in ("", "zarr.json") if "zarr" in array}
    return sorted(n for n in names(path) - known if not n.startswith("cache/"))


def files_of(array: dict[str, Any]) -> dict[str, list[str]]:
    """The files of an array of a layer: those with its data, each with the hashes of its bytes."""
    if "zarr" not in array:
        return {array["file"]: array["checksums"]}
    rest = "/0" * (len(array["shape"]) - 1)
    return {f"{array['file']}/c/{i}{rest}": [found] for i, found in enumerate(array["zarr"]["hashes"])}


def check_tidy(path: str) -> None:
    """Raise `Wrong` if anything is in a store that belongs to no generation."""
    if left := left_over(path):
        raise Wrong(f"left over after vacuum: {', '.join(left)}")


def check_layers_whole(path: str) -> None:
    """Raise `Wrong` unless every folder with the name of a layer is a whole layer."""
    folder = os.path.join(path, "parts")
    for layer in os.listdir(folder) if os.path.isdir(folder) else ():
        if ".tmp-" in layer:
            continue
        inside = os.path.join(folder, layer)
        try:
            arrays = load(os.path.join(inside, "part.json"))["arrays"]
            for array in arrays:
                for name, expected in files_of(array).items():
                    with open(os.path.join(inside, name), "rb") as file:
                        data = file.read()[0 if "zarr" in array else HEADER :]
                    sums = [xxhash.xxh3_64_hexdigest(data[i : i + (4 << 20)]) for i in range(0, len(data), 4 << 20)]
                    if sums != expected:
                        raise Wrong(f"parts/{layer}/{name} is not what part.json says")
        except (OSError, ValueError, KeyError) as error:
            raise Wrong(f"parts/{layer} has the name of a layer, and is none: {error!r}") from None
