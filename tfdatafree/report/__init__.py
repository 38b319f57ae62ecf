"""The report of a compression as text, as a page and as plain values."""
