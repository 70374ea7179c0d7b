"""Runs of rows and rows by number, read from parts and checked."""
