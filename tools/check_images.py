"""Look at your own images before they are used: what they are taken for, what is odd, and what to put into params.yaml.

reads   PATH: a folder, an archive or a table of images; params.yaml: annotate
writes  nothing; prints forms, counts, sizes, and every file or row that cannot be used
run     python -m tools.check_images data/own/NAME
expect  seconds; exit status 1 if anything cannot be used
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from classifier import yaml_file
from classifier.config import params_file
from classifier.config.schema import Train
from classifier.errors import StageError, shorten
from classifier.prepare import labeled_images
from classifier.prepare.labeled_images import LabeledImages
from classifier.runner.cli import ROOT, make_parser, run_tool

import numpy as np
import pandas as pd

CLASSES_LISTED = 30
FAINT = 40  # gray levels of 255, from the darkest to the brightest pixel: with less, an image is as good as blank
# The learning rates are for batches of 256. Measured on sets of 12 to 432 training images: batches of 1 to 4 learned
# nothing, batches of 16 too little if there are 35 classes, and so did 100 steps.
MIN_BATCH, MIN_STEPS = 32, 350


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and look."""
    parser = make_parser("tools.check_images", __doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, an archive or a table of images")
    return run_tool("check_images", parser, look, argv)


def look(arguments: argparse.Namespace) -> int:
    """Print what becomes of the images, decoding every one."""
    params, _ = params_file.read(ROOT / "params.yaml")
    problems: list[str] = []
    try:
        own = labeled_images.load(arguments.path, params.annotate, problems)
        failed, blank = {}, []
        for place, result in enumerate(own.decode()):
            if isinstance(result, StageError):
                failed[place] = str(result)
            elif np.ptp(result) < FAINT:
                blank.append(own.rows["source"][place])
        problems += failed.values()
        own.rows = own.rows.drop(index=[*failed])
    finally:  # before the reason why too little is left
        for line in problems:
            print(f"problem: {line}", flush=True)
    for note in own.notes:
        print(note)
    counts = pd.crosstab(own.rows["class_name"], own.rows["split"]).reindex(own.class_names, fill_value=0)
    counts = counts[[split for split in ("train", "val", "test") if split in counts]]
    print(f"{len(own.rows):,} images in {len(own.class_names):,} classes: {shorten(own.class_names)}")
    counts.index = [shorten([name]) for name in counts.index]
    print(counts.head(CLASSES_LISTED).to_string(index_names=False))
    if len(counts) > CLASSES_LISTED:
        print(f"... and {len(counts) - CLASSES_LISTED:,} more classes")
    thin = labeled_images.thin_classes(own.rows, own.class_names)
    for line in [*thin, *contradictions(own.rows), *invisible(own, blank)]:
        print(f"note: {line}")
    print(lines_for_params(arguments.path, own, len(problems), params.train))
    return int(bool(problems))


def contradictions(rows: pd.DataFrame) -> list[str]:
    """A line if copies of one image are in several classes, so that one of them must be wrong."""
    several = rows[rows.groupby("content")["class_name"].transform("nunique") > 1].sort_values(["content", "source"])
    first = several["source"][several["content"] == several["content"].max()]
    return [f"{len(several):,} copies are in several classes, such as {shorten(first)}"] * (not several.empty)


def invisible(own: LabeledImages, blank: list[str]) -> list[str]:
    """A line if some of the blank images, by their sources, are not blank on the other background."""
    background = own.preprocessing.background
    other = "white" if background == "black" else "black"
    how = replace(own.preprocessing, background=other, fit="stretch")  # without padding: transparency alone matters
    seen = [name for name in blank if np.ptp(how(own.collection.find(name), name)) >= FAINT]
    line = f"{len(seen):,} of {len(own.rows):,} images cannot be seen on {background}, such as {shorten(seen)}"
    return [f"{line}; set annotate.background: {other}"] * bool(seen)


def advise(images: int, batch_size: int, epochs: int) -> tuple[int, int]:
    """Batch size and epochs for a number of training images: those of the params, unless these make too few steps."""
    if images < 20 * max(batch_size, MIN_BATCH):
        batch_size = min(images, max(MIN_BATCH, 2 ** (images // 20).bit_length() // 2))
    while images % batch_size == 1:  # a last batch of one is too few for batch normalization
        batch_size += 1
    return batch_size, max(epochs, math.ceil(MIN_STEPS / math.ceil(images / batch_size)))


def lines_for_params(path: Path, own: LabeledImages, problems: int, train: Train) -> str:
    """Lines for params.yaml, as a person types it."""
    folder = ROOT / "data" / "own"
    name = path.name if yaml_file.load(path.name) == path.name else json.dumps(path.name, ensure_ascii=False)
    lines = ["", "In params.yaml:", f"  dataset: {name}"]
    if path.resolve().parent != folder.resolve():
        lines[1] = f"Copy it to data/own/{path.name}; in params.yaml:"
    if problems:
        lines.append("  annotate.bad_files: skip      # leaves them out and counts them; or mend them")
    training = int((own.rows["split"] == "train").sum())
    batch_size, epochs = advise(training, train.batch_size, train.epochs)
    if batch_size != train.batch_size:
        lines.append(f"  train.batch_size: {batch_size}      # {training:,} training images: more steps an epoch")
    if epochs != train.epochs:
        lines.append(f"  train.epochs: {epochs}      # {training:,} training images: more steps in all")
    if train.augment.hflip:
        lines.append(
            "  train.augment.hflip: false    # if a mirror image is another class, or none: digits, text, signs"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
