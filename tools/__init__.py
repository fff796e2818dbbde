"""Commands beside the pipeline: classify pictures, compare models, seed statistics, checkpoints, repair."""
