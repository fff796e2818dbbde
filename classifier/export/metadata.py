"""The metadata of the exported file: how to use it, and what it was made from."""

import hashlib
from typing import Any

from classifier.data import info as dataset_info
from classifier.data.dataset import AnnotatedImages
from classifier.data.preprocessing import Preprocessing
from classifier.errors import StageError
from classifier.export import background, onnx_file
from classifier.model.serialization import ModelConfig
from classifier.runner.context import StageContext

import pandas as pd


def read_accuracy(context: StageContext) -> float:
    """The accuracy on the test split, from the metrics of evaluate.

    Raises:
        StageError: it is missing.
    """
    path = "metrics/evaluate/details.json"
    try:
        return float(context.read_json(path)["accuracy"])
    except (KeyError, TypeError):
        raise StageError(f"{path}: has no accuracy; `dvc repro evaluate` writes it") from None


def make(
    context: StageContext, model_config: ModelConfig, test_images: AnnotatedImages, rows: pd.DataFrame
) -> dict[str, Any]:
    """Metadata by key. The background of the test images is that of the pictures that the model knows."""
    info = dataset_info.read(context.dep("data/dataset_info.json"))
    weights = context.dep("models/classifier.safetensors")
    num_images = {str(split): int(count) for split, count in rows["split"].value_counts().items()}
    how: dict[str, Any] = {key: info.pop(key) for key in ("fit", "background") if key in info}
    return {
        **onnx_file.contract(model_config),
        "architecture": model_config.architecture,
        "author": info.pop("model_author", "The authors"),
        "license": info.pop("model_license", info["license"]),
        "background": background.kind(test_images.all_images().numpy()),
        "preprocessing": Preprocessing(*model_config.shape, **how).contract(),
        "training_data": {**info, "images": num_images},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "accuracy": read_accuracy(context),
        "temperature": model_config.temperature,
    }
