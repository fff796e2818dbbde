"""What every stage needs: checked inputs, whole outputs, signals, logging, one line for every error."""

import signal
import sys
from pathlib import Path

# A stage or tool that has just been started has nothing to save yet: until `run_stage` installs its handlers, Ctrl-C
# ends it without a traceback. (While Python imports the package of `python -m stages.train`, argv[0] is "-m".)
if sys.argv[0] == "-m" or Path(sys.argv[0]).resolve().parent.name in ("stages", "tools"):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
