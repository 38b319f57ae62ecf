"""Pruning: zeros in kernels, and whole channels removed."""
