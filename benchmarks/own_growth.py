"""How do time and memory of `annotate` grow with a person's own images, and what does one more cost?

    python benchmarks/own_growth.py [--sizes 15000 30000 60000]
    python benchmarks/own_growth.py --small [--sizes 250000 1000000]

Each size is a folder of JPEGs of 224x224 pixels in ten classes, of noise and shapes, all different; to make them in
minutes, files get other quantization tables, which changes contrast and colors. With --small it is a pair of IDX files:
the training images of FashionMNIST, 28x28, shifted by up to two pixels and with noise. Prints for the whole stage from
nothing, once more, and once more with one image added: seconds, per thousand images, processor time by wall time, and
the memory of the largest process. Then the seconds of `dvc repro annotate` with another image added, and the files that
`dvc push` sends after it.
"""

import argparse
import io
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from classifier.data.dataset import AnnotatedImages
from classifier.runner import files, stat_cache
from tests.project import Project

import numpy as np
from clone import clone, measured
from PIL import Image

DIFFERENT = 5_000
LUMINANCE, CHROMINANCE = (3, 4, 5, 6, 7, 8, 9), (1, 3, 5, 8, 11, 14, 17)  # first entries of the tables
SIDE = 224
NOISE = 12  # gray levels, up and down

Grow = Callable[[int, int], None]  # adds the images from a number to before another


def photographs() -> list[bytes]:
    """JPEGs that differ from each other everywhere."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(DIFFERENT):
        coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noise = random.integers(-NOISE, NOISE + 1, (SIDE, SIDE, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=85)
        found.append(out.getvalue())
    return found


def varied(content: bytes, variant: int) -> bytes:
    """The same JPEG with other first entries of its two quantization tables: the mean of each 8x8 block changes."""
    found = bytearray(content)
    for table, entries in enumerate((LUMINANCE, CHROMINANCE)):
        marker = b"\xff\xdb\x00\x43" + bytes([table])  # a table of its own, 8 bits an entry
        found[content.index(marker) + len(marker)] = entries[variant // len(LUMINANCE) ** table % len(entries)]
    return bytes(found)


def folder_of_photographs(folder: Path) -> Grow:
    """Files of 224x224 pixels in a folder for each class."""
    contents = photographs()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)

    def grow(first: int, after: int) -> None:
        for number in range(first, after):
            content = varied(contents[number % DIFFERENT], number // DIFFERENT)
            (folder / f"{number % 10}/{number:06d}.jpg").write_bytes(content)

    return grow


def idx_files(folder: Path, project: Project) -> Grow:
    """A pair of IDX files of 28x28 pixels."""
    data = AnnotatedImages(project.root / "data/annotations.csv", project.root / "data/images", split="train")
    assert data.images is not None
    originals, labels = data.images[:, 0].numpy(), data.labels.numpy().astype(np.uint8)
    folder.mkdir(parents=True)
    pixels_file, labels_file = (folder / f"train-{name}-ubyte" for name in ("images-idx3", "labels-idx1"))
    pixels_file.write_bytes(struct.pack(">4I", 0x803, 0, 28, 28))
    labels_file.write_bytes(struct.pack(">2I", 0x801, 0))

    def append(path: Path, content: bytes, count: int) -> None:
        with path.open("r+b") as stream:
            stream.seek(4)
            stream.write(struct.pack(">I", count))
            stream.seek(0, io.SEEK_END)
            stream.write(content)

    def grow(first: int, after: int) -> None:
        for begin in range(first, after, 10_000):
            numbers = np.arange(begin, min(begin + 10_000, after))
            variant = begin // len(originals)
            shifted = np.roll(originals[numbers % len(originals)], (variant % 5 - 2, variant // 5 % 5 - 2), (1, 2))
            noise = np.random.default_rng(begin).integers(-NOISE, NOISE + 1, shifted.shape)
            append(pixels_file, np.clip(shifted + noise, 0, 255).astype(np.uint8).tobytes(), int(numbers[-1]) + 1)
            append(labels_file, labels[numbers % len(originals)].tobytes(), int(numbers[-1]) + 1)

    return grow


def main() -> None:
    """Run all sizes and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(15_000, 30_000, 60_000, 120_000, 240_000))
    parser.add_argument("--small", action="store_true", help="images of 28x28 pixels in IDX files")
    arguments = parser.parse_args()
    with clone() as project:
        folder = project.root / "data/own/growing"
        grow = idx_files(folder, project) if arguments.small else folder_of_photographs(folder)
        project.set(dataset="growing")
        project.stage("download")
        project.dvc("config", "--local", "cache.dir", str(project.root / ".dvc/cache"))
        # As docs/own-data.md says for large sets.
        project.dvc("config", "--local", "cache.type", "reflink,hardlink,copy")
        project.dvc("remote", "add", "--local", "--default", "remote", str(project.root / "remote"))
        print(f"{'images':>9}  {'run':<12}  {'seconds':>8}  {'s / 1,000':>10}  {'cores':>6}  {'peak MB':>8}")
        size = 0
        for wanted in arguments.sizes:
            grow(size, wanted)
            size = wanted
            files.remove(project.root / "scratch/cache")
            time.sleep(stat_cache.TICK_SECONDS)
            for run in ("from nothing", "nothing new", "one added"):
                if run == "one added":
                    grow(size, size + 1)
                    size += 1
                before = os.times()
                seconds, peak = measured(project, "python", "-m", "stages.annotate")
                after = os.times()
                spent = after.children_user + after.children_system - before.children_user - before.children_system
                each = f"{1000 * seconds / size:10.3f}"
                print(f"{size:9,}  {run:<12}  {seconds:8.1f}  {each}  {spent / seconds:6.2f}  {peak:8,.0f}", flush=True)
            measured(project, "dvc", "repro", "annotate")
            measured(project, "dvc", "push", "annotate")
            grow(size, size + 1)
            size += 1
            seconds, _ = measured(project, "dvc", "repro", "annotate")
            again, _ = measured(project, "dvc", "repro", "annotate")
            pushed = project.dvc("push", "annotate").stdout.strip()
            print(f"{size:9,}  dvc repro: {seconds:.1f} s, nothing new {again:.1f} s; dvc push: {pushed}", flush=True)


if __name__ == "__main__":
    main()
