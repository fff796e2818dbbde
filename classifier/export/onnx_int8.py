"""The exported model in 8 bits: static quantization in QDQ format, one scale per channel."""

import logging
from pathlib import Path
from typing import Any

from classifier.config.schema import Export
from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError
from classifier.export import onnx_file
from classifier.export.onnx_file import INPUT, strip_provenance
from classifier.export.onnx_session import create_session
from classifier.export.onnx_validate import accuracy as accuracy_of
from classifier.export.onnx_validate import run
from classifier.model.compute import Backend

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

NAME = "classifier.int8.onnx"
OFF = "export.int8 is false in params.yaml: there is no model in 8 bits.\n"
ON = f"{NAME} is classifier.onnx in 8 bits, calibrated on {{:,}} training images.\n"
BATCH = 64  # images
# The operators that do the arithmetic. Quantizing pooling and activations too made the default model a third slower
# (batch of 1000: 116 instead of 83 ms, one thread) and did not make it smaller.
OPERATORS = ["Conv", "Gemm", "MatMul"]
IDENTITY = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}

logger = logging.getLogger(__name__)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, in batches."""

    def __init__(self, images: np.ndarray):
        self._batches = iter([{INPUT: images[start : start + BATCH]} for start in range(0, len(images), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self._batches, None)


def quantize(source: Path, target: Path, images: np.ndarray) -> onnx.ModelProto:
    """Quantize an exported file; return what was written to ``target``, without metadata.

    Weights become int8 with one scale per output channel, activations uint8 with the range observed on the
    calibration images, ``(N, C, H, W) uint8``. The outputs stay float32: the last layer's result is not rounded to
    256 steps.
    """
    pixels = _pixels(onnx.load(source).graph)
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends preprocessing that the exporter has already done
    try:
        quantize_static(
            source,
            target,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "TensorQuantOverrides": {name: [IDENTITY] for name in pixels},
            },
        )
    finally:
        root.setLevel(before)
    proto = onnx.load(target)
    _skip_pixel_quantization(proto.graph, pixels)
    return strip_provenance(proto)


def write(
    folder: Path,
    source: Path,
    images: np.ndarray,
    test_images: AnnotatedImages,
    metadata: dict[str, Any],
    params: Export,
    backend: Backend,
) -> dict[str, Any]:
    """Write the model in 8 bits, calibrated on these ``(N, C, H, W) uint8`` images, and return its metrics.

    Raises:
        StageError: 8 bits cost more accuracy than ``export.int8_max_accuracy_drop``.
    """
    (folder / "README.txt").write_text(ON.format(len(images)), encoding="utf-8")
    logger.info(f"quantizing to 8 bits, calibrated on {len(images):,} training images")
    if backend.in_parts:
        logger.warning("onnxruntime calibrates with its own kernels: the file in 8 bits may differ between processors")
    path = folder / NAME
    proto = quantize(source, path, images)
    logits, _ = run(create_session(path, backend.threads), test_images.all_images().numpy())
    accuracy = accuracy_of(logits, test_images)
    drop = round(metadata["accuracy"] - accuracy, 6)
    if drop > params.int8_max_accuracy_drop:
        raise StageError(
            f"8 bits cost {drop} of accuracy ({accuracy} against {metadata['accuracy']}), more than "
            f"export.int8_max_accuracy_drop {params.int8_max_accuracy_drop}; set export.int8: false, or allow more"
        )
    own = {"accuracy": accuracy, "quantized": "int8 weights by channel, uint8 activations"}
    onnx_file.write(path, proto, metadata | own)
    size = path.stat().st_size
    logger.info(f"wrote models/int8/{NAME}: {size:,} bytes, accuracy {accuracy:.2%}")
    return {"accuracy": accuracy, "accuracy_drop": drop, "size_bytes": size}


def _pixels(graph: onnx.GraphProto) -> list[str]:
    """Names of the input cast to float32, where a convolution takes it directly (normalization is folded in)."""
    names = [node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] == INPUT]
    return [name for name in names if any(node.op_type == "Conv" and node.input[0] == name for node in graph.node)]


def _skip_pixel_quantization(graph: onnx.GraphProto, pixels: list[str]) -> None:
    """Dequantize the input directly: pixels have 8 bits, so casting to float32 and quantizing changes nothing."""
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in pixels]
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in [q.output[0] for q in rounded]:
            node.input[0] = INPUT
    for node in [*rounded, *(node for node in graph.node if node.output[0] in pixels)]:
        graph.node.remove(node)
