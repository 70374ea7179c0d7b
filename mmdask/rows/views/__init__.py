"""Snapshots made of others, and fields that are computed."""
