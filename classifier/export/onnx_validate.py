"""Validation of an exported file, before it is published: its structure, and its outputs against PyTorch's."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError
from classifier.export.onnx_file import INPUT, OUTPUTS
from classifier.model.compute import Backend
from classifier.model.inference import predict_logits
from classifier.model.serialization import ModelConfig, Normalize

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

BATCH_SIZE = 500  # images
BATCH_SIZES = (1, 7, 257)  # images; odd, so that none is a multiple of a vector width
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def check_contract(path: Path, model_config: ModelConfig, opset: int) -> None:
    """Check that the file is valid ONNX and matches its contract.

    Raises:
        StageError: one of these does not hold.
    """
    try:
        onnx.checker.check_model(path, full_check=True)  # infers all shapes, too
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"the exported file is not valid ONNX: {str(error).strip().splitlines()[0]}") from None

    proto, classes = onnx.load(path), len(model_config.class_names)
    wanted = [(INPUT, UINT8, ["batch", *model_config.shape])]
    wanted += [(name, FLOAT, ["batch", classes]) for name in OUTPUTS]
    got = [_describe(value) for value in (*proto.graph.input, *proto.graph.output)]
    if got != wanted:
        raise StageError(f"the exported file must have {wanted} (name, type, axes), but has {got}")
    if [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")] != [opset]:
        raise StageError(f"the exported file does not use export.opset {opset}")


def _describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    """Name, element type and axes of an input or output."""
    kind = value.type.tensor_type
    return value.name, kind.elem_type, [axis.dim_param or axis.dim_value for axis in kind.shape.dim]


@dataclass(frozen=True)
class Outputs:
    """The outputs of PyTorch and onnxruntime for the same images, ``(N, classes) float32`` each."""

    expected: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray

    @property
    def difference(self) -> float:
        """The largest absolute difference of a logit; NaN if any is NaN."""
        return float(np.abs(self.expected - self.logits).max())

    def probability_difference(self, temperature: float) -> float:
        """The largest absolute difference from the softmax of PyTorch's logits divided by the temperature."""
        expected = torch.from_numpy(self.expected).double().div(temperature).softmax(1).numpy()
        return float(np.abs(expected - self.probabilities).max())

    @property
    def disagreeing(self) -> list[int]:
        """Indices of the images for which the two predict different classes."""
        return [*map(int, (self.expected.argmax(1) != self.logits.argmax(1)).nonzero()[0])]


def run_both(
    model: nn.Module,
    model_config: ModelConfig,
    session: onnxruntime.InferenceSession,
    backend: Backend,
    images: torch.Tensor,
) -> Outputs:
    """Outputs for ``(N, C, H, W) uint8`` images of a model in PyTorch on the CPU, and of its file in onnxruntime."""
    backend = dataclasses.replace(backend, device=torch.device("cpu"))  # where onnxruntime runs too
    expected = torch.cat([*predict_logits(model, Normalize(model_config), images.split(BATCH_SIZE), backend)])
    return Outputs(expected.numpy(), *run(session, images.numpy()))


def run(session: onnxruntime.InferenceSession, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities of a session, ``(N, classes) float32``, for ``(N, C, H, W) uint8`` images."""
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
    logits, probabilities = zip(*(session.run(list(OUTPUTS), {INPUT: batch}) for batch in batches), strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def accuracy(logits: np.ndarray, test: AnnotatedImages) -> float:
    """The fraction of correct predictions, rounded as ``evaluate`` rounds it."""
    return round(float((logits.argmax(1) == test.labels.numpy()).mean()), 6)


def check_outputs(outputs: Outputs, temperature: float, tolerance: float, name: Callable[[int], str]) -> None:
    """Check that both predict the same classes, and that logits and probabilities agree within the tolerance.

    Raises:
        StageError: they do not; for classes and logits the message names an image, by its index in the batch.
    """
    difference = outputs.difference
    if outputs.disagreeing:
        raise StageError(
            f"onnxruntime and PyTorch predict different classes for {len(outputs.disagreeing)} of "
            f"{len(outputs.expected):,} images (first: {name(outputs.disagreeing[0])}); the largest logit "
            f"difference is {difference:.2e}"
        )
    if not difference <= tolerance:  # so that NaN fails too
        image, number = np.unravel_index(np.abs(outputs.expected - outputs.logits).argmax(), outputs.logits.shape)
        raise StageError(
            f"onnxruntime's logits differ from PyTorch's by {difference:.2e}, more than export.tolerance "
            f"{tolerance:.2e}; the most for {name(int(image))}, class {number}"
        )
    difference = outputs.probability_difference(temperature)
    if not difference <= tolerance:
        raise StageError(
            f"the file's probabilities differ from the softmax of PyTorch's logits by {difference:.2e}, more than "
            f"export.tolerance {tolerance:.2e}"
        )


def check_extremes(compare: Callable[[torch.Tensor], Outputs], model_config: ModelConfig, tolerance: float) -> float:
    """Compare batches of all-black and all-white images, which no dataset has, and return the largest difference.

    Raises:
        StageError: as in ``check_outputs``.
    """
    largest = 0.0
    for value, count in itertools.product((0, 255), BATCH_SIZES):
        outputs = compare(torch.full((count, *model_config.shape), value, dtype=torch.uint8))
        name = f"image {{}} of {count} that are all {value}".format
        check_outputs(outputs, model_config.temperature, tolerance, name)
        largest = max(largest, outputs.difference)
    return largest
