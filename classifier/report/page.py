"""Parts of a self-contained HTML page: figures, thumbnails as data URIs, and the template."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.data import pictures
from classifier.errors import shorten
from classifier.report import figures

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "report.html.jinja"
THUMBNAIL_BYTES = 1_000_000  # limit for all thumbnails of a page
THUMBNAIL_SIDE = 56  # pixels, at most


@dataclass(frozen=True)
class Picture:
    """One figure in two formats.

    Attributes:
        png: for DVC.
        svg: an element for the page, whose CSS colors it.
    """

    png: bytes
    svg: str


def picture(draw: Callable[[], Figure]) -> Picture:
    """Draw a figure and render it in both formats."""
    with pictures.style():
        figure = draw()
        engine = figure.get_layout_engine()
        if engine:  # with an engine, savefig draws each format an extra time
            engine.execute(figure)
            figure.set_layout_engine(None)
        return Picture(pictures.png(figure), figures.svg(figure))


def thumbnails(pixels: np.ndarray) -> Iterator[str]:
    """Data URIs of ``(N, C, H, W) uint8`` images, until they exceed ``THUMBNAIL_BYTES``."""
    used = 0
    for image in pixels:
        small = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        out = io.BytesIO()
        small.save(out, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
        used += len(uri)
        if used > THUMBNAIL_BYTES:
            return
        yield uri


def write(path: Path, template: Path = TEMPLATE, **content: Any) -> int:
    """Render a template, which may include ``style.css``, with all values escaped. Returns the size in bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["short"] = lambda text: shorten([text])
    page = environment.from_string(template.read_text(encoding="utf-8")).render(**content).encode()
    path.write_bytes(page)
    return len(page)
