"""What every stage needs: checked inputs, whole outputs, signals, logging, one line for every error.

Stages and tools import it first of all. Until ``run_stage`` installs its handlers there is nothing to save, so Ctrl-C
simply ends the program, without Python's traceback.
"""

import _signal  # `signal` imports a dozen modules, and a Ctrl-C in them would show a traceback
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

# Nothing here sends or writes outside the project. onnxruntime would write an id below HOME and look a host up,
# matplotlib would keep a list of fonts there, and PyTorch would make a folder for temporary files.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("MPLCONFIGDIR", os.path.join(ROOT, "scratch", "matplotlib"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(ROOT, "scratch", "torchinductor"))

# `PATH=.venv/bin:$PATH python ...` leaves a path here that is wrong in any other folder.
sys.executable = os.path.abspath(sys.executable)

_folder, _script = os.path.split(os.path.realpath(sys.argv[0]))
if os.path.basename(_folder) in ("stages", "tools", "demo"):  # not in a notebook
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    # `python stages/train.py` finds this package through the environment, which may be that of another clone.
    _clone = os.path.dirname(_folder)
    if _clone != ROOT and os.path.isdir(os.path.join(_clone, "classifier", "runner")):
        _module = f"{os.path.basename(_folder)}.{os.path.splitext(_script)[0]}"
        sys.exit(
            f"{sys.argv[0]}: error: this Python has the code of {ROOT}; run `python -m {_module}` in {_clone},"
            " or `make setup` there"
        )
