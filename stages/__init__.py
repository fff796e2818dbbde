"""The stages of the pipeline, one script each: what dvc.yaml runs."""
