"""How do time and memory of `annotate` grow with a person's own photographs?

    python benchmarks/own_growth.py [--sizes 15000 30000 60000]

Each size is an archive of JPEGs of 224x224 pixels in ten folders, of noise and shapes, all different. To make them in
minutes, files get other quantization tables, which changes contrast and colors. Prints seconds of the whole stage, per
thousand images, processor time by wall time, and the largest memory.
"""

import argparse
import io
import os
import zipfile

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
        project.set(dataset="photographs.zip")
        project.stage("download")
        print(f"{'images':>8}  {'seconds':>8}  {'s / 1,000':>10}  {'cores':>6}  {'peak MB':>8}")
        for size in sizes:
            path = project.root / "data/own/photographs.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for number in range(size):
                    name = f"{number % 10}/{number:06d}.jpg"
                    archive.writestr(name, varied(contents[number % DIFFERENT], number // DIFFERENT))
            before = os.times()
            seconds, peak = measured(project, "python", "-m", "stages.annotate")
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            print(
                f"{size:8,}  {seconds:8.1f}  {1000 * seconds / size:10.3f}  {spent / seconds:6.2f}  {peak:8,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
