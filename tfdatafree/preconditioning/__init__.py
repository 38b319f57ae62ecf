"""Passes before quantization that make a graph easier to quantize."""
