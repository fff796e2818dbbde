"""The stages of the pipeline, one script each: what dvc.yaml runs."""

import signal
import sys

if sys.argv[0] == "-m":  # a stage is started: until it runs there is nothing to save, so Ctrl-C just ends it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
