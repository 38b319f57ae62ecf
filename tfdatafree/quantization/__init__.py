"""Integers and grids: rounding weights, choosing ranges, correcting biases, placing grids."""
