"""Benchmarks: the time of a training step, by strategy, device and size."""
