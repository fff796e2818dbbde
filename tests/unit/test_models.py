"""Models: shapes, classes, files."""

import re
from pathlib import Path

from classifier.model import whitening, zoo
from classifier.model.serialization import ModelConfig, load, save
from classifier.train.pretrained import freeze
from tests.support.recipes import MODEL_ARGUMENTS

import pytest
import torch

# One of each family that fits into a test: plain, residual, dense, inverted, branching, depthwise, patches, attention.
FAMILIES = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "mobilenet_v3_small", "googlenet", "shufflenet_v2_x0_5",
            "squeezenet1_1", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "swin_t"]  # fmt: skip


@pytest.mark.parametrize("name", [*FAMILIES, *zoo.ARCHITECTURES])
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (64, 80)), (3, (32, 40))])
def test_model_fits_channels_sizes_and_classes(name: str, channels: int, size: tuple[int, int]) -> None:
    # Shapes without numbers, since random weights would take seconds; RegNet computes its widths as tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = zoo.build_model(name, MODEL_ARGUMENTS.get(name, {}), channels, size, 7).to("meta")
    assert model(torch.empty(2, channels, *size, device="meta")).shape == (2, 7)


def test_unknown_model_or_argument_is_named() -> None:
    with pytest.raises(ValueError, match="torchvision has no classification model 'resnet19'"):
        zoo.build_model("resnet19", {}, 1, (28, 28), 10)
    with pytest.raises(ValueError, match=r"models.resnet18: .*depth"):
        zoo.build_model("resnet18", {"depth": 3}, 1, (28, 28), 10)


def test_tutorial_networks_have_the_tutorial_shapes() -> None:
    mlp = zoo.build_model("mlp", {"hidden": [512, 512]}, 1, (28, 28), 10)
    assert [tuple(p.shape) for p in mlp.parameters() if p.ndim == 2] == [(512, 784), (512, 512), (10, 512)]
    lenet = [tuple(p.shape) for p in zoo.build_model("lenet", {}, 1, (28, 28), 10).parameters() if p.ndim > 1]
    assert lenet == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 256), (84, 120), (10, 84)]


@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_stem_has_outputs_without_correlation_and_of_one_size(channels: int) -> None:
    images = torch.nn.functional.avg_pool2d(torch.randn(40, channels, 17, 17), 3, stride=1)  # neighbors are alike
    pixels = ((images + 2 * images.mean(1, keepdim=True)) * 40 + 90).clamp(0, 255).to(torch.uint8)
    scale, shift = [2.0] * channels, [-150.0] * channels
    model = zoo.Cnn(channels, (15, 15), 7, "whiten", [8, 8])
    model.set_stem(whitening.filters(pixels.split(9), zoo.STEM_SIDE, scale, shift))
    outputs = model[0](pixels * 2.0 - 150).transpose(0, 1).flatten(1).double()
    assert len(outputs) == 8 * channels
    torch.testing.assert_close(outputs[4 * channels :], -outputs[: 4 * channels])  # each with both signs
    moments = outputs[: 4 * channels] @ outputs[: 4 * channels].T / outputs.shape[1]
    torch.testing.assert_close(moments, torch.eye(4 * channels, dtype=torch.float64), atol=0.05, rtol=0)
    freeze(model, [])
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert all(parameter.requires_grad for parameter in zoo.Cnn(channels, (15, 15), 7, 8, [8, 8]).parameters())


def test_last_convolution_is_padded_only_where_the_map_is_smaller_than_its_filters() -> None:
    for side, padding in ((16, 1), (23, 1), (25, 0), (28, 0), (64, 0)):
        model = zoo.build_model("cnn", {"stem": 4, "widths": [8, 8, 8]}, 1, (side, side + 9), 7)
        *_, last = (layer for layer in model if isinstance(layer, torch.nn.Conv2d))  # type: ignore[attr-defined]
        assert last.padding == (padding, padding)


def test_model_file_depends_on_its_content_alone(tmp_path: Path) -> None:
    model_config = ModelConfig("mlp", {"hidden": [4]}, ["a", "b"], 1, 3, 3, [0.5], [0.25], {})
    model = model_config.build()
    (tmp_path / "folder").mkdir()
    first, second = tmp_path / "first.safetensors", tmp_path / "folder/second.safetensors"
    for path in (first, second):
        save(path, model, model_config)
    assert first.read_bytes() == second.read_bytes()
    again, same_card = load(first)
    assert same_card == model_config
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_largest_value_by_selection_equals_pooling_and_so_does_its_gradient() -> None:
    maps = torch.randn(3, 5, 4, 4, requires_grad=True)
    found, expected = zoo.GlobalMaxPool.by_selection(maps), zoo.GlobalMaxPool()(maps)
    assert found.shape == expected.shape == (3, 5, 1, 1)
    assert torch.equal(found, expected)
    weights = torch.arange(15.0).view(3, 5, 1, 1)
    gradients = [torch.autograd.grad((values * weights).sum(), maps)[0] for values in (found, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_no_layer_is_refused_on_cuda_in_deterministic_mode(name: str) -> None:
    """By the list in PyTorch's documentation, since there is no GPU here."""
    listed = (torch.use_deterministic_algorithms.__doc__ or "").partition("operations will throw")[2]
    refused = set(re.findall(r":class:`torch\.nn\.(\w+)` when attempting to differentiate a CUDA tensor", listed))
    assert {"AdaptiveMaxPool2d", "AdaptiveAvgPool2d"} <= refused
    model = zoo.build_model(name, MODEL_ARGUMENTS[name], 1, (28, 28), 10)
    assert not {type(module).__name__ for module in model.modules()} & refused
