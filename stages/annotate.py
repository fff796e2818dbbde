"""Turn raw files or a person's own images into archives of PNG images and one CSV that annotates them.

reads   data/raw/, or data/own/NAME if `dataset` names one's own images; params.yaml: annotate, dataset
writes  data/images.zip (training and validation), data/test_images.zip, data/annotations.csv, data/dataset_info.json,
        metrics/annotate.json, and in metrics/annotate/: classes.csv, findings.csv, samples.png
run     dvc repro annotate, or: python -m stages.annotate
expect  70,000 images in about ten seconds; a validation split drawn from the training images, stratified by class;
        blank, identical and nearly identical images are counted and reported, and nothing is dropped

Nothing after this stage knows where the images came from: class names, channels and size come from the files.
`python -m tools.check_images data/own/NAME` shows beforehand what becomes of one's own images.
"""

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from classifier.config.schema import Annotate
from classifier.data import annotations, images
from classifier.data.pictures import drawable_names
from classifier.errors import StageError
from classifier.prepare import idx, own_images, packing, plots, splits
from classifier.prepare.data_quality import summarize
from classifier.prepare.registry import DATASETS
from classifier.progress import progress_bar
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage

import numpy as np
import pandas as pd

DECIMALS = 6
LISTED_FINDINGS = 500  # rows of the table, the worst first

logger = logging.getLogger("stages.annotate")


@dataclass
class Source:
    """Images before they are written.

    Attributes:
        rows: ``image``, ``label``, ``class_name``, ``split``, and for one's own images ``group``.
        class_names: of classes 0, 1, ...
        decoded: place in the rows and pixels of each image, or why there are none.
        info: name and license, and how the images became pixels.
        problems: files that cannot be used, a line each.
    """

    rows: pd.DataFrame
    class_names: list[str]
    decoded: Iterable[tuple[int, np.ndarray | StageError]]
    info: dict[str, str]
    problems: list[str] = field(default_factory=list)


def main(context: StageContext) -> None:
    """Pack the images, annotate them, draw the splits, describe the result."""

    params, dataset = context.params.annotate, context.params.dataset
    own_path = context.dep(f"data/own/{dataset}")
    if dataset in DATASETS:
        source = read_builtin(context.dep("data/raw"), dataset, params)
    else:
        source = read_own(own_path, params)

    if not (source.rows["split"] == "train").any():
        raise StageError("annotate.validation_fraction: leaves no image to train with; a smaller one would")
    archives = {False: context.out("data/images.zip"), True: context.out("data/test_images.zip")}
    packed = packing.pack(source.rows, source.decoded, archives, skip=params.bad_files == "skip")
    rows = source.rows[packed.kept].reset_index(drop=True)
    if problems := source.problems + packed.problems:
        logger.warning(f"left out: {len(problems):,} files or rows, the first is {problems[0]}")
    annotations.write(context.out("data/annotations.csv"), rows)
    context.write_json("data/dataset_info.json", source.info)

    counts, findings = packed.quality.findings(rows, lambda places: packed.lookup(rows, archives, places))
    if "source" in rows:
        counts["left_out"] = len(problems)
    means, stds = ([round(value, DECIMALS) for value in values] for values in images.mean_and_std_of(packed.histogram))
    num_images = rows["split"].value_counts().sort_index()
    gray = len(means) == 1
    context.write_json(
        "metrics/annotate.json",
        {
            "findings": counts,
            "num_images": {str(split): int(count) for split, count in num_images.items()},
            "training_pixels": {"mean": means[0] if gray else means, "std": stds[0] if gray else stds},
        },
    )
    listed = findings.head(LISTED_FINDINGS).drop(columns=["labels_differ", "splits_differ"])
    of_image = rows.set_index("image")[["class_name", "split"]]
    for prefix, column in (("", "image"), ("other_", "other")):
        found = of_image.reindex(listed[column])
        listed[f"{prefix}label"], listed[f"{prefix}split"] = found["class_name"].to_numpy(), found["split"].to_numpy()
    listed.to_csv(context.out("metrics/annotate/findings.csv"), index=False, lineterminator="\n")
    by_class = pd.crosstab(rows["class_name"], rows["split"]).loc[source.class_names]
    by_class.to_csv(context.out("metrics/annotate/classes.csv"), index_label="class", lineterminator="\n")
    names = drawable_names(source.class_names)
    samples = [(name, np.stack(packed.samples[label])) for label, name in enumerate(names)]
    plots.sample_grid(context.out("metrics/annotate/samples.png"), samples)
    sizes = ", ".join(f"{split} {count:,}" for split, count in num_images.items())
    logger.info(f"wrote data/images.zip, data/test_images.zip, data/annotations.csv: {len(rows):,} images ({sizes})")
    logger.info(summarize(counts))


def read_own(path: Path, params: Annotate) -> Source:
    """A person's own images.

    Raises:
        StageError: a file or row cannot be used and ``annotate.bad_files`` is stop, or too little is left.
    """

    own = own_images.load(path, params)
    for note in own.notes:
        logger.info(f"{path}: {note}")
    if own.problems and params.bad_files == "stop":
        others = f"; {len(own.problems) - 1:,} more: python -m tools.check_images {path}" if own.problems[1:] else ""
        raise StageError(f"{own.problems[0]}{others}; mend that, or set annotate.bad_files: skip")
    for line in own_images.thin_classes(own.rows, own.class_names):
        logger.warning(line)
    info = {**own.collection.info, "fit": own.preprocessing.fit, "background": own.preprocessing.background}
    return Source(own.rows, own.class_names, own.decode(), info, own.problems)


def read_builtin(raw: Path, dataset: str, params: Annotate) -> Source:
    """A dataset of the registry, from its raw files.

    Raises:
        StageError: a file is corrupt, or does not fit the others.
    """

    class_names = DATASETS[dataset].class_names
    train_pixels, train_labels = read_raw(raw, "train")
    test_pixels, test_labels = read_raw(raw, "t10k")
    train = make_annotations(train_labels, "train", class_names)
    test = make_annotations(test_labels, "test", class_names)
    if params.validation_fraction:
        train.loc[splits.draw(train, params.validation_fraction, params.seed, params.validation_fold), "split"] = "val"
    rows = pd.concat([train, test], ignore_index=True)
    check_classes(rows, class_names)
    pixels = (image[None] for part in (train_pixels, test_pixels) for image in part)
    decoded = enumerate(progress_bar(pixels, "packing images", total=len(rows)))
    return Source(rows, list(class_names), decoded, dict(DATASETS[dataset].info))


def read_raw(raw: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, H, W)`` and labels ``(N,)`` of one part of the raw files, ``train`` or ``t10k``.

    Raises:
        StageError: a file is corrupt, or the numbers of images and labels differ.
    """

    pixels = idx.read(raw / f"{part}-images-idx3-ubyte", dimensions=3)
    labels = idx.read(raw / f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(pixels) != len(labels):
        raise StageError(f"{raw}: {part} has {len(pixels):,} images but {len(labels):,} labels; download it again")
    return pixels, labels


def make_annotations(labels: np.ndarray, split: str, class_names: tuple[str, ...]) -> pd.DataFrame:
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


def check_classes(rows: pd.DataFrame, class_names: tuple[str, ...]) -> None:
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
