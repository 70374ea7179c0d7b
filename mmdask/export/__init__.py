"""What rows of a store can be written as. Works on rows; knows nothing of dask."""
