"""Overhead of the pipeline: DVC with nothing to do, and the fixed cost of a stage.

The ratios come from one run, so they hold on a noisy machine: the commands of a pair run in turn, medians of 9.

1. `dvc status` and `dvc repro` with nothing to do, against a DVC repository with one trivial stage;
2. `evaluate` with the committed model and data, against importing torch;
3. the overhead of a stage: from its start to its first useful work, and from the end of its work to the end of the
   process (hashing the inputs again, publishing), against a bare `python -c "import ..."` of the libraries it needs.

Run it from the root of a clone after `make repro`: python benchmarks/overhead.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.project import make_project, make_raw

REPOSITORY = Path(__file__).resolve().parents[1]

ROUNDS = 9

# Runs a stage and prints the seconds that are overhead: up to the first call of the function in which its work begins
# (argument 3), and from publishing on. CLOCK_MONOTONIC is shared by all processes, so the parent passes the start.
OVERHEAD = """
import importlib, sys, time
start, stage, first = float(sys.argv[1]), sys.argv[2], sys.argv[3]
from classifier.runner import stage as runner
from classifier.runner.context import StageContext
script = importlib.import_module(f"stages.{stage}")
work_ends = []
publish = StageContext._publish
StageContext._publish = lambda context: (work_ends.append(time.monotonic()), publish(context))[1]
def main(context):
    holder, _, name = first.rpartition(".")
    module = importlib.import_module(holder)
    function = getattr(module, name)
    def stop_the_clock(*arguments, **options):
        work_starts.append(time.monotonic())
        return function(*arguments, **options)
    setattr(module, name, stop_the_clock)
    script.main(context)
work_starts = []
status = runner.run_stage(stage, main, None, [])
print(work_starts[0] - start + time.monotonic() - work_ends[0])
sys.exit(status)
"""
FIRST_WORK = {  # stage: the function in which its work begins, and the imports it needs
    "annotate": ("classifier.prepare.idx.read", "pandas, PIL.Image, matplotlib.figure"),
    "train": ("classifier.data.dataset.load_splits", "torch, pandas"),
    "evaluate": ("classifier.data.dataset.load_splits", "torch, pandas"),
    "export": ("classifier.data.dataset.load_splits", "torch, pandas, onnx, onnxruntime"),
}


def seconds(command: list[str], cwd: Path) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def pair(name: str, a: list[str], a_cwd: Path, b: list[str], b_cwd: Path) -> None:
    """Run two commands in turn; print the medians of both, and of their ratio."""
    seconds(a, a_cwd), seconds(b, b_cwd)  # warm caches
    report(name, [(seconds(a, a_cwd), seconds(b, b_cwd)) for _ in range(ROUNDS)])


def report(name: str, rows: list[tuple[float, float]]) -> None:
    """Print the medians of both columns, and the median of the ratios."""
    mine, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(x / y for x, y in rows)
    print(f"{name:<92} {mine:6.2f} s {theirs:6.2f} s   ratio {ratio:5.2f}   difference {mine - theirs:5.2f} s")


def overhead(stage: str, first: str, needs: str, root: Path) -> None:
    """Run a stage and bare imports in turn; print the medians of the stage's overhead and of the imports."""
    rows = []
    for _ in range(ROUNDS):
        imports = seconds([sys.executable, "-c", f"import {needs}"], root)
        command = [sys.executable, "-c", OVERHEAD, str(time.monotonic()), stage, first]
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        rows.append((float(done.stdout.splitlines()[-1]), imports))
    report(f"{stage}, overhead: against python -c 'import {needs}'", rows)


def trivial_repository(root: Path) -> Path:
    """A DVC repository with one stage that copies one file."""
    (root / "in").write_text("x")
    (root / "dvc.yaml").write_text("stages:\n  copy:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


def main() -> None:
    """Measure and print all pairs."""
    with tempfile.TemporaryDirectory() as folder:
        trivial = Path(folder) / "trivial"
        trivial.mkdir()
        trivial_repository(trivial)
        print(f"{'':<92} {'this':>8} {'other':>8}")
        pair(
            "dvc status: this repository against a trivial one",
            ["dvc", "status"],
            REPOSITORY,
            ["dvc", "status"],
            trivial,
        )
        pair("dvc repro, nothing to do: the same", ["dvc", "repro"], REPOSITORY, ["dvc", "repro"], trivial)
        evaluate, imports = ([sys.executable, *words] for words in (["-m", "stages.evaluate"], ["-c", "import torch"]))
        pair("evaluate, in full: against python -c 'import torch'", evaluate, REPOSITORY, imports, REPOSITORY)

        raw = make_raw(Path(folder) / "raw")
        project = make_project(Path(folder) / "project", raw)
        project.repro()
        os.environ["FASHION_MNIST_SOURCES"] = str(raw)
        for stage, (first, needs) in FIRST_WORK.items():
            overhead(stage, first, needs, project.root)


if __name__ == "__main__":
    main()
