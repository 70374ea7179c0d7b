"""Bytes and commits: a store is a manifest that names immutable parts.

`system` is the seam to the operating system, `npy`, `layer` and `layer_writer` describe and write the files of a part,
`manifest` and `commit` make parts visible, `snapshot` reads one generation, `writer` is the way in for rows, `verify`
checks.
"""
