"""The report: what was done, as text, as a page and as plain values."""
