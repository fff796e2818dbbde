"""SIGINT, SIGTERM, SIGHUP and the end of the parent DVC, delivered where it is safe to stop."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psutil

POLL_SECONDS = 0.5  # between two looks at the parent processes; a look costs 0.1 ms
STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is, and stays so
    STOP_SIGNALS.append(signal.SIGHUP)


class Interrupted(BaseException):
    """A signal, raised where it is safe to stop. Not an ``Exception``, so that no handler swallows it.

    Attributes:
        orphaned: whether the reason is that the DVC which started the stage is gone.
    """

    def __init__(self, signum: int, orphaned: bool = False):
        super().__init__(signum)
        self.signum, self.orphaned = signum, orphaned


class StopSignals:
    """The signals that stop a stage.

    A stop is also requested if the DVC that started the stage exits: it would have recorded the result.

    Attributes:
        orphaned: whether the stop was requested for that reason.
    """

    def __init__(self) -> None:
        self.orphaned = False
        self._pending = 0  # the signal that was deferred
        self._deferred = 0
        self._parents: list[Any] | None = None

    def install_signal_handlers(self) -> None:
        """Obey signals from here on.

        Raises:
            Interrupted: DVC is gone already.
        """
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._on_signal)
        self._parents = _parents_up_to_dvc()
        self.check_parents()
        if self._parents is not None:
            threading.Thread(target=self._watch_parents, daemon=True).start()

    def ignore_from_now_on(self) -> None:
        """The work is done and published: too late to stop."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold signals back, so that a change of several files or tensors is never left half done."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self.raise_if_stop_requested()

    def defer_for_good(self) -> None:
        """Hold signals back until the process ends."""
        self._deferred += 1

    def stop_requested(self) -> bool:
        """Whether a signal is pending."""
        return bool(self._pending)

    def raise_if_stop_requested(self) -> None:
        """Stop here if a signal is pending and not deferred.

        Raises:
            Interrupted: it is.
        """
        if self._pending and not self._deferred:
            raise Interrupted(self._pending, self.orphaned)

    def check_parents(self) -> None:
        """Stop here if the DVC that started this stage is gone.

        Raises:
            Interrupted: it is, or a signal is pending.
        """
        if not self._pending and self._is_orphan():
            self._pending, self.orphaned = signal.SIGTERM, True
        self.raise_if_stop_requested()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._pending = self._pending or signum
        self.raise_if_stop_requested()

    def _watch_parents(self) -> None:
        """Send this process a SIGTERM once its DVC is gone, whatever it is doing."""
        while not self._is_orphan():
            time.sleep(POLL_SECONDS)
        self.orphaned = not self._pending
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_orphan(self) -> bool:
        if self._parents is None:
            return False

        try:
            alive = [p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self._parents]
        except psutil.NoSuchProcess:
            return True
        return not alive or not all(alive)


def _parents_up_to_dvc() -> list[Any] | None:
    """The processes whose end orphans this stage: the ``dvc`` that started it and those between, such as a shell.

    Returns:
        None if the stage was started by hand: it may outlive its shell, as under nohup; or if nobody can tell. An empty
        list if DVC is gone.
    """
    if "DVC_STAGE" not in os.environ or _proc_is_of_others():
        return None

    parents: list[Any] = []
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        child = psutil.Process()
        for parent in child.parents():
            parents.append(parent)
            if not _was_started_by_dvc(parent):
                # DVC starts stages in its own process group. Whoever adopted this one from a dead DVC has another.
                adopted = os.getpgid(parent.pid) != os.getpgid(child.pid)
                return [] if adopted else parents
            child = parent
    return []


def _proc_is_of_others() -> bool:
    """Whether /proc lists other processes than this one can have to do with, as in `unshare --pid` without a mount."""
    try:
        return os.readlink("/proc/self") != str(os.getpid())
    except OSError:
        return False  # not Linux: psutil has another source


def _was_started_by_dvc(process: Any) -> bool:
    """Whether DVC started a process, or an ancestor of it, as a stage."""
    try:
        return "DVC_STAGE" in process.environ()
    except psutil.AccessDenied:
        return False  # another user's process, such as the machine's first
