"""Programs of Dask on loopback."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project, wait_for


@contextlib.contextmanager
def program(project: Project, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``dask``, in a process group that is killed at the end of the block."""
    process = subprocess.Popen(
        words, cwd=project.root, env=project.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)
        process.wait()


@contextlib.contextmanager
def scheduler(project: Project, file: Path) -> Iterator[Path]:
    """Start a scheduler; the file has its address."""
    words = ("--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with program(project, "dask", "scheduler", *words):
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))  # it is written in place
        yield file


def worker(file: Path) -> list[str]:
    """The command that starts a worker."""
    words = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    return ["dask", "worker", "--scheduler-file", str(file), *words]


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
