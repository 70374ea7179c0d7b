"""What rows are reduced to: counts, histograms, summaries."""
