"""Out-of-core arrays for science: memory-mapped stores as lazy dask arrays, cuts kept once, shuffled batches."""

__version__ = "0.1.0"
