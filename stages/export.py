"""Write the trained model as one ONNX file that takes pixels, and verify that it computes what PyTorch computes.

reads   models/classifier.safetensors, data/test_images.zip, data/images.zip (to calibrate 8 bits),
        data/annotations.csv, data/dataset_info.json (name and license of the images), metrics/annotate.json,
        metrics/evaluate/details.json, metrics/evaluate/classes.csv; params.yaml: export, compute
writes  models/classifier.onnx, models/README.md (the model card), metrics/export.json, metrics/export/details.json;
        models/int8/: the same model in 8 bits if export.int8 is true; untracked: models/export_differences.json
run     dvc repro export, or: python -m stages.export
expect  about ten seconds; no test image on which PyTorch disagrees, or the stage fails and writes nothing

The file: input `images`, (batch, channels, height, width) uint8; outputs `logits` and `probabilities`,
(batch, classes) float32. Scaling and normalization are inside; class names and the input contract are its metadata.
"""

import classifier.runner  # noqa: F401 (first of all: Ctrl-C ends the program without a traceback)

# isort: split
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier import portability
from classifier.errors import StageError
from classifier.runner.stage import run_stage

if TYPE_CHECKING:
    import pandas as pd

    from classifier.data.dataset import AnnotatedImages
    from classifier.model.compute import Backend
    from classifier.model.serialization import ModelConfig
    from classifier.runner.context import StageContext

# How far onnxruntime is from PyTorch depends on the processor, so the figures are not tracked.
DIFFERENCES = Path("models/export_differences.json")
INT8_OFF = "export.int8 is false in params.yaml: there is no model in 8 bits.\n"
INT8_ON = "classifier.int8.onnx is classifier.onnx in 8 bits, calibrated on {:,} training images.\n"
MEGABYTE = 1e6
UNKNOWN = "unknown"  # the author of a person's own model, unless dataset_info.json says who

logger = logging.getLogger("stages.export")


def main(context: "StageContext") -> None:
    """Convert, compare on the whole test split and on extremes, write; the same in 8 bits if asked to."""
    from classifier.data import annotations
    from classifier.data.dataset import load_splits
    from classifier.export import onnx_file, onnx_session, onnx_validate
    from classifier.model import compute, serialization
    from classifier.runner import files

    params = context.params.export
    backend = compute.prepare(context.params.compute, context.params.runtime.threads)
    model_path = context.dep("models/classifier.safetensors")
    model, model_config = serialization.load(model_path)
    (test_images,) = load_splits(context.dep("data/annotations.csv"), context.dep("data/test_images.zip"), "test")
    model_config.check_fits(model_path, test_images)
    rows = annotations.read(context.dep("data/annotations.csv"))
    evaluated_accuracy = read_accuracy(context.dep("metrics/evaluate/details.json"))

    logger.info(f"converting {model_config.architecture} to ONNX and comparing it on {len(test_images):,} images")
    proto = onnx_file.convert(model, model_config, params.opset)
    num_images = {str(split): int(count) for split, count in rows["split"].value_counts().items()}
    metadata = make_metadata(context, model_config, test_images, num_images)
    metadata |= {"accuracy": evaluated_accuracy, "temperature": model_config.temperature}
    onnx_file.set_metadata(proto, metadata)
    path = context.out("models/classifier.onnx")
    onnx_file.write(path, proto)

    onnx_validate.check_contract(path, model_config, params.opset)
    session = onnx_session.create_session(path, backend.threads)
    compare = onnx_validate.Comparison(model, model_config, session, params.batch_size, backend)
    outputs = compare(test_images.all_images())
    onnx_validate.check_outputs(outputs, model_config.temperature, params.tolerance, test_images.names.__getitem__)
    extremes_difference = onnx_validate.check_extremes(compare, model_config, params.tolerance)
    accuracy = onnx_validate.accuracy(outputs.logits, test_images)
    if accuracy != evaluated_accuracy:
        raise StageError(
            f"the accuracy of the ONNX file on the test split is {accuracy}, but that of evaluate "
            f"(metrics/evaluate/details.json) is {evaluated_accuracy}; both are equal with compute.device: cpu"
        )
    size = path.stat().st_size
    details: dict[str, Any] = {
        "accuracy": accuracy,
        "disagreeing_predictions": len(outputs.disagreeing),
        "num_images": len(test_images),
        "size_bytes": size,
    }
    metrics: dict[str, Any] = {"size_mb": size / MEGABYTE}
    int8 = write_int8(context, path, model_config, test_images, rows, metadata, backend)
    if int8:
        details["int8"] = int8
        metrics["int8"] = {"accuracy": int8["accuracy"], "size_mb": int8["size_bytes"] / MEGABYTE}
    write_card(context, model_config, metadata)
    context.write_json("metrics/export/details.json", details)
    context.write_json("metrics/export.json", metrics)
    differences = {
        "logits": outputs.difference,
        "logits_of_extremes": extremes_difference,
        "probabilities": outputs.probability_difference(model_config.temperature),
    }
    files.atomic_write(DIFFERENCES, portability.json_bytes(differences))
    logger.info(
        f"wrote models/classifier.onnx: {size:,} bytes, largest difference to PyTorch {max(differences.values()):.1e}"
    )
    if int8:
        logger.info(
            f"wrote models/int8/classifier.int8.onnx: {int8['size_bytes']:,} bytes, accuracy {int8['accuracy']:.2%}"
        )


