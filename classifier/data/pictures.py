"""The parts that all pictures share: the style, one font for the names of classes, images on a plane, PNG files.

The bytes are the same every time and on every machine.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

DPI = 110
INK, LINES = "#1f2328", "#d0d7de"  # colors of text and axes; in the report, CSS variables replace both
NAME_ENDS = 12, 11  # characters that stay of a longer name, at its beginning and its end


def drawable_names(class_names: Sequence[str]) -> list[str]:
    """Class names as pictures show them: shortened, and by number where the font lacks a character or two look alike.

    Figures make room for what ``text_width`` says of these names.
    """
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap().keys()
    begin, end = NAME_ENDS
    short = [name if len(name) <= begin + 1 + end else f"{name[:begin]}…{name[-end:]}" for name in class_names]
    counts = Counter(short)
    return [
        name if counts[name] == 1 and all(ord(character) in known for character in name) else f"class {number}"
        for number, name in enumerate(short)
    ]


def text_width(lines: Iterable[str], size: float) -> float:
    """Inches that the longest line takes in a picture, in points of the font; call it inside ``style``."""
    font = FontProperties(size=size)
    return max(float(text_to_path.get_text_width_height_descent(line, font, False)[0]) for line in lines) / 72


@contextmanager
def style() -> Iterator[None]:
    """Draw with matplotlib's defaults and these settings, ignoring the matplotlibrc of this machine."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK,
                "ytick.color": INK, "axes.edgecolor": LINES, "grid.color": LINES, "axes.facecolor": "none",
                "figure.dpi": DPI, "font.size": 10, "axes.titlesize": 11, "legend.frameon": False,
                "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                "text.parse_math": False,  # a class may be called a$b$c
                "svg.hashsalt": "report",  # fixes the ids of clip paths, which are random otherwise
            }
        )  # fmt: skip
        yield


def png(figure: Figure) -> bytes:
    """A PNG with a white background, without matplotlib's version in it."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()


def blank_axes(figure: Figure, top: float = 0) -> Axes:
    """Invisible axes below the ``top`` inches of a figure: x and y in inches from their upper left corner.

    One plane for many images: axes for each would take ten times as long.
    """
    width, height = figure.get_size_inches()
    axis = figure.add_axes((0, 0, 1, 1 - top / height))
    axis.set(xlim=(0, width), ylim=(height - top, 0))
    axis.axis("off")
    return axis


def show(axis: Axes, image: np.ndarray, left: float, top: float, side: float) -> None:
    """Draw ``(C, H, W) uint8`` into a square of ``blank_axes``, in inches, keeping the aspect ratio."""
    height, width = image.shape[1:]
    scale = side / max(height, width)
    left, top = left + (side - width * scale) / 2, top + (side - height * scale) / 2
    shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    extent = (left, left + width * scale, top + height * scale, top)
    limits = axis.get_xlim(), axis.get_ylim()
    axis.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="none")
    axis.set(xlim=limits[0], ylim=limits[1])
