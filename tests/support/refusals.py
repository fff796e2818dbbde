"""Start a run that must be refused, again and again, and collect what it printed.

run     python -m tests.support.refusals [TIMES]      (50 if left out)
expect  "50 of 50 printed their error exactly once"; three seconds each
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.project import Project, make_project, make_raw

LAUNCHED = ("torchrun", "--nproc-per-node", "2", "-m", "stages.train")


def refusals(project: Project, command: Sequence[str], times: int) -> Iterator[str]:
    """What each run printed as errors; its status must not be 0."""
    for _ in range(times):
        process = project.start(*command)
        try:
            _, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode != 0
        yield errors


def main(times: int) -> int:
    """Refuse ``train.world_size: 3`` in two processes that many times."""
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder) / "project", make_raw(Path(folder) / "raw"))
        project.dvc("repro", "annotate")
        project.set(train__world_size=3)
        counts = [errors.count("train: error: train.world_size: is 3") for errors in refusals(project, LAUNCHED, times)]
    print(
        f"{counts.count(1)} of {times} printed their error exactly once" + (f": {counts}" if set(counts) != {1} else "")
    )
    return int(set(counts) != {1})


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
