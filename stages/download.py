"""Fetch the four raw files of a data set from the first source that works, and verify their content.

reads   nothing but params.yaml: dataset; download.sources, which cannot change a byte
writes  data/raw/: train and t10k images and labels as uncompressed IDX files; a note for a person's own images
run     dvc repro download, or: python -m stages.download
expect  55 MB in seconds to minutes; the same bytes whatever the source

The environment variable FASHION_MNIST_SOURCES (URLs or folders, separated by spaces; quote one that has a space in it)
is tried before the sources of params.yaml. A folder or URL must have the four files under their published names, with
or without .gz.
"""

import logging
import os
import shlex
import sys
from pathlib import Path

from classifier.errors import StageError
from classifier.prepare.registry import DATASETS
from classifier.prepare.sources import SourceError, fetch, opened
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage

OWN_IMAGES = "Nothing was downloaded: `dataset` in params.yaml names images in data/own/.\n"

logger = logging.getLogger("stages.download")


def main(context: StageContext) -> None:
    """Try one source after the other until one has given all four files."""
    dataset = context.params.dataset
    raw_folder = context.out("data/raw")
    if dataset not in DATASETS:
        raw_folder.mkdir()
        (raw_folder / "README.txt").write_text(OWN_IMAGES, encoding="utf-8")
        logger.info(f"nothing to download: data/own/{dataset} has the images")
        return
    named = os.environ.get("FASHION_MNIST_SOURCES", "")
    try:  # one folder, whose name may have spaces, or several
        first = [named] if named and Path(named).is_dir() else shlex.split(named)
    except ValueError as error:
        raise StageError(f"FASHION_MNIST_SOURCES={named}: {error}") from None
    timeout_seconds = context.params.download.timeout_seconds

    reasons = []
    for source in (*first, *context.params.download.sources.of(dataset)):
        try:
            with opened(source) as base:
                contents = {raw.name: fetch(base, raw, timeout_seconds) for raw in DATASETS[dataset].files}
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            logger.info(f"nothing usable from {source}; trying the next source")
            continue
        raw_folder.mkdir()
        for name, content in contents.items():
            (raw_folder / name).write_bytes(content)
        logger.info(f"wrote data/raw: {dataset}, {sum(map(len, contents.values())):,} verified bytes from {source}")
        return
    homepage = DATASETS[dataset].info["homepage"]
    raise StageError(
        f"no source gave {dataset}:"
        + "".join(f"\n  {reason}" for reason in reasons)
        + f"\nFetch the four .gz files from {homepage} on a machine that can, put them in a folder,"
        " and run: FASHION_MNIST_SOURCES=/that/folder dvc repro"
    )


if __name__ == "__main__":
    sys.exit(run_stage("download", main, __doc__))
