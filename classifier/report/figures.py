"""The figures of an evaluation, made with matplotlib; the same bytes every time on the same machine.

Each takes data and returns a ``Figure``. Call it inside ``pictures.style``; ``svg`` serializes the result.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from classifier.data.pictures import INK, LINES, blank_axes, show, text_width

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

MAX_CLASSES_WITH_COUNTS = 20  # classes; a larger confusion matrix has no numbers in its cells
MAX_CLASSES = 40  # that a picture shows; of more, it shows those that go wrong most

LINE = 0.155  # inches, line height of a caption
CAPTION, CELL, GRID = 8, 1.28, 10.24  # points of a caption; inches: width of an image with its caption, and of a grid
WRONG = "#c4432b"  # captions of mistakes; legible on white and on black
GOOD, BAD = "tab:blue", "tab:orange"


def svg(figure: Figure) -> str:
    """An ``<svg>`` element to embed in a page, whose CSS variables ``--ink`` and ``--line`` color it.

    It has no background, date or program version; text is outlines, so that it looks the same where a font is missing.
    """
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", facecolor="none", metadata=nothing)
    element = out.getvalue()
    element = element[element.index("<svg ") :]
    return element.replace(INK, "var(--ink)").replace(LINES, "var(--line)")


def curves(rows: pd.DataFrame) -> Figure:
    """Loss and accuracy by epoch, from metrics/train/curves.csv; the validation columns may be absent."""
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    for axis, (quantity, key) in zip(figure.subplots(1, 2), (("loss", "loss"), ("accuracy", "acc")), strict=True):
        for split, name, color in (("train", "training (augmented)", GOOD), ("val", "validation", BAD)):
            column = f"{split}_{key}"
            if column in rows:
                axis.plot(rows["epoch"], rows[column], marker="o", markersize=3.5, label=name, color=color)
        axis.set(title=f"{quantity.capitalize()} by epoch", xlabel="epoch", ylabel=quantity)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.6)
        axis.legend()
    return figure


def confusion(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """A confusion matrix: each cell shows the count and its share of the row, which also gives the color.

    For many classes, the most frequent confusions instead.
    """
    classes = len(class_names)
    if classes > MAX_CLASSES:
        return _top_confusions(counts, class_names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.5, min(0.68 * classes, 14)) + _excess(class_names, 0.8)
    figure = Figure(figsize=(side + 1.3, side + 1.2), layout="constrained")
    axis = figure.subplots()
    # The square root makes the few mistakes of a good model visible.
    axis.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    if classes <= MAX_CLASSES_WITH_COUNTS:
        for row, column in np.argwhere(counts).tolist():
            color = "white" if shares[row, column] > 0.3 else "black"  # contrast with the cell, not the page
            middle: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
            axis.text(column, row - 0.14, f"{counts[row, column]:,}", fontsize=10, **middle)
            axis.text(column, row + 0.24, f"{shares[row, column]:.1%}", fontsize=7.5, **middle)
    axis.set_xticks(range(classes), class_names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(classes), class_names)
    axis.set(xlabel="predicted", ylabel="true", title="Confusion matrix: images, and their share of the true class")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


def _top_confusions(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The pairs of classes that are confused most often, a bar each."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CLASSES]
    pairs = [divmod(int(place), len(class_names)) for place in order if wrong.flat[place]]
    if not pairs:
        return _only_text("Most frequent confusions", "No confusions.")
    names = [f"{class_names[row]} taken for {class_names[column]}" for row, column in pairs]
    figure = Figure(figsize=(9.4 + _excess(names, 5), 1.2 + 0.3 * len(pairs)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(pairs)), [wrong[pair] for pair in pairs], color=BAD, alpha=0.75)
    axis.set_yticks(range(len(pairs)), names)
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set(xlabel="images", title=f"The most frequent confusions of {len(class_names)} classes")
    return figure


def f1_bars(by_class: pd.DataFrame) -> Figure:
    """One bar per class, best on top, with markers for precision and recall; of many classes the lowest."""
    tested = by_class[by_class["support"] > 0]  # nothing is known about other classes
    rows = tested.sort_values("f1", kind="stable")[:MAX_CLASSES]
    figure = Figure(figsize=(7.5 + _excess(rows.index, 1), 1.2 + 0.36 * len(rows)), layout="constrained")
    axis = figure.subplots()
    places = list(range(len(rows)))
    axis.barh(places, rows["f1"], height=0.66, color=GOOD, alpha=0.75, label="F1")
    mark: dict[str, Any] = {"markersize": 6, "markeredgecolor": INK, "clip_on": False}
    axis.plot(rows["precision"], places, ">", color=BAD, label="precision", **mark)
    axis.plot(rows["recall"], places, "s", color="white", label="recall", **mark)
    lowest = float(rows[["f1", "precision", "recall"]].min().min())
    left = max(0.0, np.floor(lowest * 10 - 1) / 10)  # zoom in: the bars of a good model differ only at their ends
    for place, value in enumerate(rows["f1"]):
        text = f"{value:.3f}" if value - left > 0.08 * (1 - left) else ""  # if it fits into its bar
        axis.text(left + 0.006 * (1 - left), place, text, va="center", ha="left", fontsize=9, color="white")
    axis.set_yticks(places, rows.index)
    axis.set(xlim=(left or -0.02, 1.0 + 0.01 * (1 - left)), ylim=(-0.6, len(rows) - 0.4), xlabel="fraction")
    which = "by class" if len(rows) == len(tested) else f"of the {len(rows)} lowest of {len(tested)} classes"
    axis.set_title(f"F1, precision and recall {which}{'' if left == 0 else f' (the axis starts at {left:.1f})'}")
    axis.grid(axis="x", alpha=0.6)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def reliability(bins: pd.DataFrame, evaluation: dict[str, Any]) -> Figure:
    """Accuracy by confidence, before and after temperature scaling, above the histograms of the confidences."""
    figure = Figure(figsize=(6.6, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.25])
    top.plot([0, 1], [0, 1], "--", color="gray", linewidth=1, label="perfect calibration")
    names = (
        f"before temperature scaling (ECE {evaluation['ece_uncalibrated']:.1%})",
        f"at temperature {evaluation['temperature']:.3f} (ECE {evaluation['ece']:.1%})",
    )
    for scaling, name, color, marker in zip(("none", "temperature"), names, (GOOD, BAD), "os", strict=True):
        rows = bins.loc[[scaling]]
        top.plot(rows["confidence"], rows["accuracy"], marker=marker, markersize=5, color=color, label=name)
        shares = rows["num_images"] / rows["num_images"].sum()
        style: dict[str, Any] = {"align": "edge", "edgecolor": color, "linewidth": 1.2}
        fill = matplotlib.colors.to_rgba(color, 0.35)
        bottom.bar(rows["low"], shares, rows["high"] - rows["low"], color=fill, **style)
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title="Reliability: accuracy by confidence")
    top.legend(loc="upper left")
    bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="share of images")
    bottom.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    for axis in (top, bottom):
        axis.grid(alpha=0.6)
    return figure


def picture_grid(
    title: str, pixels: np.ndarray, captions: Sequence[str], wrong: Sequence[bool], columns: int, empty: str
) -> Figure:
    """A grid of ``(N, C, H, W) uint8`` images, C 1 or 3, each with a caption below it in the color of a mistake or not.

    A row has fewer than that many columns if captions are long; ``empty`` is shown if there are no images.
    """
    if not len(pixels):
        return _only_text(title, empty)
    cell_width = max(CELL, text_width((line for caption in captions for line in caption.split("\n")), CAPTION) + 0.1)
    columns = max(1, min(columns, int(GRID / cell_width)))
    rows = -(-len(pixels) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    cell_height = 1.04 + LINE * lines
    figure = Figure(figsize=(columns * cell_width, rows * cell_height + 0.5))
    figure.suptitle(title, fontsize=11, y=1 - 0.22 / figure.get_figheight(), va="center")
    axis = blank_axes(figure, top=0.5)
    for number, (image, caption, is_wrong) in enumerate(zip(pixels, captions, wrong, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * cell_width, row * cell_height
        show(axis, image, left + (cell_width - 0.92) / 2, top + 0.04, 0.92)
        for line, text in enumerate(caption.split("\n")):  # one text per line: a block is aligned by its tallest glyph
            baseline = top + 1.1 + LINE * line
            color = WRONG if is_wrong else INK
            axis.text(left + cell_width / 2, baseline, text, ha="center", fontsize=CAPTION, color=color)
    return figure


def filters(kernels: np.ndarray | None) -> Figure:
    """The first layer's filters, red where they add and blue where they subtract; RGB ones in their colors.

    Args:
        kernels: ``(N, C, H, W) float``, C 1 or 3; None if the first layer has no filters that can be drawn.
    """
    title = "Filters of the first layer"
    if kernels is None:
        return _only_text(title, "The first layer has no filters that can be drawn.")
    columns = min(len(kernels), 8)
    rows = -(-len(kernels) // columns)
    largest = float(np.abs(kernels).max()) or 1.0
    color = kernels.shape[1] == 3
    shades = (
        kernels / (2 * largest) + 0.5 if color else matplotlib.colormaps["RdBu_r"]((kernels[:, 0] / largest + 1) / 2)
    )
    pixels = (shades if color else shades[..., :3].transpose(0, 3, 1, 2)) * 255
    width, height = max(columns * 0.95, 4.2), rows * 0.95 + 0.55
    figure = Figure(figsize=(width, height))
    figure.suptitle(
        title if color else f"{title}: red adds, blue subtracts", fontsize=11, y=1 - 0.22 / height, va="center"
    )
    axis = blank_axes(figure, top=0.55)
    for number, image in enumerate(pixels.round().astype(np.uint8)):
        row, column = divmod(number, columns)
        show(axis, image, (width - columns * 0.95) / 2 + column * 0.95 + 0.04, 0.04 + row * 0.95, 0.87)
    return figure


def _excess(names: Iterable[str], room: float) -> float:
    """Inches that a figure needs beyond the room that it has for the names of its axis."""
    return max(0.0, text_width(names, 10) - room)


def _only_text(title: str, text: str) -> Figure:
    figure = Figure(figsize=(6, 1.4))
    figure.suptitle(title, fontsize=11)
    figure.text(0.5, 0.35, text, ha="center")
    return figure
