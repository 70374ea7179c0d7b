"""The table of expressions that other tools read differently, on the 1000 rows that it was measured with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmdask.errors import ExpressionError
from mmdask.expr import check_cut, evaluate_cut
from mmdask.schema import Field, FieldData, Schema

FILE = Path(__file__).parents[2] / "../shared/data/atlas/formula_1000.root"
DENSE = ["nJets", "nBTags_77", "x", "weight", "isgood", "ev", "p3"]


@pytest.fixture(scope="module")
def table():
    """Schema, fields and the same rows as plain Python."""
    if not FILE.exists():
        pytest.skip("the file with the 1000 rows is not here (../shared/data)")
    import uproot

    with uproot.open(FILE) as file:
        arrays = file["t"].arrays([*DENSE, "jet_pt", "cpt", "process"], library="np")
    fields, schema = {}, []
    for name in DENSE:
        values = arrays[name].astype(arrays[name].dtype.newbyteorder("="))
        fields[name] = FieldData(values)
        schema.append(Field.dense(name, values.dtype, values.shape[1:]))
    for name in ("jet_pt", "cpt"):
        offsets = np.concatenate([[0], np.cumsum([len(r) for r in arrays[name]])])
        fields[name] = FieldData(np.concatenate(arrays[name]).astype(np.float32), (offsets,))
        schema.append(Field.ragged(name, "f4"))
    labels, codes = np.unique(arrays["process"].astype(str), return_inverse=True)
    fields["process"] = FieldData(codes.astype(np.int32), (), tuple(labels.tolist()))
    schema.append(Field.category("process", labels.tolist()))
    rows = [
        {k: a[i].tolist() if isinstance(a[i], np.ndarray) else a[i] for k, a in arrays.items()} for i in range(1000)
    ]
    return Schema(schema), fields, rows


# the right number of rows, as the table gives it or by the same count over plain Python lists
COUNTS = [
    ("nJets >= 6 & nBTags_77 >= 2", 329),
    ("(nJets >= 6) & (nBTags_77 >= 2)", 329),
    ("nJets >= 6 && nBTags_77 >= 2", 329),
    ("nJets >= 6 and nBTags_77 >= 2", 329),
    ("(nJets & 2) == 2", 508),
    ("nJets != 0 && 2 == 2", lambda r: r["nJets"] != 0),
    ("1 < nJets < 4", 174),
    ("nJets ** 2 > 20", 590),
    ("nJets / 2 == 2", lambda r: r["nJets"] / 2 == 2),
    ("(-nJets) % 3 == 2", lambda r: (-int(r["nJets"])) % 3 == 2),
    ("ev == 9007199254740993", 1),
    ("any(jet_pt > 100)", 627),
    ("Sum$(jet_pt > 100) > 0", 627),
    ("jet_pt[0] > 100", 197),
    ("first(jet_pt) > 100", 197),
    ("Alt$(jet_pt[0], 0) > 100", 197),
    ("jet_pt[3] > 100 || nJets < 2", 299),
    ("!(jet_pt[3] > 100)", 527),
    ('process == "ttbb"', 334),
    ("process == 'ttbb'", 334),
    ("process in ('ttbb', 'ttH')", 667),
    ("isgood == true", lambda r: bool(r["isgood"])),
    ("isgood", lambda r: bool(r["isgood"])),
    ("!(x > 0)", lambda r: not r["x"] > 0),
    ("x != x", lambda r: r["x"] != r["x"]),
    ("isnan(x)", lambda r: r["x"] != r["x"]),
    ("p3[1] > 0.25", lambda r: r["p3"][1] > 0.25),
    ("max(jet_pt) == max(cpt)", lambda r: len(r["jet_pt"]) > 0),
    ("count(jet_pt == cpt) == @jet_pt.size()", lambda r: True),
    ("Sum$(jet_pt) > 300.5", lambda r: sum(r["jet_pt"]) > 300.5),
]


@pytest.mark.parametrize(("text", "expected"), COUNTS)
def test_right_answers(table, text, expected):
    schema, fields, rows = table
    mask = evaluate_cut(check_cut(text, schema), fields.__getitem__, 1000)
    if callable(expected):
        assert mask.tolist() == [expected(r) for r in rows]
    else:
        assert mask.sum() == expected


ERRORS = [
    ("nJets & 2 == 2", "two readings"),
    ("nJets ^ 2 > 20", "power is"),
    ("nJets^2 > 20", "exclusive or"),
    ("jet_pt > 100", r"any\(jet_pt > 100\)"),
    ("nosuch > 1", "no field 'nosuch'"),
    ("nJets = 6", "did you mean '=='"),
    ("(nJets+0).to_numpy().tofile(p)", "no attributes"),
    ('@os.system("true")', "@name.size"),
    ("process == 'ttb'", "the labels of 'process' are: 'data', 'ttH', 'ttbb'"),
    ("nJets.to_csv('p')", "no function"),
    ('gSystem->Exec("true")', "means nothing|cannot stand here|no attributes"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors(table, text, message):
    with pytest.raises(ExpressionError, match=message):
        check_cut(text, table[0])
