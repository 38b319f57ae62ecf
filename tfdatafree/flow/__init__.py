"""The steps of compress() and diagnose()."""
