"""SIGINT, SIGTERM, SIGHUP and the end of the parent DVC, delivered where it is safe to stop."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

POLL_SECONDS = 0.5  # between two looks at the parent process; a look costs 0.1 ms
STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is, and stays so
    STOP_SIGNALS.append(signal.SIGHUP)


class Interrupted(BaseException):
    """A signal, raised where it is safe to stop. Not an ``Exception``, so that no handler swallows it.

    Attributes:
        gone: the program that started the stage, if its end is the reason.
    """

    def __init__(self, signum: int, gone: str = ""):
        super().__init__(signum)
        self.signum, self.gone = signum, gone


class StopSignals:
    """The signals that stop a stage; the end of the process that started it counts as one."""

    def __init__(self) -> None:
        self._pending = 0  # the signal that was deferred
        self._deferred = 0
        self._parent: psutil.Process | None = None
        self._parent_name = ""
        self._gone = ""  # that name, once the parent is gone

    def install_signal_handlers(self) -> None:
        """Obey signals from here on."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._on_signal)

    def watch_dvc(self) -> None:
        """Stop when the DVC that started this stage ends: it would have recorded the result.

        A stage that was started by hand may outlive its shell, as under nohup.

        Raises:
            Interrupted: DVC is gone already.
        """
        if "DVC_STAGE" not in os.environ:
            return
        try:
            dvc = next(parent for parent in psutil.Process().parents() if not _was_started_by_dvc(parent))
            # DVC starts stages in its own process group. Whoever adopted this one from a dead DVC has another.
            adopted = os.getpgid(dvc.pid) != os.getpgrp()
        except (psutil.NoSuchProcess, ProcessLookupError, StopIteration):
            adopted = True
        if adopted:
            raise Interrupted(signal.SIGTERM, "dvc")
        self.watch_parent(dvc.pid, "dvc")

    def watch_parent(self, pid: int, name: str, signum: int = signal.SIGTERM) -> None:
        """Send this process a signal once the parent of that name is gone, whatever it is doing."""
        try:
            self._parent, self._parent_name = psutil.Process(pid), name
        except psutil.NoSuchProcess:
            os.kill(os.getpid(), signum)

        def watch() -> None:
            while not self._is_orphan():
                time.sleep(POLL_SECONDS)
            if not self._pending:
                self._gone = name
            os.kill(os.getpid(), signum)

        threading.Thread(target=watch, daemon=True).start()

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
            raise Interrupted(self._pending, self._gone)

    def check_parent(self) -> None:
        """Stop here if the parent is gone.

        Raises:
            Interrupted: it is, or a signal is pending.
        """
        if not self._pending and self._is_orphan():
            self._pending, self._gone = signal.SIGTERM, self._parent_name
        self.raise_if_stop_requested()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._pending = self._pending or signum
        self.raise_if_stop_requested()

    def _is_orphan(self) -> bool:
        try:
            return self._parent is not None and (
                not self._parent.is_running() or self._parent.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return True


def _was_started_by_dvc(process: psutil.Process) -> bool:
    """Whether DVC started a process, or an ancestor of it, as a stage."""
    try:
        return "DVC_STAGE" in process.environ()
    except psutil.AccessDenied:
        return False  # another user's process, such as the machine's first
