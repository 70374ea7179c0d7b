"""Stores from strangers: an error of mmdask, soon, in bounded memory, and nothing outside of the store is touched.

All are tried in one process of their own, with little memory to spare; here it is looked at what came of each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmdask
from tests.store.hostile_cases import CASES
from tests.store.hostile_run import OPERATIONS

ROOT = Path(mmdask.__file__).parent
#: of processor time, for one operation that takes a few tenths of one
SECONDS = 10.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "tests.store.hostile_run", str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, timeout=1800)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return {result["case"]: result for result in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(outcomes, case):
    """§2.19 §3.12 §4.2 §5.3 §5.5 §5.6 §7.3 §8.1 §8.2 §8.3 §8.4 §8.5 §8.6."""
    result = outcomes[case.name]
    assert result["wrong"] == []
    assert {name: s for name, s in result["seconds"].items() if s > SECONDS} == {}
    assert set(result["seconds"]) == set(case.only or OPERATIONS)
    if case.says:
        assert any(re.search(case.says, error) for error in result["errors"].values()), result["errors"]
    else:
        assert result["errors"] == {}


def test_damage_is_an_error_where_it_is_read(outcomes):
    """§8.4: not only where the store is checked."""
    lies = [c.name for c in CASES if re.match("offsets-of-|shapes-|codes-|text-that|validity-of-other", c.name)]
    assert len(lies) > 25
    silent = [name for name in lies if not {"fields", "rows"} & set(outcomes[name]["errors"])]
    # Where the first offset of a part is too small, or the last too large, rows that are not there are not read.
    assert [name for name in silent if not re.search("before-the-beginning|beyond-the-end|overflow", name)] == []


def test_nothing_is_unpickled_or_run():
    """§8.3: there is no code that would do so with what is in a store."""
    calls = re.compile(r"\b(pickle\.loads?|marshal\.|eval|exec|__import__)\(|allow_pickle=True|\byaml\b")
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in ROOT.rglob("*.py")
        if path.parent.name != "testing"
        for match in calls.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()
