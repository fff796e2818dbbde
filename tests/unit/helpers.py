"""Small sets, damage and patterns of messages, for several unit tests."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from classifier.train.checkpoint import Checkpoint

import numpy as np
from PIL import Image


def one_line(says: str) -> str:
    """The pattern of a message that is one line with these words in it."""
    return rf"\A.*{re.escape(says)}.*\Z"


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


def write_rows(path: Path, rows: Iterable[str], header: str = "image,label,class_name,split") -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


def write_annotated(folder: Path, rows: list[str], pixels: Iterable[np.ndarray]) -> None:
    """Write ``annotations.csv`` with these rows, and their images to ``images``; pixels as Pillow takes them."""
    write_rows(folder / "annotations.csv", rows)
    for row, image in zip(rows, pixels, strict=True):
        file = folder / "images" / row.partition(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def saved_step(folder: Path) -> Any:
    """The step of the checkpoint that a run would go on from, if there is one."""
    saved = Checkpoint(folder).load()
    return saved and saved["step"]
