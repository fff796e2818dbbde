"""Sources of the raw files."""
