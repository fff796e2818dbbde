"""A temporary clone of this repository with the real data, for benchmarks that run stages with other params."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project

REPOSITORY = Path(__file__).resolve().parents[1]
# In a process of its own: Linux counts the memory of whoever starts a process to that process.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - start, os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""


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
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        cwd=project.root, env=project.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, status, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}\n{done.stderr}")
    return seconds, peak / (1e6 if sys.platform == "darwin" else 1000)
