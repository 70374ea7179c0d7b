"""Cuts, cut flows and folds, as users have them."""
