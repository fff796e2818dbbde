"""The stages of the pipeline, one script each: what dvc.yaml runs."""

import importlib.util
import signal
import sys

# dvc.yaml says `python`, which is whatever PATH has; this file must be readable to an old one.
if sys.version_info < (3, 11) or not all(map(importlib.util.find_spec, ("pydantic", "torch"))):
    sys.exit(f"error: {sys.executable} lacks the project's libraries; activate the environment: . .venv/bin/activate")


def explain(kind, error, trace):  # type: ignore[no-untyped-def]
    """Say in one line why the libraries cannot be loaded."""
    if issubclass(kind, (ImportError, MemoryError, OSError)) and "--debug" not in sys.argv:
        print(f"error: a library cannot be loaded ({error}); allow more memory, or `make setup` again", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-m":  # a program is being started: until it runs there is nothing to save, so Ctrl-C just ends it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.excepthook = explain
