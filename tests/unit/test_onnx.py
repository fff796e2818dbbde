"""Models exported to ONNX compute what PyTorch computes."""

import dataclasses
from pathlib import Path
from typing import Any

from classifier.export import background, onnx_file, onnx_int8, onnx_validate
from classifier.model import zoo
from classifier.model.serialization import ModelConfig, Normalize
from tests.support.recipes import MODEL_ARGUMENTS

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

METADATA = {"author": "somebody", "license": "MIT"}
CLASSES = [f"class {number}" for number in range(7)]


def make_model_config(name: str, channels: int = 1, side: int = 28) -> ModelConfig:
    means, stds = [0.3] * channels, [0.4] * channels
    return ModelConfig(name, MODEL_ARGUMENTS.get(name, {}), CLASSES, channels, side, side, means, stds, {})


def write(path: Path, model: torch.nn.Module, model_config: ModelConfig, opset: int = 18) -> Path:
    onnx_file.write(path, onnx_file.convert(model.eval(), model_config, opset), METADATA)
    return path


def expected_logits(model: torch.nn.Module, model_config: ModelConfig, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(Normalize(model_config)(images))
    return logits


def as_after_training(model: torch.nn.Module) -> torch.nn.Module:
    """With statistics, scales and shifts that are not 0 and 1, or folding BatchNorm would have nothing to do."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.normal_(norm.running_mean, std=0.2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.2)
    return model.eval()


def check_exported(model: torch.nn.Module, model_config: ModelConfig, path: Path) -> None:
    """The file has the contract's form and computes what the model computes, in batches of any size."""
    onnx_validate.check_contract(write(path, model, model_config), model_config, opset=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        size = (count, model_config.channels, model_config.height, model_config.width)
        black, white = torch.zeros(size, dtype=torch.uint8), torch.full(size, 255, dtype=torch.uint8)
        for images in (torch.randint(0, 256, size, dtype=torch.uint8), black, white):
            logits, probabilities = session.run(None, {"images": images.numpy()})
            expected = expected_logits(model, model_config, images)
            np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, expected.abs().max().item()))
            np.testing.assert_allclose(probabilities, (expected / model_config.temperature).softmax(1), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_exported_model_equals_pytorch(tmp_path: Path, name: str, channels: int) -> None:
    model_config = dataclasses.replace(make_model_config(name, channels), temperature=0.7)
    model = as_after_training(model_config.build())
    check_exported(model, model_config, tmp_path / "model.onnx")
    # Computed by this project and tested on other processors, so the exporter must compute none.
    graph = onnx.load(tmp_path / "model.onnx").graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    exported = {name: array.tobytes() for name, array in arrays.items() if array.dtype.kind == "f" and array.ndim}
    deployed = onnx_file.Deployed(model, model_config).state_dict()
    assert exported == {name: tensor.numpy().tobytes() for name, tensor in deployed.items()}
    assert not {node.op_type for node in graph.node} & {"Mul", "Add", "Sub"}  # the first layer normalizes


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 9), (24, 12)])
def test_file_has_the_oldest_format_of_its_operators(tmp_path: Path, opset: int, ir_version: int) -> None:
    """A runtime that knows the operators need not know the exporter's format: onnxruntime 1.16 knows 9, not 10."""
    model_config = make_model_config("mlp")
    path, int8, images = tmp_path / "model.onnx", tmp_path / "int8.onnx", np.zeros((2, 1, 28, 28), np.uint8)
    onnx_validate.check_contract(write(path, model_config.build(), model_config, opset), model_config, opset)
    onnx_file.write(int8, onnx_int8.quantize(path, int8, images), METADATA)
    for written in (path, int8):
        assert onnx.load(written).ir_version == ir_version
        assert len(onnxruntime.InferenceSession(written).run(["logits"], {"images": images})[0]) == 2


def test_padding_first_layer_keeps_its_normalization(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 7)
    )
    check_exported(model, make_model_config("cnn", channels=3), tmp_path / "model.onnx")


def test_normalization_after_pooling_is_exported_whatever_its_sign(tmp_path: Path) -> None:
    model_config = make_model_config("cnn")
    model = as_after_training(model_config.build())
    norm = next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight.fill_(-2)  # the largest value is the smallest afterwards: they cannot change places
    check_exported(model, model_config, tmp_path / "model.onnx")


def test_int8_model_takes_raw_pixels(tmp_path: Path) -> None:
    model_config = make_model_config("cnn")
    model = as_after_training(model_config.build())
    images = torch.randint(0, 200, (64, 1, 28, 28), dtype=torch.uint8)  # no white: the range is not the calibration's
    path = write(tmp_path / "model.onnx", model, model_config)
    proto = onnx_int8.quantize(path, tmp_path / "int8.onnx", images.numpy())
    (first,) = (node for node in proto.graph.node if "images" in node.input)
    assert first.op_type == "DequantizeLinear"
    assert "Cast" not in {node.op_type for node in proto.graph.node}
    onnx_file.write(tmp_path / "int8.onnx", proto, METADATA)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    white = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    for batch in (images, white):
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        expected = expected_logits(model, model_config, batch).numpy()
        assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def small_torchvision_model(name: str) -> torch.nn.Module:
    """Of a family, the fewest blocks that have every kind of layer."""
    from torchvision import models  # seconds, in one worker
    from torchvision.models.mobilenetv3 import InvertedResidualConfig
    from torchvision.models.resnet import BasicBlock

    options: dict[str, dict[str, Any]] = {
        "ResNet": {"block": BasicBlock, "layers": [1, 2, 1, 1]},
        "MobileNetV3": {
            "inverted_residual_setting": [
                InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1),
                InvertedResidualConfig(16, 5, 48, 16, False, "HS", 1, 1, 1),
                InvertedResidualConfig(16, 5, 48, 24, True, "HS", 2, 1, 1),
            ],
            "last_channel": 64,
        },
        "ShuffleNetV2": {"stages_repeats": [2, 1, 1], "stages_out_channels": [24, 48, 96, 192, 256]},
        "DenseNet": {"block_config": (1, 1, 1, 1)},
    }
    model: torch.nn.Module = getattr(models, name)(num_classes=7, **options[name])
    return model


# DenseNet's BatchNorm comes before its convolutions: one of each of its 4 layers, its 3 transitions and the last stays.
@pytest.mark.parametrize(("name", "stay"), [("ResNet", 0), ("MobileNetV3", 0), ("ShuffleNetV2", 0), ("DenseNet", 8)])
def test_torchvision_model_exports_with_batch_norm_folded(tmp_path: Path, name: str, stay: int) -> None:
    model = small_torchvision_model(name)
    where, first = next(item for item in model.named_modules() if isinstance(item[1], torch.nn.Conv2d))
    model.set_submodule(where, torch.nn.Conv2d(1, first.out_channels, 3, padding=1, bias=first.bias is not None))
    check_exported(as_after_training(model), make_model_config(name, side=32), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("BatchNormalization") == stay


def test_background_of_a_dataset_is_recognized() -> None:
    dark = np.zeros((100, 3, 6, 8), np.uint8)
    dark[..., 1:-1, 1:-1] = 255
    assert background.kind(dark) == "dark"
    assert background.kind(255 - dark) == "light"
    assert background.kind(np.concatenate([dark, 255 - dark])) == "mixed"
