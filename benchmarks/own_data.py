"""Accuracy and time of the whole pipeline on two real sets of images, as own data.

    python benchmarks/own_data.py                 # Tango's icons need Debian's package tango-icon-theme

digits: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn (BSD), as a table of pixels.
icons: 850 icons of the Tango theme (public domain), 32x32 RGBA, in ten folders of 2 to 270; many are links to others.

Each set is run over three seeds of the split and of the training, in a temporary clone, with few params changed; the
changes are printed. Run nothing else at the same time.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from classifier.evaluate.metrics import wilson_interval
from tests.project import REPOSITORY, Project

import pandas as pd

TANGO = Path("/usr/share/icons/Tango/32x32")
SEEDS = (0, 1, 2)
# What a person would change, as `tools.check_images` advises.
CHANGES: dict[str, dict[str, Any]] = {
    "digits": {"train.batch_size": 64, "train.augment.hflip": False, "train.epochs": 20},
    "icons": {"train.batch_size": 16, "train.epochs": 20},
}


def write_digits(folder: Path) -> None:
    """A table with a column for each pixel, as Kaggle has them; 16 levels of gray become 256."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    frame = pd.DataFrame((digits.data * 255 / 16).round().astype(int))
    frame.columns = [f"pixel{number}" for number in frame]
    frame.insert(0, "label", digits.target)
    frame.to_csv(folder / "digits.csv", index=False)


def main() -> None:
    """Run both sets and print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(root)], check=True)
        project = Project(root, root)
        write_digits(root / "data/own")
        names = {"digits": "digits.csv"}
        if TANGO.is_dir():
            shutil.copytree(TANGO, root / "data/own/icons")
            names["icons"] = "icons"
        for name, source in names.items():
            project.run("git", "checkout", "--quiet", "params.yaml")
            project.set_all({"dataset": source, **CHANGES[name]})
            seconds, details = [], []
            for seed in SEEDS:
                project.set_all({"annotate.seed": seed, "train.seed": seed})
                start = time.monotonic()
                project.run("dvc", "repro")
                seconds.append(time.monotonic() - start)
                details.append(json.loads(project.read("metrics/evaluate/details.json")))
            accuracies = [each["accuracy"] for each in details]
            low, high = wilson_interval(accuracies[0], details[0]["num_images"])
            print(
                f"{name}: test accuracy {statistics.mean(accuracies):.2%} ± {statistics.stdev(accuracies):.2%} over "
                f"{len(SEEDS)} seeds (seed 0: {low:.2%} to {high:.2%} on {details[0]['num_images']} images), balanced "
                f"{statistics.mean(each['balanced_accuracy'] for each in details):.2%}, most frequent class "
                f"{details[0]['majority_accuracy']:.2%}; dvc repro {statistics.median(seconds):.0f} s; {CHANGES[name]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
