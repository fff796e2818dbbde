"""Commands beside the pipeline: classify pictures, compare models, seed statistics, checkpoints, repair."""

import classifier.runner  # noqa: F401 (first of all: how Ctrl-C ends a program that has just been started)
