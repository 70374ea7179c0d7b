"""Rows without dask: readers over parts, selections as bits, cuts kept on disk, splits.

Batches, sources and exports work on what is here; `mmdask.dataset` shows it as dask arrays.
"""
