"""Accuracy won back on generated images: layers are solved by least squares, and networks are trained."""
