"""Views of other shapes: other names, one row per item, several datasets, rows by key, data frames."""
