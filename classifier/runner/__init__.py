"""What every stage needs: checked inputs, whole outputs, signals, logging, one line for every error.

Stages and tools import it first of all. Until ``run_stage`` installs its handlers there is nothing to save, so Ctrl-C
simply ends the program, without Python's traceback.
"""

import os
import signal
import sys

if os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0]))) in ("stages", "tools"):  # not in a notebook
    signal.signal(signal.SIGINT, signal.SIG_DFL)
