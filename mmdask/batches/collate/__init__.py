"""How the rows of fields become entries of a batch.

A `Chain` is the steps for one field: `cropping` keeps a part of every row, `padding` and `forms` give rows a form, and
`arrays` changes the arrays. `plan` puts the chains of all fields together. Rows of several batches are fetched at once,
and cut up for each.
"""

from mmdask.batches.collate.arrays import astype, expand_dims, one_hot, squeeze
from mmdask.batches.collate.base import Fetch, Packed, Take
from mmdask.batches.collate.chain import Step
from mmdask.batches.collate.cropping import crop, window
from mmdask.batches.collate.forms import nested, packed
from mmdask.batches.collate.padding import Pad, fill_value, pad
from mmdask.batches.collate.plan import Collate, Plan, Stack, plan_for, stack

__all__ = [
    "Collate",
    "Fetch",
    "Packed",
    "Pad",
    "Plan",
    "Stack",
    "Step",
    "Take",
    "astype",
    "crop",
    "expand_dims",
    "fill_value",
    "nested",
    "one_hot",
    "packed",
    "pad",
    "plan_for",
    "squeeze",
    "stack",
    "window",
]
