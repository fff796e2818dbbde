"""The building blocks of the stages and tools: configuration, data set, models, training, evaluation, export, report.

Imports go one way: ``stages/`` and ``tools/`` import this package, its rooms (``train``, ``export``, ...) import its
modules, and the ground (``errors``, ``config``, ``yaml_file``, ``portability``) imports nothing of it but each other.

To import it sets what libraries read when they are imported, so it comes before them; ruff sorts it there.
"""

import os
import sys

from classifier import portability

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # of the clone

portability.pin_imports()
# Nothing here sends or writes outside the project. onnxruntime would write an id below HOME and look a host up,
# matplotlib would keep a list of fonts there, and PyTorch would make a folder for temporary files.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("MPLCONFIGDIR", os.path.join(ROOT, "scratch", "matplotlib"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(ROOT, "scratch", "torchinductor"))

# `PATH=.venv/bin:$PATH python ...` leaves a path here that is wrong in any other folder.
sys.executable = os.path.abspath(sys.executable)
