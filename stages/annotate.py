"""Turn the raw files into one ZIP of PNG images and one CSV that annotates them.

reads   data/raw/; params.yaml: annotate, download.dataset (for the class names and the license)
writes  data/images.zip, data/annotations.csv, data/dataset_info.json, metrics/annotate.json, and in metrics/annotate/:
        classes.csv, samples.png
run     dvc repro annotate, or: python -m stages.annotate
expect  70,000 images in about ten seconds; a validation split drawn from the training images, stratified by class;
        blank, identical and nearly identical images are counted and reported, and nothing is dropped

Nothing after this stage knows that the images were FashionMNIST: class names, channels and size come from the files.
"""

import classifier.runner  # noqa: F401 (first of all: Ctrl-C ends the program without a traceback)

# isort: split
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import StageError
from classifier.runner.stage import run_stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from classifier.runner.context import StageContext

SAMPLES_PER_CLASS = 10
DECIMALS = 6

logger = logging.getLogger("stages.annotate")


def main(context: "StageContext") -> None:
    """Pack the images, annotate them, draw the validation split, describe the result."""
    import numpy as np
    import pandas as pd

    from classifier import annotations, images
    from classifier.annotate import data_quality, plots
    from classifier.dataset_registry import DATASETS
    from classifier.progress import progress_bar

    params = context.param("annotate")
    dataset = DATASETS[context.param("download.dataset")]
    class_names = dataset.class_names
    raw = context.dep("data/raw")

    train_pixels, train_labels = read_raw(raw, "train")
    test_pixels, test_labels = read_raw(raw, "t10k")
    train = make_annotations(train_labels, "train", class_names)
    test = make_annotations(test_labels, "test", class_names)
    train.loc[draw_validation_split(train, params.validation_fraction, params.seed), "split"] = "val"
    rows = pd.concat([train, test], ignore_index=True)
    check_classes(rows, class_names)

    images.write_zip(
        context.out("data/images.zip"),
        progress_bar(rows["image"], "packing images", total=len(rows)),
        (image for part in (train_pixels, test_pixels) for image in part),
    )
    annotations.write(context.out("data/annotations.csv"), rows)
    context.write_json("data/dataset_info.json", dataset.info)

    findings = data_quality.find_issues(np.concatenate([train_pixels, test_pixels]), rows)
    (mean,), (std,) = images.mean_and_std([train_pixels[train["split"] == "train"][:, None]])
    num_images = rows["split"].value_counts().sort_index()
    context.write_json(
        "metrics/annotate.json",
        {
            "findings": findings,
            "num_images": {str(split): int(count) for split, count in num_images.items()},
            "training_pixels": {"mean": round(mean, DECIMALS), "std": round(std, DECIMALS)},
        },
    )
    by_class = pd.crosstab(rows["class_name"], rows["split"]).loc[list(class_names)]
    by_class.to_csv(context.out("metrics/annotate/classes.csv"), index_label="class", lineterminator="\n")
    plots.sample_grid(
        context.out("metrics/annotate/samples.png"),
        [
            (name, train_pixels[(train_labels == label).nonzero()[0][:SAMPLES_PER_CLASS]])
            for label, name in enumerate(class_names)
        ],
    )
    sizes = ", ".join(f"{split} {count:,}" for split, count in num_images.items())
    logger.info(f"wrote data/images.zip and data/annotations.csv: {len(rows):,} images ({sizes})")
    logger.info(data_quality.summarize(findings))


def read_raw(raw: Path, part: str) -> "tuple[np.ndarray, np.ndarray]":
    """Images ``(N, H, W)`` and labels ``(N,)`` of one part of the raw files, ``train`` or ``t10k``.

    Raises:
        StageError: a file is corrupt, or the numbers of images and labels differ.
    """
    from classifier.annotate import idx

    pixels = idx.read(raw / f"{part}-images-idx3-ubyte", dimensions=3)
    labels = idx.read(raw / f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(pixels) != len(labels):
        raise StageError(f"{raw}: {part} has {len(pixels):,} images but {len(labels):,} labels; download it again")
    return pixels, labels


def make_annotations(labels: "np.ndarray", split: str, class_names: tuple[str, ...]) -> "pd.DataFrame":
    """One row an image, named ``split/00000.png`` and so on in the order of the raw file.

    Raises:
        StageError: a label has no class name.
    """
    import numpy as np
    import pandas as pd

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


def draw_validation_split(rows: "pd.DataFrame", fraction: float, seed: int) -> "pd.Index":
    """The rows of the validation split: that fraction of every class, drawn by the seed."""
    return rows.groupby("label").sample(frac=fraction, random_state=seed).index


def check_classes(rows: "pd.DataFrame", class_names: tuple[str, ...]) -> None:
    """Refuse a split without an image of some class: nothing could be learned or said about that class.

    Raises:
        StageError: a class is missing.
    """
    for split, of_split in rows.groupby("split"):
        absent = [name for name in class_names if name not in set(of_split["class_name"])]
        if absent:
            raise StageError(f"data/raw: no {split} image of the class {', '.join(absent)}; download it again")


if __name__ == "__main__":
    sys.exit(run_stage("annotate", main, __doc__))
