"""Rows that are dealt out or drawn: splits, samples, weights."""
