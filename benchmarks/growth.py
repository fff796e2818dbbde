"""Scaling: time and memory of one epoch on 15,000 to 240,000 images, in memory and read from disk.

The images are those of the training split, repeated under new names as often as needed. Each size trains one epoch with
the committed params twice: with all images in memory, and with a budget of 10 MB, so that every batch is read from the
shards. Prints seconds of the whole `train` process, the same per 1,000 images, and peak memory.

    python benchmarks/growth.py

Run nothing else at the same time.
"""

import argparse

from classifier.data import annotations, images, shards
from classifier.data.dataset import AnnotatedImages
from classifier.runner import files

import numpy as np
import pandas as pd
from clone import clone, measured

IMAGES_IN_A_SHARD = 25_000
SIZES = (15_000, 30_000, 60_000, 120_000, 240_000)


def main() -> None:
    """Run all sizes and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().sizes
    with clone() as project:
        csv, folder = project.root / "data/annotations.csv", project.root / "data/images"
        data = AnnotatedImages(csv, folder, split="train")
        assert data.images is not None
        pixels, labels = data.images[:, 0].numpy(), data.labels.numpy()
        names = np.array(data.class_names)
        project.set(train__epochs=1)
        print(f"{'images':>8}  {'budget':>8}  {'seconds':>8}  {'s / 1,000':>10}  {'peak MB':>8}")
        for size in sizes:
            chosen = np.arange(size) % len(pixels)
            paths = [f"train/{number:06d}.png" for number in range(size)]
            for path in (csv, folder):
                files.remove(path)  # it may be a link into the cache
            for shard, places in shards.plan(paths, IMAGES_IN_A_SHARD):
                of_shard = ((paths[p], labels[chosen[p]], images.png(pixels[chosen[p]][None])) for p in places)
                shards.write(folder, shard, of_shard)
            rows = {"image": paths, "label": labels[chosen], "class_name": names[labels[chosen]], "split": "train"}
            annotations.write(csv, pd.DataFrame(rows))
            for budget in (4000, 10):
                project.set(runtime__image_memory_mb=budget)
                seconds, peak = measured(project, "python", "-m", "stages.train")
                print(
                    f"{size:8,}  {budget:5} MB  {seconds:8.1f}  {1000 * seconds / size:10.3f}  {peak:8,.0f}", flush=True
                )


if __name__ == "__main__":
    main()
