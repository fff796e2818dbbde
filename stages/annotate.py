"""Turn raw files or a person's own images into shards of PNG images and one CSV that annotates them.

reads   data/raw/, or data/own/NAME if `dataset` names one's own images; params.yaml: annotate, dataset
writes  data/images/ (training and validation), data/test_images/, data/annotations.csv, data/dataset_info.json,
        metrics/annotate.json, and in metrics/annotate/: classes.csv, findings.csv, samples.png
run     dvc repro annotate, or: python -m stages.annotate
expect  70,000 images in about twenty seconds, in four if nothing changed; a validation split drawn from the training
        images; blank, identical and nearly identical images are counted and reported, and nothing is dropped

Nothing after this stage knows where the images came from: class names, channels and size come from the files.
`python -m tools.check_images data/own/NAME` shows beforehand what becomes of one's own images.
"""

import logging
import sys

from classifier.data import annotations, images
from classifier.data.pictures import drawable_names
from classifier.errors import StageError
from classifier.prepare import labeled_images, packing, plots, quality
from classifier.prepare.registry import DATASETS
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage

import pandas as pd

DECIMALS = 6

logger = logging.getLogger("stages.annotate")


def main(context: StageContext) -> None:
    """Read the images, pack them, annotate them, draw the splits, describe the result."""
    dataset, options = context.params.dataset, context.params.annotate
    built_in = DATASETS.get(dataset)
    own_path = context.dep(f"data/own/{dataset}")
    path = context.dep("data/raw") if built_in else own_path
    cache, class_names = context.cache(), built_in.class_names if built_in else ()
    found = labeled_images.load(path, options, class_names=class_names, memory=cache)
    for note in () if built_in else found.notes:
        logger.info(f"{path}: {note}")
    if found.problems and options.bad_files == "stop":
        more = len(found.problems) - 1
        others = f"; {more:,} more: python -m tools.check_images {path}" if more else ""
        raise StageError(f"{found.problems[0]}{others}; mend that, or set annotate.bad_files: skip")

    folders = {False: context.out("data/images"), True: context.out("data/test_images")}
    packed = packing.pack(found, folders, options, cache / "shards", context.params.runtime.scheduler)
    rows = packed.rows
    for line in labeled_images.thin_classes(rows, found.class_names):
        logger.warning(line)
    if problems := found.problems + packed.problems:
        logger.warning(f"left out: {len(problems):,} files or rows, the first is {problems[0]}")
    annotations.write(context.out("data/annotations.csv"), rows)
    info = built_in.info if built_in else found.collection.info
    how = {"fit": found.preprocessing.fit, "background": found.preprocessing.background}
    if built_in and options.size == "auto":
        how = {}  # nothing was fitted, so a picture for the model is stretched, which keeps its background
    context.write_json("data/dataset_info.json", {**info, **how})

    counts, pairs = quality.findings(rows, packed.figures, packed.lookup, cache / "near_duplicates")
    counts["left_out"] = len(problems)
    means, stds = ([round(value, DECIMALS) for value in values] for values in images.mean_and_std_of(packed.histogram))
    num_images = {str(split): int(count) for split, count in rows["split"].value_counts().sort_index().items()}
    gray = len(means) == 1
    context.write_json(
        "metrics/annotate.json",
        {
            "findings": counts,
            "num_images": num_images,
            "training_pixels": {"mean": means[0] if gray else means, "std": stds[0] if gray else stds},
        },
    )
    listed = pairs.head(quality.LISTED)[quality.COLUMNS]
    listed.to_csv(context.out("metrics/annotate/findings.csv"), index=False, lineterminator="\n")
    by_class = pd.crosstab(rows["class_name"], rows["split"]).loc[found.class_names]
    by_class.to_csv(context.out("metrics/annotate/classes.csv"), index_label="class", lineterminator="\n")
    names = drawable_names(found.class_names)
    samples = packed.samples()
    plots.sample_grid(
        context.out("metrics/annotate/samples.png"), [(name, samples[label]) for label, name in enumerate(names)]
    )
    sizes = ", ".join(f"{split} {count:,}" for split, count in num_images.items())
    logger.info(f"wrote data/images, data/test_images, data/annotations.csv: {len(rows):,} images ({sizes})")
    logger.info(quality.summarize(counts))


if __name__ == "__main__":
    sys.exit(run_stage("annotate", main, __doc__))
