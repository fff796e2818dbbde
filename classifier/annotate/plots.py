"""Images shown as DVC plots: the same bytes every time on the same machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG, without matplotlib's version in it."""
    figure.savefig(path, format="png", metadata={"Software": None})


def sample_grid(path: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    """One row of images per class, with the class name on the left.

    Args:
        path: the PNG to write.
        rows: class names with their images, ``(columns, H, W)`` uint8 each.
    """
    from matplotlib.figure import Figure

    columns = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.6 + 0.62 * columns, 0.64 * len(rows)), dpi=120, facecolor="white")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=1.5 / (1.6 + 0.62 * columns), right=0.99, top=0.99, bottom=0.01, wspace=0.05, hspace=0.05
    )
    for (name, images), row in zip(rows, axes, strict=True):
        row[0].text(-0.2, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=10)
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    save(figure, path)
