"""From raw files to annotated images: parsing, data quality, plots."""
