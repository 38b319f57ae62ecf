"""Inputs made without data: for a whole model, or for one of its layers."""
