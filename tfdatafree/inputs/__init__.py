"""Inputs without data: procedural, matched to BatchNorm statistics, or given by the user."""
