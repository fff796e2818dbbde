"""Work on all cores, in processes: threads that decode images wait for each other half of the time."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from classifier.errors import StageError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_processes(function: Callable[[Task], Result], tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """The function's results, in order; it is called in this process if there is to be one only.

    Args:
        function: of a module, so that other processes find it.
        tasks: which must be picklable, as the results.
        processes: at most.

    Raises:
        StageError: a process was killed.
    """
    if min(processes, len(tasks)) < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), context, _begin) as pool:
        try:
            yield from pool.map(function, tasks)
        except BrokenProcessPool:
            raise StageError(
                "a process that worked on images was killed, perhaps as memory ran out; the same command goes on"
            ) from None
        except BaseException:  # of a signal, too; nobody waits for what they are doing
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin() -> None:
    """End with the process that started this one, and at Ctrl-C without a word."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
