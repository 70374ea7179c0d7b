"""Timings against physical limits and peers, as ratios measured in one run: ``python -m benchmarks``."""
