"""Imports go down only, and never in circles. Reads every import of the package, also those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmdask

PACKAGE = Path(mmdask.__file__).parent

#: from the bottom; a module may import from lower lines only, so those of one line never import each other
LAYERS = (
    ("errors",),
    ("display", "short"),
    ("schema", "kernels"),
    ("store", "expr"),
    ("rows",),
    ("batches", "sources", "export"),
    ("dataset",),
    ("demo", "testing"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}
#: the public names, resolved when asked for; may name everything, and only the top imports it
FACE = "__init__"
DASK = ("dask", "distributed")
MAY_USE_DASK = ("dataset", "demo", "testing", "cli", "__main__")
MAY_USE_FACE = ("demo", "testing", "cli", "__main__")
#: modules that need each other: `Ragged.map` may give `Records`, and a member of those is `Ragged`
TOGETHER = {"mmdask.dataset.lists.ragged", "mmdask.dataset.lists.records"}


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports; `package` is the one it lies in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(root: Path) -> list[str]:
    """What breaks the layers in the package at `root`, one line each."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit, where = parts[0], path.relative_to(root).as_posix()
        if unit == FACE:
            continue
        if unit not in HEIGHT:
            found.append(f"{where}: not in the table of layers")
            continue
        package = ".".join([root.name, *parts[:-1]])
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            problem = judge(unit, name.split("."), root.name)
            if problem:
                found.append(f"{where}:{line}: {unit} imports {name}: {problem}")
    return found


def judge(unit: str, name: list[str], root: str) -> str:
    if name[0] in DASK and unit not in MAY_USE_DASK:
        return f"dask is for {', '.join(MAY_USE_DASK)}"
    if name[0] != root:
        return ""
    target = name[1] if len(name) > 1 else FACE
    if target not in HEIGHT:
        return "" if unit in MAY_USE_FACE or target == "__version__" else f"the public names of {root} are for the top"
    if target != unit and HEIGHT[target] >= HEIGHT[unit]:
        return "imports go down only"
    return ""


def arrows(root: Path) -> dict[str, set[str]]:
    """Which modules each module imports, by their dotted names; the public names are left out."""
    paths = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join([root.name, *(parts[:-1] if parts[-1] == FACE else parts)])] = path
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module if path.stem == FACE else module.rpartition(".")[0]
        names = [name for _, name in imported(ast.parse(path.read_text(encoding="utf-8")), package)]
        found[module] = {name if name in paths else name.rpartition(".")[0] for name in names} - {root.name, module}
    del found[root.name]
    return found


def circles(root: Path) -> list[set[str]]:
    """Modules of which each imports the others, directly or through others."""
    known = arrows(root)

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        todo = [module]
        while todo:
            new = known.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    below = {module: reached(module) for module in known}
    found: list[set[str]] = []
    for module in sorted(m for m in known if m in below[m]):
        if not any(module in circle for circle in found):
            found.append({other for other in below[module] if module in below.get(other, ())})
    return found


def test_layers() -> None:
    assert violations(PACKAGE) == []


def test_no_circles() -> None:
    assert [circle for circle in circles(PACKAGE) if circle != TOGETHER] == []


def test_finds_a_planted_circle(tmp_path: Path) -> None:
    for path, code in {
        "__init__.py": "from mmdask.rows import a",
        "rows/__init__.py": "",
        "rows/a.py": "from mmdask.rows import b\nfrom mmdask import __version__",
        "rows/b.py": "def f():\n    from ..rows.c.d import D",
        "rows/c/__init__.py": "from mmdask.rows.c.d import D",
        "rows/c/d.py": "if TYPE_CHECKING:\n    from mmdask.rows.a import A",
        "rows/e.py": "import mmdask.rows.a\nfrom mmdask.rows.c import D",
    }.items():
        file = tmp_path / "mmdask" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
    assert circles(tmp_path / "mmdask") == [{"mmdask.rows.a", "mmdask.rows.b", "mmdask.rows.c.d"}]


def test_reads_the_real_package() -> None:
    seen = {
        name
        for path in PACKAGE.rglob("*.py")
        for _, name in imported(ast.parse(path.read_text(encoding="utf-8")), "mmdask")
    }
    assert {"numpy", "mmdask.errors.SchemaError", "numba"} <= seen


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("errors.py", "from mmdask import schema"),
        ("schema.py", "import mmdask.store.layer"),
        ("display.py", "import mmdask.schema as s"),
        ("display.py", "from mmdask.kernels import jit"),
        ("kernels/jit.py", "def f():\n    from mmdask.store import layer"),
        ("store/layer.py", "from mmdask.expr.tree import Node"),
        ("expr/tree.py", "from ..store import layer"),
        ("expr/tree.py", "from ..store.layer import Layer"),
        ("rows/rows.py", "from mmdask import batches"),
        ("rows/rows.py", "if TYPE_CHECKING:\n    from mmdask.dataset.dataset import Dataset"),
        ("batches/ordering/order.py", "class A:\n    def f(self):\n        import mmdask.sources.root"),
        ("sources/root.py", "import importlib\nimportlib.import_module('mmdask.batches')"),
        ("sources/root.py", "__import__('mmdask.dataset')"),
        ("dataset/cuts/cut.py", "from mmdask.cli import main"),
        ("demo.py", "from mmdask import cli"),
        ("dataset/dataset.py", "def f():\n    import mmdask.testing"),
        ("batches/loader.py", "import dask.array as da"),
        ("store/layer.py", "def f():\n    from dask import delayed"),
        ("rows/rows.py", "from distributed import get_worker"),
        ("batches/loader.py", "import mmdask as mm"),
        ("sources/root.py", "from mmdask import open"),
        ("stray.py", ""),
    ],
)
def test_finds_a_planted_violation(tmp_path: Path, path: str, code: str) -> None:
    file = tmp_path / "mmdask" / path
    file.parent.mkdir(parents=True)
    file.write_text(code, encoding="utf-8")
    found = violations(tmp_path / "mmdask")
    assert len(found) == 1
    assert found[0].startswith(path)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("__init__.py", "import importlib\nimportlib.import_module('mmdask.dataset.dataset')\nimport dask"),
        (
            "store/layer.py",
            "from mmdask.store.arrays.npy import open_array\nfrom . import npy\nfrom ..schema import Field",
        ),
        ("store/layer.py", "import numpy\nfrom mmdask.kernels.jit import Kernel\nfrom mmdask import errors"),
        ("batches/loader.py", "from mmdask import __version__\nfrom mmdask.rows.rows import Rows\nimport daskless"),
        ("dataset/dataset.py", "import dask\nfrom mmdask import batches, sources, store"),
        ("cli.py", "import mmdask as mm\nfrom mmdask import demo, open\nimport dask"),
        ("testing/disk.py", "import mmdask as mm\nfrom mmdask.rows.rows import Rows\nimport dask, pytest"),
    ],
)
def test_lets_the_rest_pass(tmp_path: Path, path: str, code: str) -> None:
    file = tmp_path / "mmdask" / path
    file.parent.mkdir(parents=True)
    file.write_text(code, encoding="utf-8")
    assert violations(tmp_path / "mmdask") == []
