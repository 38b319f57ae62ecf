"""Arithmetic on arrays. Nothing here knows a model or a framework."""
