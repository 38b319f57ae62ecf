"""Transformations of a model that keep its function: one file each."""
