"""Write the trained model as one ONNX file that takes pixels, and verify that it computes what PyTorch computes.

reads   models/classifier.safetensors, data/test_images, data/images (to calibrate 8 bits),
        data/annotations.csv, data/dataset_info.json (name and license of the images), metrics/annotate.json,
        metrics/evaluate/details.json, metrics/evaluate/classes.csv; params.yaml: export, compute
writes  models/classifier.onnx, models/README.md (the model card), metrics/export.json, metrics/export/details.json;
        models/int8/: the same model in 8 bits if export.int8 is true; untracked: models/export_differences.json
run     dvc repro export, or: python -m stages.export
expect  about ten seconds; no test image on which PyTorch disagrees, or the stage fails and writes nothing

The file: input `images`, (batch, channels, height, width) uint8; outputs `logits` and `probabilities`,
(batch, classes) float32. Scaling and normalization are inside; class names and the input contract are its metadata.
"""

import logging
import sys
from functools import partial
from typing import Any

from classifier import portability
from classifier.data import annotations
from classifier.data.dataset import AnnotatedImages, load_splits
from classifier.errors import StageError
from classifier.export import metadata as onnx_metadata
from classifier.export import model_card, onnx_file, onnx_int8, onnx_session, onnx_validate
from classifier.model import compute, serialization
from classifier.runner import files
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage

# How far onnxruntime is from PyTorch depends on the processor, so the figures are not tracked.
DIFFERENCES = "models/export_differences.json"
MEGABYTE = 1e6

logger = logging.getLogger("stages.export")


def main(context: StageContext) -> None:
    """Convert, compare on the whole test split and on extremes, write; the same in 8 bits if asked to."""
    params = context.params.export
    backend = compute.prepare(context.params.compute, context.params.runtime.threads)
    model_path = context.dep("models/classifier.safetensors")
    model, model_config = serialization.load(model_path)
    annotations_file = context.dep("data/annotations.csv")
    (test_images,) = load_splits(annotations_file, context.dep("data/test_images"), "test")
    model_config.check_fits(model_path, test_images)
    rows = annotations.read(annotations_file)
    metadata = onnx_metadata.make(context, model_config, test_images, rows)

    logger.info(f"converting {model_config.architecture} to ONNX and comparing it on {len(test_images):,} images")
    path = context.out("models/classifier.onnx")
    onnx_file.write(path, onnx_file.convert(model, model_config, params.opset), metadata)

    onnx_validate.check_contract(path, model_config, params.opset)
    session = onnx_session.create_session(path, backend.threads)
    compare = partial(onnx_validate.run_both, model, model_config, session, backend)
    outputs = compare(test_images.all_images())
    onnx_validate.check_outputs(outputs, model_config.temperature, params.tolerance, test_images.names.__getitem__)
    extremes_difference = onnx_validate.check_extremes(compare, model_config, params.tolerance)
    accuracy = onnx_validate.accuracy(outputs.logits, test_images)
    if accuracy != metadata["accuracy"]:
        raise StageError(
            f"the accuracy of the ONNX file on the test split is {accuracy}, but that of evaluate "
            f"(metrics/evaluate/details.json) is {metadata['accuracy']}; both are equal with compute.device: cpu"
        )
    size = path.stat().st_size
    details: dict[str, Any] = {
        "accuracy": accuracy,
        "disagreeing_predictions": len(outputs.disagreeing),
        "num_images": len(test_images),
        "size_bytes": size,
    }
    metrics: dict[str, Any] = {"size_mb": size / MEGABYTE}

    # A folder either way, so that DVC removes the file when the option is switched off, also from its run cache.
    folder = context.out("models/int8")
    folder.mkdir()
    if params.int8:
        training = rows[rows["split"] == "train"]
        drawn = training.sample(min(params.int8_calibration_images, len(training)), random_state=0)
        images = AnnotatedImages(drawn, context.dep("data/images")).all_images()
        int8 = onnx_int8.write(folder, path, images.numpy(), test_images, metadata, params, backend)
        onnx_validate.check_contract(folder / onnx_int8.NAME, model_config, params.opset)
        details["int8"] = int8
        metrics["int8"] = {"accuracy": int8["accuracy"], "size_mb": int8["size_bytes"] / MEGABYTE}
    else:
        (folder / "README.txt").write_text(onnx_int8.OFF, encoding="utf-8")

    model_card.write(
        context.out("models/README.md"),
        model_config,
        metadata,
        test=context.read_json("metrics/evaluate/details.json"),
        findings=context.read_json("metrics/annotate.json")["findings"],
        classes_file=context.dep("metrics/evaluate/classes.csv"),
    )
    context.write_json("metrics/export/details.json", details)
    context.write_json("metrics/export.json", metrics)
    differences = {
        "logits": outputs.difference,
        "logits_of_extremes": extremes_difference,
        "probabilities": outputs.probability_difference(model_config.temperature),
    }
    files.atomic_write(context.untracked_out(DIFFERENCES), portability.json_bytes(differences))
    logger.info(
        f"wrote models/classifier.onnx: {size:,} bytes, largest difference to PyTorch {max(differences.values()):.1e}"
    )


if __name__ == "__main__":
    sys.exit(run_stage("export", main, __doc__))
