"""The exported model: one ONNX file with preprocessing inside and its contract in the metadata."""

import json
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from stages.lib.model_file import ModelCard, Normalise

INPUT, OUTPUTS = "images", ("logits", "probabilities")


class _Deployed(nn.Module):
    """Pixels in, logits and probabilities out."""

    def __init__(self, model: nn.Module, card: ModelCard):
        super().__init__()
        from torch.fx.experimental.optimization import fuse

        self.normalise = Normalise(card)
        self.model = fuse(model.eval())  # BatchNorm goes into the convolution before it

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(self.normalise(images))
        return logits, logits.softmax(1)


def write(path: Path, model: nn.Module, card: ModelCard, opset: int) -> None:
    """Convert a model and check the file.

    Raises:
        onnx.checker.ValidationError: the exporter wrote something invalid.
    """
    images = torch.zeros(2, card.channels, card.height, card.width, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            _Deployed(model, card).eval(),
            (images,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export returned no program")
    proto = _without_traces(program.model_proto)
    contract = {
        "class_names": card.class_names,
        "input": f"{INPUT}: (batch, {card.channels}, {card.height}, {card.width}) uint8, 0 to 255; "
        + ("greyscale" if card.channels == 1 else "RGB"),
        "outputs": f"{', '.join(OUTPUTS)}: (batch, {len(card.class_names)}) float32, in the order of class_names",
    }
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in contract.items()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter noted about where and by what the model was written: source paths and versions."""
    proto.producer_name, proto.producer_version, proto.doc_string = "", "", ""
    del proto.metadata_props[:]
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        values = [*graph.input, *graph.output, *graph.value_info]
        if isinstance(graph, onnx.GraphProto):
            values += graph.initializer
        for item in [*graph.node, *values]:
            if not isinstance(item, str):
                item.doc_string = ""
                del item.metadata_props[:]
    return proto
