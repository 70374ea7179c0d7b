"""Run the notebooks of examples/ and compare what comes out with what is stored in them.

``python -m tests.notebooks`` runs them and writes them anew, with their outputs.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
#: folders of tempfile; what stands for them in a notebook that is stored
TEMPORARY = re.compile(r"/[\w/.-]*/tmp[a-z0-9_]{8}")
FOLDER = "/tmp/demo"
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
#: numbers differ in the last digits from one processor to another
TOLERANCE = 1e-3


def run(path: Path, folder: Path, setup: str = "", checks: str = "") -> Any:
    """The notebook after it ran in this folder; `setup` and `checks` are cells before and behind those that it has."""
    notebook = nbformat.read(path, as_version=4)
    cells = len(notebook.cells)
    for i, code in ((0, setup), (cells + 1, checks)):
        notebook.cells.insert(i, nbformat.v4.new_code_cell(code))
    found = os.environ.get("PYTHONPATH", "")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), found]))}
    options: dict[str, Any] = {"timeout": 1200, "startup_timeout": 600}  # seconds
    # Sockets have names of their own: a free port may be taken by another process before the kernel listens to it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as sockets:
        options["config"] = Config(KernelManager={"transport": "ipc", "ip": os.path.join(sockets, "k")})
        client = NotebookClient(
            notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **options
        )
        client.execute(env=env)
    del notebook.cells[cells + 1], notebook.cells[0]
    return notebook


def write(path: Path, folder: Path) -> None:
    """Run a notebook and store it with its outputs, and with nothing that differs the next time."""
    notebook = run(path, folder)
    number = 0
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = [_clean(output, number) for output in cell.outputs]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def _clean(output: Any, number: int) -> Any:
    if output.output_type == "stream":
        output.text = TEMPORARY.sub(FOLDER, output.text)
    else:
        output.metadata = {}
        output.data = {k: TEMPORARY.sub(FOLDER, v) if k.startswith("text") else v for k, v in output.data.items()}
    if output.output_type == "execute_result":
        output.execution_count = number
    return output


def texts(notebook: Any) -> list[list[tuple[str, str]]]:
    """What each code cell puts out: kinds, and the text of those that have one."""
    return [
        [(kind, text) for output in cell.outputs for kind, text in _of_output(output)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _of_output(output: Any) -> list[tuple[str, str]]:
    if output.output_type == "stream":
        return [(output.name, TEMPORARY.sub(FOLDER, output.text))]
    return [(k, TEMPORARY.sub(FOLDER, v) if k == "text/plain" else "") for k, v in sorted(output.data.items())]


def same(a: str, b: str) -> bool:
    """Whether two texts are the same but for spaces, and for the last digits of numbers."""
    first, second = NUMBER.sub("0", a).split(), NUMBER.sub("0", b).split()
    lined = [[word.strip("-") for word in words] for words in (first, second)]  # rules under headers
    numbers = [[float(x.replace(",", "")) for x in NUMBER.findall(text)] for text in (a, b)]
    return (
        [w for w in lined[0] if w] == [w for w in lined[1] if w]
        and len(numbers[0]) == len(numbers[1])
        and all(math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=1e-6) for x, y in zip(*numbers, strict=True))
    )


if __name__ == "__main__":
    for one in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as empty:
            write(one, Path(empty))
        print(f"{one.name}: {one.stat().st_size:,} bytes", file=sys.stderr)
