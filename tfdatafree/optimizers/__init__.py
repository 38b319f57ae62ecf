"""Choices made for one tensor or one layer at a time: ranges, rounding, pruning, correction."""
