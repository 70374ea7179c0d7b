"""The hot loop: rows in shuffled batches. Works on maps and bits, and never imports dask.

`order` decides, as functions of integers; `sequence` turns positions into row numbers; `collate` makes entries of rows;
`loader` puts them together and knows where it stands.
"""
