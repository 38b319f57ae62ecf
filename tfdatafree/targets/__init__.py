"""Devices and runtimes: one profile per file, and what checks a file against them."""
