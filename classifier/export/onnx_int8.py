"""The exported model in 8 bits: static quantization in QDQ format, one scale per channel."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from classifier.export.onnx_file import INPUT, strip_provenance

BATCH = 64  # images
# The operators that do the arithmetic. Quantizing pooling and activations too made the default model a third slower
# (batch of 1000: 116 instead of 83 ms, one thread) and did not make it smaller.
OPERATORS = ["Conv", "Gemm", "MatMul"]
IDENTITY = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, in batches."""

    def __init__(self, images: np.ndarray):
        self._batches: Iterator[np.ndarray] = iter(
            [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(source: Path, target: Path, images: np.ndarray) -> onnx.ModelProto:
    """Quantize an exported file; return what was written to ``target``, without metadata.

    Weights become int8 with one scale per output channel, activations uint8 with the range observed on the
    calibration images. The outputs stay float32: the last layer's result is not rounded to 256 steps.

    Args:
        source: the float32 file.
        target: the file to write.
        images: calibration images, ``(N, C, H, W) uint8``.
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
