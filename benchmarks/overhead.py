"""What the pipeline costs a person who waits: DVC with nothing to do, and a stage's own overhead.

Ratios from one run, so that they hold on a noisy machine: the commands of a pair run in turn, medians of 9.

1. `dvc status` and `dvc repro` with nothing to do, against a DVC repository with one trivial stage;
2. a whole stage on a tiny data set, against a bare `python -c "import ..."` of what it cannot do without.

Run it from the root of a clone that `make repro` has finished: python benchmarks/overhead.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[0] = str(REPOSITORY)

from tests.project import make_project, make_raw

ROUNDS = 9


def seconds(command: list[str], cwd: Path) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def pair(name: str, a: list[str], a_cwd: Path, b: list[str], b_cwd: Path) -> None:
    """Print the medians of two commands that ran in turn, and of their ratios."""
    seconds(a, a_cwd), seconds(b, b_cwd)  # warm caches
    rows = [(seconds(a, a_cwd), seconds(b, b_cwd)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(x / y for x, y in rows)
    print(f"{name:<58} {mine:6.2f} s {theirs:6.2f} s   ratio {ratio:5.2f}   difference {mine - theirs:5.2f} s")


def trivial_repository(root: Path) -> Path:
    """A DVC repository with one stage that copies one file."""
    (root / "in").write_text("x")
    (root / "dvc.yaml").write_text("stages:\n  copy:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        trivial = Path(folder) / "trivial"
        trivial.mkdir()
        trivial_repository(trivial)
        print(f"{'':<58} {'mine':>8} {'other':>8}")
        pair(
            "dvc status: this repository against a trivial one",
            ["dvc", "status"],
            REPOSITORY,
            ["dvc", "status"],
            trivial,
        )
        pair("dvc repro, nothing to do: the same", ["dvc", "repro"], REPOSITORY, ["dvc", "repro"], trivial)

        raw = make_raw(Path(folder) / "raw")
        project = make_project(Path(folder) / "project", raw)
        project.repro()
        python = sys.executable
        for stage, needs in {
            "download": "fsspec, aiohttp",
            "annotate": "pandas, PIL.Image, matplotlib.figure",
            "train": "torch, pandas",
            "evaluate": "torch, pandas",
        }.items():
            env = ["env", f"FASHION_MNIST_SOURCES={raw}"]
            other = [python, "-c", f"import {needs}"]
            name = f"{stage}, 500 images: against python -c 'import {needs}'"
            pair(name, [*env, python, "-m", f"stages.{stage}"], project.root, other, project.root)


if __name__ == "__main__":
    main()
