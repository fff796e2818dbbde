"""Where the images come from and on what terms: ``data/origin.json``, which travels with every exported model.

A JSON object of texts: ``name`` and ``licence`` (of the images, best as an SPDX identifier; ``unknown`` is an answer),
and whatever else is worth knowing, such as ``homepage``. ``annotate`` writes it for the data sets of the catalogue.
"""

import json
from pathlib import Path

from stages.lib.runner.errors import StageError

REQUIRED = ("name", "licence")


def read(path: Path) -> dict[str, str]:
    """Read and check an origin file.

    Raises:
        StageError: it is missing, no JSON object of texts, or says no name or licence.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `dvc repro annotate` makes it") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise StageError(f"{path}: no JSON file: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise StageError(f'{path}: must hold texts by name, as in {{"name": "My images", "licence": "unknown"}}')
    for key in REQUIRED:
        if not content.get(key, "").strip():
            raise StageError(f'{path}: has no "{key}"; "unknown" is an answer')
    return content
