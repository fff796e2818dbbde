"""A warm process: it runs one stage after another and pays for loading the libraries once. See `stages/__main__.py`."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from classifier.errors import StageError

POLL_SECONDS = 0.1
ATTEMPTS = 3  # of a run whose process is killed from outside; it resumes each time

Task = dict[str, Any]  # stage, overrides, out, log
Answer = dict[str, Any]  # status, message, metrics, history


class Stopped(BaseException):
    """The work is to stop; runs have saved their state. Not an ``Exception``, so that no handler swallows it."""


class StageProcess:
    """A process that runs stages; it starts with the first one, and again if it was killed.

    Args:
        folder: of the project whose code and data the stages use.
        cores: that it may use; empty for all.
    """

    def __init__(self, folder: Path, cores: Sequence[int] = ()):
        self.folder, self._cores = folder, cores
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: Task, should_stop: Callable[[], bool]) -> Answer:
        """Run a stage.

        Raises:
            Stopped: ``should_stop`` said so; the state is saved.
            StageError: the process was killed again and again.
        """
        Path(task["log"]).parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            answer = self._ask(task, should_stop)
            if answer and answer["status"] < 128:
                return answer
            if should_stop():
                raise Stopped
        raise StageError(f"a training was killed {ATTEMPTS} times; {task['log']} may say why")

    def _ask(self, task: Task, should_stop: Callable[[], bool]) -> Answer | None:
        """The answer of the process; None if it died."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        stopping = False
        try:
            print(json.dumps(task), file=process.stdin, flush=True)
            while not select.select([process.stdout], [], [], POLL_SECONDS)[0]:
                if not stopping and should_stop():
                    process.terminate()
                    stopping = True
            answer: Answer = json.loads(process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.close()
            return None
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        variables = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "DVC_ROOT")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stages"],
            cwd=self.folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for whoever started it
        )  # fmt: skip
        if self._cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, self._cores)  # threads: auto counts them
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.terminate()
            self._process.communicate()
            self._process = None
