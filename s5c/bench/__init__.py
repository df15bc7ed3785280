"""Benchmarks against S5 as its authors formulate it: `python -m s5c.bench`."""