def read_accuracy(path: Path) -> float:
    """The accuracy on the test split, from the metrics of evaluate.

    Raises:
        StageError: it is missing.
    """
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{path}: has no accuracy; `dvc repro evaluate` writes it") from None


def make_metadata(
    context: "StageContext", model_config: "ModelConfig", test_images: "AnnotatedImages", num_images: dict[str, int]
) -> dict[str, Any]:
    """The metadata of the ONNX file: how to use it, and what it was made from."""
    import hashlib

    from classifier.data import info as dataset_info
    from classifier.data.preprocessing import Preprocessing
    from classifier.export import background, onnx_file

    weights = context.dep("models/classifier.safetensors")
    info = dataset_info.read(context.dep("data/dataset_info.json"))
    how: dict[str, Any] = {key: info.pop(key) for key in ("fit", "background") if key in info}
    model_license = info.pop("model_license", info["license"])
    return {
        **onnx_file.contract(model_config),
        "architecture": model_config.architecture,
        "author": info.pop("model_author", "The authors"),
        "license": model_license,
        "background": background.kind(test_images.all_images().numpy()),
        "preprocessing": Preprocessing(*model_config.shape, **how).contract(),
        "training_data": {**info, "images": num_images},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def write_card(context: "StageContext", model_config: "ModelConfig", metadata: dict[str, Any]) -> None:
    """Write the model card beside the ONNX file."""
    import pandas as pd

    from classifier import yaml_file
    from classifier.export import model_card

    classes = pd.read_csv(context.dep("metrics/evaluate/classes.csv"), dtype={"class": "str"}, keep_default_na=False)
    data = dict(metadata["training_data"])
    model_card.write(
        context.out("models/README.md"),
        title=f"{data['name']} classifier",
        license=metadata["license"],
        own=metadata["author"] == UNKNOWN,
        data={"homepage": "", "attribution": "", **data},
        num_images=data.pop("images"),
        background=metadata["background"],
        preprocessing=metadata["preprocessing"],
        config=model_config,
        test=read_json(context.dep("metrics/evaluate/details.json")),
        findings=read_json(context.dep("metrics/annotate.json"))["findings"],
        classes=classes,
        params=yaml_file.flatten(model_config.trained_with),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A metrics file.

    Raises:
        StageError: it is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: not a JSON file: {error}") from None
    return content


def write_int8(
    context: "StageContext",
    source: Path,
    model_config: "ModelConfig",
    test_images: "AnnotatedImages",
    rows: "pd.DataFrame",
    metadata: dict[str, Any],
    backend: "Backend",
) -> dict[str, Any]:
    """Write the model in 8 bits, or a note that it is off, and return its metrics; none if it is off.

    The folder is an output of the stage either way, so that DVC itself removes the file when the option is switched
    off, even if it takes the stage from its run cache.

    Raises:
        StageError: 8 bits cost more accuracy than ``export.int8_max_accuracy_drop``.
    """
    folder, params = context.out("models/int8"), context.params.export
    folder.mkdir()
    if not params.int8:
        (folder / "README.txt").write_text(INT8_OFF, encoding="utf-8")
        return {}

    from classifier.data.dataset import AnnotatedImages
    from classifier.export import onnx_file, onnx_int8, onnx_session, onnx_validate

    training = rows[rows["split"] == "train"]
    drawn = training.sample(min(params.int8_calibration_images, len(training)), random_state=params.int8_seed)
    (folder / "README.txt").write_text(INT8_ON.format(len(drawn)), encoding="utf-8")
    logger.info(f"quantizing to 8 bits, calibrated on {len(drawn):,} training images")
    if backend.portable:
        logger.warning("onnxruntime calibrates with its own kernels: the file in 8 bits may differ between processors")
    path = folder / "classifier.int8.onnx"
    calibration_images = AnnotatedImages(drawn, context.dep("data/images.zip")).all_images().numpy()
    proto = onnx_int8.quantize(source, path, calibration_images)
    session = onnx_session.create_session(path, backend.threads)
    logits, _ = onnx_validate.run(session, test_images.all_images().numpy(), params.batch_size)
    accuracy = onnx_validate.accuracy(logits, test_images)
    drop = round(metadata["accuracy"] - accuracy, 6)
    if drop > params.int8_max_accuracy_drop:
        raise StageError(
            f"8 bits cost {drop} of accuracy ({accuracy} against {metadata['accuracy']}), more than "
            f"export.int8_max_accuracy_drop {params.int8_max_accuracy_drop}; set export.int8: false, or allow more"
        )
    onnx_file.set_metadata(
        proto, metadata | {"accuracy": accuracy, "quantized": "int8 weights by channel, uint8 activations"}
    )
    onnx_file.write(path, proto)
    onnx_validate.check_contract(path, model_config, params.opset)
    return {"accuracy": accuracy, "accuracy_drop": drop, "size_bytes": path.stat().st_size}


if __name__ == "__main__":
    sys.exit(run_stage("export", main, __doc__))
