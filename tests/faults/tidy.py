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
    """A folder in memory, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


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
    for layer in layers:
        arrays = load(os.path.join(path, "parts", layer, "part.json"))["arrays"]
        known |= {f"parts/{layer}/", f"parts/{layer}/part.json", *(f"parts/{layer}/{a['file']}" for a in arrays)}
    return sorted(n for n in names(path) - known if not n.startswith("cache/"))


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
                with open(os.path.join(inside, array["file"]), "rb") as file:
                    data = file.read()[HEADER:]
                sums = [xxhash.xxh3_64_hexdigest(data[i : i + (4 << 20)]) for i in range(0, len(data), 4 << 20)]
                if sums != array["checksums"]:
                    raise Wrong(f"parts/{layer}/{array['file']} is not what part.json says")
        except (OSError, ValueError, KeyError) as error:
            raise Wrong(f"parts/{layer} has the name of a layer, and is none: {error!r}") from None
