"""The filters of a trained model's first layer, read with numpy alone."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from stages.lib.errors import StageError

MOST = 64  # that a picture shows
KEY = "model"  # of the metadata, see model_file.py, which needs PyTorch


def first_layer(path: Path) -> np.ndarray | None:
    """Kernels ``(N, C, H, W)`` with C 1 or 3, the first 64 of them.

    A convolution has them as they are; a linear layer on whole images has one weight a pixel, so each unit is drawn as
    an image. None if the first layer is neither.

    Raises:
        StageError: the file is no model of this pipeline.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            card = json.loads((file.metadata() or {})[KEY])
            image = (card["channels"], card["height"], card["width"])
            weights = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 (it is no mapping)
            first = min(weights, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
            kernels = np.asarray(file.get_tensor(first), np.float64)[:MOST]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}: no model of this pipeline ({error}); `dvc repro train` makes one") from None
    if kernels.ndim == 2 and kernels.shape[1] == np.prod(image):
        kernels = kernels.reshape(-1, *image)
    return kernels if kernels.ndim == 4 and kernels.shape[1] in (1, 3) else None
