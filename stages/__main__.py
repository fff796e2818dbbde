"""Run stages one after another in one process, so that only the first pays for loading the libraries.

A search starts `python -m stages` in the folder whose code and data its trainings use. The process reads a task a line
from standard input, as JSON, and answers each with a line:

task    stage, overrides (params by dotted key), out and log (a folder and a file for what the stage writes and prints)
answer  status (of the stage's exit), message (of its error), metrics (of a finished stage), history (of a training that
        has paused, a row an epoch)

When the input ends, nobody waits for an answer: a running stage saves its state, and the process ends.
"""

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from classifier.errors import PausedError
from classifier.runner.cli import one_line, report_error
from classifier.runner.logs import configure_logging
from classifier.runner.signals import STOP_SIGNALS, Interrupted
from classifier.runner.stage import make_context


def main() -> None:
    """Answer tasks until there are no more."""
    answers = os.fdopen(os.dup(1), "w")  # 1 itself becomes each task's log
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read, args=[tasks], daemon=True).start()
    while line := tasks.get():
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


def read(tasks: "queue.SimpleQueue[str]") -> None:
    """Pass tasks on; stop the running one when the input ends."""
    for line in sys.stdin:
        tasks.put(line)
    tasks.put("")
    os.kill(os.getpid(), signal.SIGTERM)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run a stage and say how it ended."""
    name = task["stage"]
    log = os.open(task["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    configure_logging(name)
    try:
        context = make_context(name, task["overrides"], Path(task["out"]))
        with context.running():
            importlib.import_module(f"stages.{name}").main(context)
    except PausedError as pause:
        return {"status": pause.exit_status, "history": pause.history}
    except Interrupted as stop:
        return {"status": 128 + stop.signum}
    except Exception as error:
        return {"status": report_error(logging.getLogger("stages"), error, debug=False), "message": one_line(error)}
    finally:
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
    metrics = Path(task["out"]) / f"metrics/{name}.json"
    return {"status": 0, "metrics": json.loads(metrics.read_bytes()) if metrics.exists() else {}}


if __name__ == "__main__":
    main()
