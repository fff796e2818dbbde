"""The exported model: one ONNX file that includes the preprocessing, with its contract in the metadata."""

import itertools
import json
import logging
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

from classifier.model.inference import fold_batch_norm
from classifier.model.serialization import ModelConfig, Normalize

import onnx
import torch
from torch import nn

INPUT, OUTPUTS = "images", ("logits", "probabilities")


class Deployed(nn.Module):
    """Pixels in, logits and probabilities out.

    What is folded is folded here. So of a model of our own PyTorch's exporter writes these numbers and computes none,
    and the file depends on the processor no more than they do.
    """

    def __init__(self, model: nn.Module, model_config: ModelConfig):
        super().__init__()
        normalize = Normalize(model_config)
        model = fold_batch_norm(_norm_before_pooling(model))
        self.model = _fold_normalization(model, normalize) or nn.Sequential(normalize, model)
        self.temperature = model_config.temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and probabilities, ``(N, classes)`` each, of ``(N, C, H, W) uint8``."""
        logits = self.model(images.float())
        calibrated = logits if self.temperature == 1 else logits / self.temperature
        return logits, calibrated.softmax(1)


def _norm_before_pooling(model: nn.Module) -> nn.Module:
    """The same model with each BatchNorm that follows a maximum pooling before it, where it folds into a convolution.

    A scale that is positive changes no order, so the largest value before is the largest after.
    """
    if not isinstance(model, nn.Sequential):
        return model
    layers = list(model)
    for index, (pool, norm) in enumerate(itertools.pairwise(model)):
        if isinstance(pool, nn.MaxPool2d) and isinstance(norm, nn.BatchNorm2d) and bool((norm.weight > 0).all()):
            layers[index : index + 2] = norm, pool
    return nn.Sequential(*layers)


@torch.no_grad()
def _fold_normalization(model: nn.Module, normalize: Normalize) -> nn.Module | None:
    """The same model with the normalization folded into its first layer; None if that is not possible.

    It is not possible for a layer with padding: its zeros mean the mean color, and would then mean black.
    """
    if not isinstance(model, nn.Sequential):
        return None
    model = deepcopy(model)
    first = next(layer for layer in model if not isinstance(layer, nn.Flatten))
    if not (isinstance(first, nn.Linear) or (isinstance(first, nn.Conv2d) and first.padding == (0, 0))):
        return None
    scale, shift = normalize.scale.flatten(1).double(), normalize.shift.flatten(1).double()  # (C, 1)
    weight = first.weight.double().flatten(1).unflatten(1, (len(scale), -1))  # (outputs, C, pixels)
    bias = (weight * shift).sum((1, 2)) + (0 if first.bias is None else first.bias)
    first.weight.copy_((weight * scale).view_as(first.weight))
    first.bias = nn.Parameter(bias.float())
    return model


def convert(model: nn.Module, model_config: ModelConfig, opset: int) -> onnx.ModelProto:
    """A model in evaluation mode as ONNX, with scaling and normalization inside.

    In models of torchvision PyTorch's exporter folds a BatchNorm into the convolution before it; others stay.
    """
    images = torch.zeros(2, *model_config.shape, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's internals
        program = torch.onnx.export(
            Deployed(model, model_config).eval(),
            (images,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    assert program
    return strip_provenance(program.model_proto)


def write(path: Path, proto: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Write the file, in the oldest format that has its operators; its bytes depend only on model and metadata.

    Each value of the metadata is stored as JSON, since ONNX metadata values are strings. The keys that ONNX itself
    defines are added, whose values are plain text. Source of their names and values: the ONNX repository,
    docs/MetadataProps.md.
    """
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    standard = {
        "Image.BitmapPixelFormat": "Gray8" if channels == 1 else "Rgb8",
        "Image.NominalPixelRange": "NominalRange_0_255",
        "model_author": metadata["author"],
        "model_license": metadata["license"],
    }
    own = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    onnx.helper.set_model_props(proto, own | standard)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)  # the exporter's own is always 10
    path.write_bytes(proto.SerializeToString(deterministic=True))


def strip_provenance(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the notes on how the file was made, such as source paths and tool versions."""
    proto.producer_name, proto.producer_version = "", ""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    return proto
