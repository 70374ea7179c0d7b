"""Histograms, summaries and normalisation, as users have them."""
