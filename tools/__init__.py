"""Commands beside the pipeline: classify pictures, compare, search, checkpoints, repair."""
