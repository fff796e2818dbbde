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


def run_own_code(script: str) -> None:
    """Start again with the code beside the script, if Python has imported that of another clone.

    ``python stages/train.py`` finds this package through the environment, and one environment may serve several clones
    or git worktrees. The code of the script's own clone must run, so this comes before anything else is imported.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(script)))
    if root != ROOT and os.path.isdir(os.path.join(root, "classifier", "runner")):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0]))) in ("stages", "tools", "demo"):  # not in a notebook
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    run_own_code(sys.argv[0])
