"""Many trainings: searches for better hyperparameters and comparisons of recipes. No stage imports it."""
