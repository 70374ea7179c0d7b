"""Batches as tensors of torch and as arrays of jax."""
