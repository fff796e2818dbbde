"""How do time and memory of `annotate` grow with a person's own photographs, and what does one more cost?

    python benchmarks/own_growth.py [--sizes 15000 30000 60000]

Each size is a folder of JPEGs of 224x224 pixels in ten classes, of noise and shapes, all different. To make them in
minutes, files get other quantization tables, which changes contrast and colors. Prints for the whole stage from
nothing, once more, and once more with one image added: seconds, per thousand images, processor time by wall time, and
the largest memory. Then the seconds of `dvc repro annotate` with another image added, and the files that `dvc push`
sends after it.
"""

import argparse
import io
import os
import time

from classifier.runner import files, stat_cache

import numpy as np
from clone import clone, measured
from PIL import Image

DIFFERENT = 5_000
LUMINANCE, CHROMINANCE = (3, 4, 5, 6, 7, 8, 9), (1, 3, 5, 8, 11, 14, 17)  # first entries of the tables
SIDE = 224


def photographs() -> list[bytes]:
    """JPEGs that differ from each other everywhere."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(DIFFERENT):
        coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noise = random.integers(-12, 13, (SIDE, SIDE, 3))
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


def main() -> None:
    """Run all sizes and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(15_000, 30_000, 60_000, 120_000, 240_000))
    sizes = parser.parse_args().sizes
    contents = photographs()
    with clone() as project:
        folder = project.root / "data/own/photographs"
        for label in range(10):
            (folder / str(label)).mkdir(parents=True)

        def add(number: int) -> None:
            content = varied(contents[number % DIFFERENT], number // DIFFERENT)
            (folder / f"{number % 10}/{number:06d}.jpg").write_bytes(content)

        project.set(dataset="photographs")
        project.stage("download")
        project.dvc("config", "--local", "cache.dir", str(project.root / ".dvc/cache"))
        project.dvc(
            "config", "--local", "cache.type", "reflink,hardlink,copy"
        )  # as docs/own-data.md says for large sets
        project.dvc("remote", "add", "--local", "--default", "remote", str(project.root / "remote"))
        print(f"{'images':>8}  {'run':<12}  {'seconds':>8}  {'s / 1,000':>10}  {'cores':>6}  {'peak MB':>8}")
        size = 0
        for wanted in sizes:
            while size < wanted:
                add(size)
                size += 1
            files.remove(project.root / "scratch/cache")
            time.sleep(stat_cache.TICK_SECONDS)
            for run in ("from nothing", "nothing new", "one added"):
                if run == "one added":
                    add(size)
                    size += 1
                before = os.times()
                seconds, peak = measured(project, "python", "-m", "stages.annotate")
                after = os.times()
                spent = after.children_user + after.children_system - before.children_user - before.children_system
                each = f"{1000 * seconds / size:10.3f}"
                print(f"{size:8,}  {run:<12}  {seconds:8.1f}  {each}  {spent / seconds:6.2f}  {peak:8,.0f}", flush=True)
            measured(project, "dvc", "repro", "annotate")
            measured(project, "dvc", "push", "annotate")
            add(size)
            size += 1
            seconds, _ = measured(project, "dvc", "repro", "annotate")
            again, _ = measured(project, "dvc", "repro", "annotate")
            pushed = project.dvc("push", "annotate").stdout.strip()
            print(f"{size:8,}  dvc repro: {seconds:.1f} s, nothing new {again:.1f} s; dvc push: {pushed}", flush=True)


if __name__ == "__main__":
    main()
