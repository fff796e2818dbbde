"""Engines: where the trainings of a search or comparison run. Their results depend on nothing but the run.

On one machine, some warm processes that share its cores. On several, Dask: whoever starts `dask worker` in a clone
joins, and the scheduler runs a task again elsewhere if its worker dies. One process, the driver, computes what comes
next and keeps the records.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from classifier.config import params_file
from classifier.engines import connect
from classifier.errors import DivergedError, ParamsError, PausedError, StageError, shorten
from classifier.experiments import decided
from classifier.experiments.halving import Run
from classifier.experiments.records import Record
from classifier.experiments.stage_process import Answer, StageProcess, Task
from classifier.runner import files
from classifier.runner.cli import ROOT
from classifier.runner.lock import SCRATCH

Submit = Callable[[Task], "Future[Answer]"]

TOKEN = "scratch/driver"  # the file by which a worker sees that it shares a disk with the driver

logger = logging.getLogger(__name__)
_stopping = threading.Event()  # set by a signal, see ``stoppable``
_thread = threading.local()  # .process: the warm process of a thread


def drive(submit: Submit, next_runs: Callable[[], Sequence[Run]], task: Callable[[Run], Task]) -> Iterator[Any]:
    """Keep all runs going that can start, until there are none.

    Args:
        submit: starts a task.
        next_runs: without a record; asked again after each that ends.
        task: of a run.

    Yields:
        each run that has ended, with the answer.
    """
    going: dict[Future[Answer], Run] = {}
    while True:
        keys = {run.key for run in going.values()}
        going |= {submit(task(run)): run for run in next_runs() if run.key not in keys}
        if not going:
            return
        ended, _ = concurrent.futures.wait(going, return_when=FIRST_COMPLETED)
        for future in ended:
            yield going.pop(future), future.result()
            if _stopping.is_set():
                raise KeyboardInterrupt


def record(run: Run, answer: Answer, objective: str) -> Record:
    """The record of a run that has ended.

    Raises:
        StageError: it failed for another reason than its params.
    """
    if answer["status"] in (0, PausedError.exit_status):
        row = answer["metrics"] if answer["status"] == 0 else answer["history"][run.epochs - 1]
        if objective not in row:
            raise StageError(f"{run.name}: no {objective}, since there are no validation images")
        return {"params": run.params, "value": round(row[objective], 6)}
    if answer["status"] in (DivergedError.exit_status, ParamsError.exit_status):
        return {"params": run.params, "value": None, "error": answer["message"]}
    raise StageError(f"{run.name}: {answer['message']}")


def refuse_failure(name: str, answer: Answer) -> None:
    """Make sure that a stage has come to its end.

    Raises:
        StageError: it has not.
    """
    if answer["status"]:
        raise StageError(f"{name}: {answer['message']}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let the signals of batch systems stop the work as Ctrl-C does, with one line."""
    _stopping.clear()

    def stop(signum: int, frame: FrameType | None) -> None:
        # Python drops an exception that is raised while it collects garbage: 4 of 130 while pages were drawn.
        _stopping.set()
        raise KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
            signal.signal(signum, stop)
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped; every run is saved, and the same command goes on")
        raise


@contextlib.contextmanager
def processes(project: Path, jobs: int) -> Iterator[Submit]:
    """Warm processes on this machine, which share the cores.

    Args:
        project: whose code and data they use.
        jobs: how many.
    """
    stop, numbers = threading.Event(), itertools.count()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    started: list[StageProcess] = []

    def begin_thread() -> None:
        _thread.process = StageProcess(project, cores[next(numbers) % (len(cores) or 1) :: jobs] or cores)
        started.append(_thread.process)

    with ThreadPoolExecutor(jobs, initializer=begin_thread) as pool:
        try:
            yield lambda task: pool.submit(lambda: _thread.process.run(task, stop.is_set))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            for process in started:
                process.close()


@contextlib.contextmanager
def dask(address: str, folder: Path, decided_by: dict[str, Any]) -> Iterator[Submit]:
    """The workers of a Dask scheduler.

    Args:
        address: ``tcp://host:8786``, or the file that ``dask scheduler --scheduler-file`` writes.
        folder: with the snapshot as ``project``. A worker on the same disk uses that, others their own clones.
        decided_by: what must be the same in such a clone.

    Raises:
        StageError: the scheduler cannot be reached, or is gone.
    """
    token = secrets.token_hex()
    files.atomic_write(folder / "project" / TOKEN, token.encode())
    with connect(address) as client:
        executor = client.get_executor(pure=False)
        yield lambda task: executor.submit(run_on_worker, task, str(folder.resolve()), token, decided_by)


def run_on_worker(task: Task, folder: str, token: str, decided_by: dict[str, Any]) -> Answer:
    """Run a task on a worker of Dask, and stop it when the driver is gone.

    Raises:
        StageError: the worker shares no disk with the driver, and its clone differs.
    """
    from distributed import get_worker

    worker = get_worker()
    key, project = worker.get_current_task(), Path(folder) / "project"
    shared = (project / TOKEN).is_file() and (project / TOKEN).read_text() == token
    refuse_other_machine(decided_by, project if shared else ROOT, shared)
    if not shared:
        project, own = ROOT, ROOT / SCRATCH / Path(folder).name
        task = task | {name: str(own / Path(task[name]).relative_to(folder)) for name in ("out", "log")}
    if getattr(_thread, "process", None) is None or _thread.process.folder != project:
        _thread.process = StageProcess(project)

    def driver_is_gone() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state != "executing"

    answer: Answer = _thread.process.run(task, driver_is_gone)
    if not shared:
        out = Path(task["out"])
        answer["files"] = {file.relative_to(out).as_posix(): file.read_bytes() for file in files.iter_files(out)}
    return answer


def refuse_other_machine(decided_by: dict[str, Any], project: Path, shared: bool) -> None:
    """Make sure that this worker gives the same results.

    Raises:
        StageError: its clone has other params, code, data or packages, or it has another processor.
    """
    try:
        _, params = params_file.read(project / "params.yaml")
        now = decided_by | {"processor": decided.processor(params)} if shared else decided.everything(params)
        if changed := decided.differing(decided_by, now):
            raise StageError(f"another {shorten(changed)}; the same commit, data and environment are needed")
    except StageError as error:
        raise StageError(f"the worker on {socket.gethostname()} in {ROOT}: {error}") from None
