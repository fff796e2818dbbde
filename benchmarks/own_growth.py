"""How do time and memory of `annotate` grow with a person's own photographs?

    python benchmarks/own_growth.py [--sizes 15000 30000 60000]

Each size is an archive of JPEGs of 224x224 pixels in ten folders: 2,000 different ones of noise and shapes, repeated
with other bytes at the end of the file, so that every file has its own digest and the search for near-duplicates has
much to do. Prints seconds of the whole stage, per thousand images, processor time by wall time, and the largest memory.
"""

import argparse
import io
import os
import zipfile

import numpy as np
from clone import clone, measured
from PIL import Image

DIFFERENT = 2_000
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
                    archive.writestr(name, contents[number % DIFFERENT] + number.to_bytes(4, "big"))
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
