"""Compression of diagonal state-space systems: pure functions, float64, free of any neural-network framework.

The axes are kept apart: a `method` scores the states of one layer, an `allocation` makes the scores of different
layers comparable, and `stage` turns both into the states that stay.
"""
