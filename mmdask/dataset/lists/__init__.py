"""Lazy collections of lists, records and text, and the steps that make their chunks."""
