"""A trained model: its architecture, its file, and its application to images."""
