"""Inputs that differ: what they agree on, and what each does for it."""
