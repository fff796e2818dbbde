"""The stages of the pipeline, one script each: what dvc.yaml runs."""

import classifier.runner  # noqa: F401 (first of all: how Ctrl-C ends a program that has just been started)
