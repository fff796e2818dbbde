"""Workers: threads that each take a run, train it in its clone, and record how it ended.

A run's result depends on nothing but the run, so neither their number nor their order changes anything.
"""

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from classifier.config import params_file
from classifier.errors import DivergedError, ParamsError
from classifier.experiments.clone import Stopped
from classifier.experiments.halving import Run
from classifier.experiments.storage import Record, Storage
from classifier.experiments.workspace import Workspace
from classifier.runner.signals import STOP_SIGNALS

WAIT_SECONDS = 1.0  # until another look at what others are working on


class Workers:
    """Do runs until there are none left.

    Args:
        workspace: makes the clones.
        content: the whole of params.yaml.
        storage: of the records.
        objective: the figure of the validation split that a record holds as ``value``.
        next_runs: which runs can start now, by the records there are.
        on_record: called with each run and its record, one call at a time.
    """

    def __init__(
        self,
        workspace: Workspace,
        content: dict[str, Any],
        storage: Storage,
        objective: str,
        next_runs: Callable[[Mapping[str, Record]], Sequence[Run]],
        on_record: Callable[[Run, Record], None],
    ):
        self._workspace, self._content, self._storage = workspace, content, storage
        self._objective, self._next_runs, self._on_record = objective, next_runs, on_record
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self, jobs: int) -> None:
        """Return when all runs have a record.

        Args:
            jobs: trainings at a time; they share the cores.

        Raises:
            Stopped: a signal came; all runs have saved their state.
            StageError: a run failed for another reason than its params; the others have saved their state.
        """
        before = {signum: signal.signal(signum, self._on_signal) for signum in STOP_SIGNALS}
        try:
            with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
                futures = [pool.submit(self._work, slot, jobs) for slot in range(jobs)]
                # Short waits: a signal handler runs between them.
                while not all(future.done() for future in futures):
                    concurrent.futures.wait(futures, timeout=0.2)
            errors = [error for future in futures if (error := future.exception())]
            for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
                raise error
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._stop.set()

    def _work(self, slot: int, jobs: int) -> None:
        if hasattr(
            os, "sched_setaffinity"
        ):  # of this thread and the processes that it starts: threads: auto counts them
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[slot % len(cores) :: jobs] or cores)
        try:
            while runs := self._next_runs(self._storage.records()):
                if self._stop.is_set():
                    raise Stopped
                if not any(self._claim_and_do(run) for run in runs):
                    self._stop.wait(WAIT_SECONDS)  # others are at work on all of them
        except BaseException:
            self._stop.set()
            raise

    def _claim_and_do(self, run: Run) -> bool:
        """Do a run if nobody else does; whether this one did."""
        with self._storage.claim(run.key) as claimed:
            if not claimed or run.key in self._storage.records():
                return False
            started = time.monotonic()
            record = self._do(run) | {"seconds": round(time.monotonic() - started, 1)}
            kept = self._storage.add(run.key, record)
        with self._lock:
            self._on_record(run, kept)
        return True

    def _do(self, run: Run) -> Record:
        """Train, and say how it ended; runs that can come to no result have the value None."""
        try:
            content = params_file.replaced(self._content, run.params)
            clone = self._workspace.clone(run.clone)
            if not clone.has_experiment(run.experiment):
                clone.undo_experiment(self._stop)
                clone.set_params(content, stop_after_epoch=run.epochs)
                for stage in run.stages[: run.stages.index("train")]:
                    clone.reproduce(stage, self._stop)
                row = clone.train_until(run.epochs, self._stop)
                if run.experiment:
                    clone.set_params(content, stop_after_epoch=0)
                    clone.make_experiment(run.experiment, run.stages, self._stop)
            if run.experiment:
                row = clone.publish_experiment(run.experiment)
        except (DivergedError, ParamsError) as error:
            return {"params": run.params, "value": None, "error": str(error)}
        return {"params": run.params, "value": round(row[self._objective], 6)}
