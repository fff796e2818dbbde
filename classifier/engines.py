"""Where pure tasks run: in processes of this machine, or on the workers of a Dask scheduler. Results come in order."""

import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from classifier import ROOT
from classifier.errors import StageError
from classifier.threads import in_order

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2  # tasks for each process that are started before their results are asked for; memory grows with it
WORKERS_AHEAD = 64  # the same, for all workers together

logger = logging.getLogger(__name__)


def map_processes(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """The function's results; it is called in this process if there is to be one only.

    Args:
        function: of a module, so that other processes find it.
        tasks: which must be picklable, as the results; read as needed.
        processes: how many.

    Raises:
        StageError: a process was killed.
    """
    if processes < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin) as pool:

        def submit(task: Task) -> "Future[Result]":
            with _held_back(signal.SIGINT):  # a process that is just starting would answer with a traceback
                return pool.submit(function, task)

        try:
            for _, result in in_order(submit, tasks, AHEAD * processes):
                yield result
        except BrokenProcessPool:
            raise StageError(
                "a process at work was killed, perhaps as memory ran out; the same command goes on"
            ) from None
        except BaseException:  # of a signal, too; nobody waits for what they are doing
            for child in multiprocessing.active_children():
                child.terminate()
            raise


@contextlib.contextmanager
def _held_back(signum: signal.Signals) -> Iterator[None]:
    """Block a signal, in processes too that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """End with the process that started this one, and at Ctrl-C without a word."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def map_workers(function: Callable[[Task], Result], tasks: Iterable[Task], address: str) -> Iterator[Result]:
    """The function's results, from workers of Dask that were started in this clone, on a disk that all share.

    Args:
        function: of a module.
        tasks: which must be picklable, as the results; read as needed.
        address: of the scheduler, see ``connect``.

    Raises:
        StageError: the scheduler cannot be reached or is gone, or a worker has another clone or code.
    """
    with connect(address) as client:
        start = functools.partial(
            client.submit, _on_worker, function=function, root=str(ROOT), code=_code(), pure=False
        )
        for _, result in in_order(start, tasks, WORKERS_AHEAD):
            yield result


def _on_worker(task: Any, function: Callable[[Any], Any], root: str, code: str) -> Any:
    if (str(ROOT), _code()) != (root, code):
        raise StageError(
            f"the worker on {socket.gethostname()} runs in {ROOT}, or with other code; start it again, in {root}"
        )
    return function(task)


@functools.cache  # that which this process has loaded
def _code() -> str:
    found = hashlib.sha256()
    for path in sorted(Path(ROOT, "classifier").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


@contextlib.contextmanager
def connect(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler, for as long as the block.

    Args:
        address: ``tcp://host:8786``, or the file that ``dask scheduler --scheduler-file`` writes.

    Raises:
        StageError: the scheduler cannot be reached, or is gone, or its file is missing.
    """
    import distributed  # it takes a second, and hardly anything needs it

    for name in logging.root.manager.loggerDict:
        if name.startswith("distributed"):  # what matters is said here, in a line
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "Sending large graph")  # a shard's images may well have 10 MB
    is_file = Path(address).is_file()
    if not is_file and ":" not in address:
        raise StageError(f"the file {address} is missing; `dask scheduler --scheduler-file {address}` writes it")
    where, option = ({"scheduler_file": address}, "--scheduler-file ") if is_file else ({"address": address}, "")
    try:
        with distributed.Client(**where, timeout=10, set_as_default=False) as client:
            if not client.scheduler_info()["workers"]:
                logger.info(f"waiting for workers; start some: dask worker {option}{address} --nthreads 1")
            yield client
    except (OSError, ValueError, distributed.CancelledError, distributed.KilledWorker) as error:
        reason = str(error) or type(error).__name__
        raise StageError(f"the scheduler {address}: {reason}; nothing is lost, and the same command goes on") from None
