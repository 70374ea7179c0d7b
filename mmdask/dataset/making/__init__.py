"""Stores made and changed, also by the workers of a cluster."""
