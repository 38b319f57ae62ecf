"""Writes a decision as a verified integer TFLite file, or simulates it."""
