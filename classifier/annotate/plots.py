"""Images shown as DVC plots: the same bytes every time on the same machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES = 40  # in a picture; of more, the first


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG, without matplotlib's version in it."""
    figure.savefig(path, format="png", metadata={"Software": None})


def sample_grid(path: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    """One row of images per class, with the class name on the left; not more classes than can be looked at.

    Args:
        path: the PNG to write.
        rows: class names with their images, ``(columns, C, H, W)`` uint8 each.
    """
    from matplotlib.figure import Figure

    more = len(rows) - MAX_CLASSES
    rows = rows[:MAX_CLASSES]
    columns = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.6 + 0.62 * columns, 0.64 * (len(rows) + (more > 0))), dpi=120, facecolor="white")
    axes = figure.subplots(len(rows) + (more > 0), columns, squeeze=False)
    figure.subplots_adjust(
        left=1.5 / (1.6 + 0.62 * columns), right=0.99, top=0.99, bottom=0.01, wspace=0.05, hspace=0.05
    )
    if more > 0:
        axes[-1][0].text(-0.2, 0.5, f"{more:,} more", transform=axes[-1][0].transAxes, ha="right", va="center")
    for axis in axes.flat:
        axis.axis("off")
    for (name, images), row in zip(rows, axes, strict=False):
        row[0].text(-0.2, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=10, parse_math=False)
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    save(figure, path)
