"""Models: architectures, serialization, inference, compute settings."""
