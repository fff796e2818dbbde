"""The metadata of the exported file: how to use it, and what it was made from."""

import hashlib
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.data.preprocessing import FILTER, Preprocessing
from classifier.export import background
from classifier.export.onnx_file import INPUT, OUTPUTS
from classifier.model.serialization import ModelConfig
from classifier.runner.context import StageContext

import pandas as pd


def make(
    context: StageContext, model_config: ModelConfig, test_images: AnnotatedImages, rows: pd.DataFrame
) -> dict[str, Any]:
    """Metadata by key. The background of the test images is that of the pictures that the model knows."""
    info = context.read_json("data/dataset_info.json")
    weights = context.dep("models/classifier.safetensors")
    num_images = {str(split): int(count) for split, count in rows["split"].value_counts().items()}
    fitted: dict[str, Any] = {key: info.pop(key) for key in ("fit", "background") if key in info}
    how = Preprocessing(*model_config.shape, **fitted)
    shape, classes = ", ".join(map(str, model_config.shape)), len(model_config.class_names)
    return {
        "class_names": model_config.class_names,
        "input": f"{INPUT}: (batch, {shape}) uint8, 0 to 255; {'grayscale' if model_config.channels == 1 else 'RGB'}",
        "outputs": f"{', '.join(OUTPUTS)}: (batch, {classes}) float32, in the order of class_names",
        "architecture": model_config.architecture,
        "author": info.pop("model_author", "The authors"),
        "license": info.pop("model_license", info["license"]),
        "background": background.kind(test_images.all_images().numpy()),
        "preprocessing": {"fit": how.fit, "background": how.background, "filter": FILTER.name.lower()},
        "training_data": {**info, "images": num_images},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "accuracy": context.read_json("metrics/evaluate/details.json")["accuracy"],
        "temperature": model_config.temperature,
    }
