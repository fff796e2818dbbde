"""Config and first-layer filters of a trained model, read from its file with numpy alone."""

import json
from pathlib import Path
from typing import Any

from classifier.errors import StageError

import numpy as np
from safetensors import SafetensorError, safe_open

MAX_FILTERS = 64  # that the figure shows
KEY = "model"  # the metadata key, see serialization.py; not imported from there, since that needs PyTorch


def read(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read the model file that `train` wrote.

    Returns:
        Its config, and the first filters of the first layer, ``(N, C, H, W)`` with C 1 or 3. A linear layer on whole
        images has one weight per pixel, so each unit is drawn as an image. None if the layer has neither form.

    Raises:
        StageError: the file is not a model of this pipeline.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            model_config: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            image = (model_config["channels"], model_config["height"], model_config["width"])
            weights = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 (not a mapping)
            first = min(weights, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
            filters = np.asarray(file.get_tensor(first), np.float64)[:MAX_FILTERS]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}: not a model of this pipeline ({error}); `dvc repro train` makes one") from None
    if filters.ndim == 2 and filters.shape[1] == np.prod(image):
        filters = filters.reshape(-1, *image)
    drawable = filters.ndim == 4 and filters.shape[1] in (1, 3)
    return model_config, filters if drawable else None
