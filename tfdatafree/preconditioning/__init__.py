"""Passes that make a float graph easier to quantize, before anything is pruned or rounded."""
