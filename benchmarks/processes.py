"""Distributed training on one machine: speed and results of two processes, with the default params on the real data.

Compares one process with two threads and two processes with one thread each, run in turn, for two seeds: seconds per
epoch after the first (which includes the start), and the curves. One process is portable, two are not. Each run has
three epochs and a schedule planned for three, so the accuracies are not those of the full training. Everything runs in
a copy; the clone itself is unchanged.

Run it from the root of a clone that has the data, with nothing else running: python benchmarks/processes.py
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from classifier import yaml_file

import pandas as pd
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]

EPOCHS, SEEDS = 3, (0, 1)
WAYS = [(1, 2), (2, 1)]  # processes, threads per process


def prepare(root: Path) -> None:
    """Copy the files that `train` needs; link the data."""
    for name in ("classifier", "stages", "dvc.yaml", "params.yaml"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, root / name)
    shutil.copytree(REPOSITORY / "models/pretrained", root / "models/pretrained")
    (root / "data").symlink_to(REPOSITORY / "data")


def train(root: Path, processes: int, threads: int, seed: int) -> tuple[float, pd.DataFrame]:
    """Train once; return the seconds per epoch after the first, and the curves."""
    params = yaml_file.load((REPOSITORY / "params.yaml").read_text())
    params["train"].update(world_size=processes, seed=seed, epochs=EPOCHS)
    params["compute"].update(device="cpu", portable=processes == 1)
    params["runtime"].update(threads=threads)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    ends = []
    with subprocess.Popen(
        [sys.executable, "-m", "stages.train"], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        ends = [time.perf_counter() for line in process.stdout if "epoch " in line and "loss" in line]
    assert process.returncode == 0
    return (ends[-1] - ends[0]) / (EPOCHS - 1), pd.read_csv(root / "metrics/train/curves.csv")


def main() -> None:
    """Run all combinations and print the results."""
    seconds: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for seed in SEEDS:
            for way in WAYS:
                duration, curve = train(Path(folder), *way, seed)
                seconds[way].append(duration)
                last = curve.iloc[-1]
                print(
                    f"{way[0]} processes x {way[1]} threads, seed {seed}: {duration:5.1f} s per epoch, "
                    f"training loss {last['train_loss']:.4f}, validation loss {last['val_loss']:.4f}, "
                    f"accuracy {last['val_acc']:.2%}",
                    flush=True,
                )
    one, several = (statistics.mean(seconds[way]) for way in WAYS)
    print(f"time of two processes against one: {several / one:.2f}")


if __name__ == "__main__":
    main()
