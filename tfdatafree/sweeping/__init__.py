"""Many compressions side by side, and the choice among their files."""
