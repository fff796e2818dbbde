"""The configuration: the schema of params.yaml, and reading the file."""
