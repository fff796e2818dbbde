"""Images shown as a DVC plot."""

from pathlib import Path
from typing import TYPE_CHECKING

from classifier.data.pictures import blank_axes, png, show, style

if TYPE_CHECKING:
    import numpy as np

MAX_CLASSES = 40  # in a picture; of more, the first
CELL, NAMES = 0.64, 1.6  # inches: the side of an image with the room around it, the width of the names


def sample_grid(path: Path, rows: "list[tuple[str, np.ndarray]]") -> None:
    """One row of images per class, with the class name on the left; not more classes than can be looked at.

    Args:
        path: the PNG to write.
        rows: class names with their images, ``(columns, C, H, W)`` uint8 each.
    """
    from matplotlib.figure import Figure

    more = len(rows) - MAX_CLASSES
    rows = rows[:MAX_CLASSES]
    columns = max(len(images) for _, images in rows)
    with style():
        figure = Figure(figsize=(NAMES + CELL * columns, CELL * (len(rows) + (more > 0))))
        axis = blank_axes(figure)
        names = [name for name, _ in rows] + ([f"{more:,} more"] if more > 0 else [])
        for row, name in enumerate(names):
            axis.text(NAMES - 0.12, CELL * (row + 0.5), name, ha="right", va="center")
        for row, (_, images) in enumerate(rows):
            for column, image in enumerate(images):
                show(axis, image, NAMES + CELL * column, CELL * row + 0.02, CELL - 0.04)
        path.write_bytes(png(figure))
