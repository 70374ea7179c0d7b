"""The examples of the format: what is valid is read, what is not is refused, in the words of the file beside it.

They are for whoever writes or reads stores by other means, so these tests only read them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mmdask as mm
from mmdask.store.manifest import parse_manifest
from tests.format.make_examples import examples, parse, schema, verdict

HERE = Path(__file__).parent
VALID = sorted(HERE.glob("valid/*/*.json"))
INVALID = sorted(HERE.glob("invalid/*/*.json"))


def name(path):
    return path.relative_to(HERE).with_suffix("").as_posix()


@pytest.mark.parametrize("path", VALID, ids=name)
def test_valid(path):
    kind = path.parent.name
    parse(kind, path.read_bytes())
    schema(kind).validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize("path", INVALID, ids=name)
def test_invalid(path):
    assert verdict(path.parent.name, path.read_bytes()) == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_the_examples_are_those_of_the_script():
    made = {f"{'valid' if v else 'invalid'}/{kind}/{which}": data for v, kind, which, data in examples()}
    assert {name(p): p.read_bytes() for p in (*VALID, *INVALID)} == made
    assert {p.with_suffix("") for p in HERE.glob("invalid/*/*.txt")} == {p.with_suffix("") for p in INVALID}


def test_what_schemas_can_refuse():
    """They refuse most of what is wrong, and nothing that is right."""
    said = [p.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[-1] for p in INVALID]
    refused = said.count("schema: refuses it, too")
    assert refused > 2 * said.count("schema: cannot see that")
    golden = HERE / "golden-1.store"
    for kind, pattern in (("manifest", "manifest.json"), ("manifest", "history/*"), ("part", "parts/*/part.json")):
        for path in golden.glob(pattern):
            schema(kind).validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize("path", [p for p in INVALID if p.parent.name == "manifest"], ids=name)
def test_open_refuses_an_invalid_manifest(path, tmp_path):
    shutil.copy(path, tmp_path / "manifest.json")
    said = path.with_suffix(".txt").read_text(encoding="utf-8").split("\n")[0]
    with pytest.raises(mm.MmdaskError) as error:
        mm.open(tmp_path)
    expected = said.replace("{path}", str(tmp_path / "manifest.json")).replace("{version}", mm.__version__)
    assert f"{type(error.value).__name__}: {error.value}".startswith(expected)


def test_the_same_after_reading_and_writing():
    from mmdask.store.manifest import dump_manifest

    for path in HERE.glob("valid/manifest/*.json"):
        manifest = parse_manifest(path.read_bytes(), "")
        assert parse_manifest(dump_manifest(manifest), "") == manifest
