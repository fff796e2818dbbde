"""Turn the raw files into one ZIP of PNG images and one CSV that annotates them.

reads   data/raw/; params.yaml: annotate, download.dataset (for the class names and the licence)
writes  data/images.zip, data/annotations.csv, data/origin.json, metrics/annotate.json, metrics/annotate/samples.png
run     dvc repro annotate, or: python -m stages.annotate
expect  70,000 images in about ten seconds; validation rows drawn from the training images, stratified by class; what is
        odd about the images (blank, identical, nearly identical ones) is counted and said, and nothing is dropped

Nothing after this stage knows that the images were FashionMNIST: put your own ZIP (or folder) and CSV in its place.
"""

import sys
from pathlib import Path

if not __package__:  # run as `python stages/annotate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from stages.lib import annotations, images
from stages.lib.annotate import checks, idx, pictures
from stages.lib.catalog import CATALOG
from stages.lib.progress import bar
from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run, run_stage

SAMPLES_PER_CLASS = 10


def read_raw(raw: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, H, W)`` and labels ``(N,)`` of one part of the raw files, ``train`` or ``t10k``.

    Raises:
        StageError: a file is damaged, or there is not one label an image.
    """
    pixels = idx.read(raw / f"{part}-images-idx3-ubyte", dimensions=3)
    labels = idx.read(raw / f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(pixels) != len(labels):
        raise StageError(f"{raw}: {part} has {len(pixels):,} images but {len(labels):,} labels; download it again")
    return pixels, labels


def annotate(labels: np.ndarray, split: str, class_names: tuple[str, ...]) -> pd.DataFrame:
    """One row an image, named ``split/00000.png`` and so on in the order of the raw file.

    Raises:
        StageError: a label has no class name.
    """
    if labels.max() >= len(class_names):
        raise StageError(f"data/raw: {split} has the label {labels.max()}; the classes are 0 to {len(class_names) - 1}")
    return pd.DataFrame(
        {
            "image": [f"{split}/{number:05d}.png" for number in range(len(labels))],
            "label": labels,
            "class_name": np.array(class_names)[labels],
            "split": split,
        }
    )


def draw_validation(rows: pd.DataFrame, fraction: float, seed: int) -> pd.Index:
    """The rows that become validation rows: that fraction of every class, drawn by the seed."""
    return rows.groupby("label").sample(frac=fraction, random_state=seed).index


def check_classes(rows: pd.DataFrame, class_names: tuple[str, ...]) -> None:
    """Refuse a split without an image of some class: nothing could be learned or said about it.

    Raises:
        StageError: a class is missing.
    """
    for split, of_split in rows.groupby("split"):
        absent = [name for name in class_names if name not in set(of_split["class_name"])]
        if absent:
            raise StageError(f"data/raw: no {split} image of the class {', '.join(absent)}; download it again")


def main(run: Run) -> None:
    """Pack, annotate, draw the validation rows, describe."""
    params = run.param("annotate")
    dataset = CATALOG[run.param("download.dataset")]
    class_names = dataset.class_names
    raw = run.dep("data/raw")

    train_pixels, train_labels = read_raw(raw, "train")
    test_pixels, test_labels = read_raw(raw, "t10k")
    train = annotate(train_labels, "train", class_names)
    test = annotate(test_labels, "test", class_names)
    train.loc[draw_validation(train, params.validation_fraction, params.seed), "split"] = "val"
    rows = pd.concat([train, test], ignore_index=True)
    check_classes(rows, class_names)

    images.write_zip(
        run.out("data/images.zip"),
        bar(rows["image"], "packing images", total=len(rows)),
        (image for part in (train_pixels, test_pixels) for image in part),
    )
    annotations.write(run.out("data/annotations.csv"), rows)
    run.write_json("data/origin.json", dataset.origin)

    findings = checks.findings(np.concatenate([train_pixels, test_pixels]), rows)
    (mean,), (std,) = images.mean_and_std([train_pixels[train["split"] == "train"][:, None]])
    counts = pd.crosstab(rows["split"], rows["class_name"])
    run.write_json(
        "metrics/annotate.json",
        {
            "findings": findings,
            "rows": {str(split): {"total": int(row.sum()), **row.to_dict()} for split, row in counts.iterrows()},
            "training_pixels": {"mean": round(mean, 6), "std": round(std, 6)},
        },
    )
    pictures.sample_grid(
        run.out("metrics/annotate/samples.png"),
        [
            (name, train_pixels[(train_labels == label).nonzero()[0][:SAMPLES_PER_CLASS]])
            for label, name in enumerate(class_names)
        ],
    )
    sizes = ", ".join(f"{split} {n:,}" for split, n in counts.sum(axis="columns").items())
    run.say(f"wrote data/images.zip and data/annotations.csv: {len(rows):,} images ({sizes})")
    run.say(checks.in_words(findings))


if __name__ == "__main__":
    sys.exit(run_stage("annotate", main, __doc__))
