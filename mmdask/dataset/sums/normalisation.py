"""`normalisation`: means and standard deviations of fields, found in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmdask.batches.normalisation import Normalisation, check_number
from mmdask.dataset.run import dask_runner
from mmdask.errors import OptionError
from mmdask.rows.rows import Rows
from mmdask.rows.sums.counting import check_weight
from mmdask.rows.sums.describing import weighted

__all__ = ["normalisation_of"]


def normalisation_of(rows: Rows, names: Sequence[str], weight: str | None, dtype: npt.DTypeLike) -> Normalisation:
    """The parameters are those of `Dataset.normalisation`."""
    for name in names:
        check_number(rows.schema[name])
    by = None if weight is None else check_weight(weight, rows)
    found = weighted(rows, names, by, dask_runner("normalisation", names))
    mean, std = {}, {}
    for name, m in found.items():
        if not (m.count > 0).all():
            raise OptionError(
                f"{name!r} has no finite value in these rows, so it has no mean; leave it out, or select others"
            )
        if not (m.weight > 0).all():
            raise OptionError(
                f"weight={weight!r}: the weights of {name!r} sum to {np.min(m.weight):g}: there is no mean; give other "
                "weights or rows"
            )
        variance = m.variance
        if not (variance >= -1e-12 * m.second / m.weight).all() or not np.isfinite(variance).all():
            why = f"{np.min(variance):g}, for weights are negative" if weight else "too large for a number"
            raise OptionError(f"the variance of {name!r} is {why}; give other weights, as 'abs(w)', or other rows")
        mean[name], std[name] = m.mean, np.sqrt(np.maximum(variance, 0))
    return Normalisation(mean, std, dtype=dtype)
