"""What a trained model's file says about it, read with numpy alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from classifier.errors import StageError

MOST_FILTERS = 64  # that a picture shows
KEY = "model"  # of the metadata, see serialization.py, which needs PyTorch


@dataclass(frozen=True)
class ModelSummary:
    """A model as a page can show it.

    Attributes:
        architecture: what ``train.model`` was.
        trained_with: the params of `train`, by section.
        filters: of the first layer, ``(N, C, H, W)`` with C 1 or 3, the first 64 of them. A convolution has them as
            they are; a linear layer on whole images has one weight a pixel, so each unit is drawn as an image. None if
            the first layer is neither.
    """

    architecture: str
    trained_with: dict[str, Any]
    filters: np.ndarray | None


def read(path: Path) -> ModelSummary:
    """Read what `train` wrote.

    Raises:
        StageError: the file is no model of this pipeline.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            model_config = json.loads((file.metadata() or {})[KEY])
            image = (model_config["channels"], model_config["height"], model_config["width"])
            weights = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 (it is no mapping)
            first = min(weights, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
            filters = np.asarray(file.get_tensor(first), np.float64)[:MOST_FILTERS]
            architecture, trained_with = model_config["architecture"], model_config["trained_with"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}: no model of this pipeline ({error}); `dvc repro train` makes one") from None
    if filters.ndim == 2 and filters.shape[1] == np.prod(image):
        filters = filters.reshape(-1, *image)
    drawable = filters.ndim == 4 and filters.shape[1] in (1, 3)
    return ModelSummary(architecture, trained_with, filters if drawable else None)
