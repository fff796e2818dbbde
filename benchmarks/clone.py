"""A temporary clone of this repository with the real data, for benchmarks that run stages with other params."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project

REPOSITORY = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def clone() -> Iterator[Project]:
    """A clone of the committed state, with the data checked out from this repository's DVC cache."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(root)], check=True)
        project = Project(root, root)
        cache = subprocess.run(["dvc", "cache", "dir"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        project.dvc("config", "--local", "cache.dir", cache.stdout.strip())
        project.dvc("checkout", "data/images", "data/test_images", "data/annotations.csv")
        yield project


def measured(project: Project, *command: str) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MB of one command in the clone.

    Raises:
        SystemExit: the command failed; the message includes its output.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=project.root, env=project.environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{output.read()}")
    return seconds, usage.ru_maxrss / (1 if sys.platform == "darwin" else 1000)
