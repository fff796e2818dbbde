"""From sources to an annotated data set: download, readers of own images, splits, quality, packing."""
