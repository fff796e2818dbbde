"""Small labeled sets of images as people have them, and what is said about one that cannot be used."""

from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from classifier import yaml_file
from classifier.config.schema import Annotate
from classifier.errors import StageError
from classifier.prepare import labeled_images
from tests.project import PARAMS
from tests.support import own

import numpy as np
from PIL import Image

OPTIONS: dict[str, Any] = yaml_file.load(PARAMS.read_text())["annotate"] | {"validation_fraction": 0.2}
CLASSES = ("cat", "Straße 1", "12 犬")
SPLITS = ["train"] * 4 + ["val", "test"]
SAMPLES = [(label, number, split) for label in range(3) for number, split in enumerate(SPLITS)]


def options(**changes: Any) -> Annotate:
    return Annotate(**{**OPTIONS, **changes})


def load(path: Path, **changes: Any) -> labeled_images.LabeledImages:
    """The set of a folder or file, of which nothing may be wrong."""
    found = labeled_images.load(path, options(**changes))
    assert found.problems == []
    return found


def refusal(path: Path, **changes: Any) -> str:
    """All that is said about a set that cannot be used as it is, each in one line."""
    problems: list[str] = []
    try:
        labeled_images.load(path, options(**changes), problems)
    except StageError as error:
        problems.append(str(error))
    assert problems
    lines = [line.replace(str(path), "SET") for line in problems]  # the folder of a test has a name of any length
    assert not any("\n" in line or "(unexpected)" in line or len(line) > 400 for line in lines)
    return "\n".join(problems)


def pixels_of(label: int, number: int) -> np.ndarray:
    return np.random.default_rng([label, number]).integers(0, 256, (20, 20), np.uint8)


def png(label: int, number: int) -> bytes:
    return own.encode(Image.fromarray(pixels_of(label, number)), "PNG")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def by_class(pattern: str) -> dict[str, bytes]:
    """The files of all samples, named by split, class and number."""
    return {
        pattern.format(split=split, name=CLASSES[label], number=number): png(label, number)
        for label, number, split in SAMPLES
    }


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def csv(*rows: str, head: str = "image,label,split") -> bytes:
    return "\n".join([head, *rows, ""]).encode()


PETS = {f"{c}/{n}.png": png(c == "dog", n) for c in ("cat", "dog") for n in range(6)}
