"""The hot loop: rows in shuffled batches. Works on maps and bits, and never imports dask.

`ordering` decides which row comes when, as functions of integers; `loading` reads rows, several batches at once and
ahead; `collate` makes entries of them. `epochs` is what goes from batch to batch and knows where it stands: a `loader`
of one selection, a `mix` of several (`mixture`). `frameworks` hand their batches to torch and jax, and a `report` says
how well they are mixed.
"""
