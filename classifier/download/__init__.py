"""Sources of the raw files, and the verification of what they deliver."""
