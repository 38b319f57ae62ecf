"""Passes that bring a graph into the form that all later stages expect, and keep its function."""
