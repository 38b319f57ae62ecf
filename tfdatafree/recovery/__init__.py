"""Accuracy won back on generated images: layers solved anew, networks trained."""
