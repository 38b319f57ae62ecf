"""Zeros in kernels, and whole channels taken out."""
