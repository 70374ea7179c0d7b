"""ROOT files as a source: what is in a file, which fields it becomes, and its rows, run by run.

uproot is imported in here and nowhere else. `column` says what is read at one go, `ttree` makes it of branches;
`reader` is what a conversion sees of it.
"""

from mmdask.sources.root.convert import convert_root

__all__ = ["convert_root"]
