"""Name and license of the images: ``data/dataset_info.json``, which is copied into every exported model.

A JSON object of strings: ``name`` and ``license`` (an SPDX identifier, or ``unknown``), and optional ones such as
``homepage``, or ``model_author`` and ``model_license`` of the model that is made of them. ``annotate`` writes it.
"""

import json
from pathlib import Path

from classifier.errors import StageError

REQUIRED = ("name", "license")


def read(path: Path) -> dict[str, str]:
    """Read and check the file.

    Raises:
        StageError: it is missing, not a JSON object of strings, or has no name or license.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `dvc repro annotate` makes it") from None


def parse(content: bytes, name: str) -> dict[str, str]:
    """The same from the content of a file called ``name``."""
    try:
        info = json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise StageError(f"{name}: not a JSON file: {error}") from None
    if not isinstance(info, dict) or not all(isinstance(value, str) for value in info.values()):
        raise StageError(
            f'{name}: must be a JSON object of strings, such as {{"name": "My images", "license": "unknown"}}'
        )
    for key in REQUIRED:
        if not info.get(key, "").strip():
            raise StageError(f'{name}: has no "{key}"; write "unknown" if you do not know it')
    return info
