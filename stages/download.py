"""Fetch the four raw files of a data set from the first source that works, and verify their content.

reads   nothing but params.yaml: download.dataset; download.sources, which cannot change a byte
writes  data/raw/: train and t10k images and labels as uncompressed IDX files
run     dvc repro download, or: python -m stages.download
expect  55 MB in seconds to minutes; the same bytes whatever the source

The environment variable FASHION_MNIST_SOURCES (URLs or folders, separated by spaces) is tried before params.yaml's
sources. A folder or URL must hold the four files under their published names, with or without .gz.
"""

import os
import sys
from pathlib import Path

if not __package__:  # run as `python stages/download.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.catalog import CATALOG
from stages.lib.download.sources import SourceError, fetch, opened
from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run, run_stage


def main(run: Run) -> None:
    """Try one source after the other until one has given all four files."""
    dataset = run.param("download.dataset")
    raw_folder = run.out("data/raw")
    sources = [*os.environ.get("FASHION_MNIST_SOURCES", "").split(), *run.setting("download.sources")[dataset]]
    timeout_seconds, retries = run.setting("download.timeout_seconds"), run.setting("download.retries")

    reasons = []
    for source in sources:
        try:
            with opened(source) as base:
                contents = {raw.name: fetch(base, raw, timeout_seconds, retries) for raw in CATALOG[dataset].files}
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            run.say(f"nothing usable from {source}; trying the next source")
            continue
        raw_folder.mkdir()
        for name, content in contents.items():
            (raw_folder / name).write_bytes(content)
        run.say(f"wrote data/raw: {dataset}, {sum(map(len, contents.values())):,} verified bytes from {source}")
        return
    homepage = CATALOG[dataset].origin["homepage"]
    raise StageError(
        f"no source gave {dataset}:"
        + "".join(f"\n  {reason}" for reason in reasons)
        + f"\nFetch the four .gz files from {homepage} on a machine that can, put them in a folder,"
        " and run: FASHION_MNIST_SOURCES=/that/folder dvc repro"
    )


if __name__ == "__main__":
    sys.exit(run_stage("download", main, __doc__))
