"""The face: `Dataset`, lazy arrays for dask, `Ragged` and `Cut`. The one layer that knows dask.

Its methods are short and call down; what they do is in `mmdask.rows`, `mmdask.batches` and `mmdask.sources`.
"""
