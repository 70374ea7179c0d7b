"""Cuts: what is kept of them, what is skipped, and the passes that compute the rest."""
