"""A model that is no network of this project, for what takes any exported file."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_linear_model(
    path: Path,
    class_names: list[str],
    shape: tuple[int, int, int],
    random: np.random.Generator,
    fit: str = "stretch",
    background: str = "black",
) -> None:
    """A model with the contract of ``export``: uint8 pixels in, logits and probabilities out."""
    classes = len(class_names)
    # So small that the probabilities differ from picture to picture: those of sure answers are all 1.
    weights = random.normal(0, 1e-4, (int(np.prod(shape)), classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
        for name in ("logits", "probabilities")
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])
    graph = helper.make_graph(nodes, "linear", [images], outputs, [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    how = json.dumps({"fit": fit, "background": background})
    names = json.dumps(class_names)
    helper.set_model_props(model, {"class_names": names, "background": '"mixed"', "preprocessing": how})
    onnx.save(model, path)
