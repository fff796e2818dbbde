"""Images shown as a DVC plot."""

from pathlib import Path

from classifier.data.pictures import blank_axes, png, show, style, text_width

import numpy as np
from matplotlib.figure import Figure

MAX_CLASSES = 40  # in a picture; of more, the first
CELL, NAMES = 0.64, 1.6  # inches: the side of an image with the room around it, the least width of the names
FONT = 10  # points


def sample_grid(path: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    """A PNG with a row of images ``(columns, C, H, W) uint8`` per class, of not more classes than can be looked at."""
    more = len(rows) - MAX_CLASSES
    rows = rows[:MAX_CLASSES]
    columns = max(len(images) for _, images in rows)
    names = [name for name, _ in rows] + ([f"{more:,} more"] if more > 0 else [])
    with style():
        left = max(NAMES, text_width(names, FONT) + 0.24)
        figure = Figure(figsize=(left + CELL * columns, CELL * len(names)))
        axis = blank_axes(figure)
        for row, name in enumerate(names):
            axis.text(left - 0.12, CELL * (row + 0.5), name, ha="right", va="center", fontsize=FONT)
        for row, (_, images) in enumerate(rows):
            for column, image in enumerate(images):
                show(axis, image, left + CELL * column, CELL * row + 0.02, CELL - 0.04)
        path.write_bytes(png(figure))
