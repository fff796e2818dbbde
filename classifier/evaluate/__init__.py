"""The figures of a test split: metrics, and the tables that evaluate writes."""
