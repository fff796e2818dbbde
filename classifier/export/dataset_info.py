"""Name and license of the images: ``data/dataset_info.json``, which is copied into every exported model.

A JSON object of strings: ``name`` and ``license`` (an SPDX identifier, or ``unknown``), and optional ones such as
``homepage``. ``annotate`` writes it for the datasets of the registry.
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `dvc repro annotate` makes it") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise StageError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise StageError(
            f'{path}: must be a JSON object of strings, such as {{"name": "My images", "license": "unknown"}}'
        )
    for key in REQUIRED:
        if not content.get(key, "").strip():
            raise StageError(f'{path}: has no "{key}"; write "unknown" if you do not know it')
    return content
