"""Devices and runtimes: one profile per file, and the checks of recipes and files against them."""
