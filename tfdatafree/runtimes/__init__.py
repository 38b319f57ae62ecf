"""Runtimes that compute one TFLite file: one module each, and the list of all."""
