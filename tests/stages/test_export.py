"""export: the file's contract, its equality with PyTorch, and the model in 8 bits."""

import hashlib
import json
import operator
import re
from pathlib import Path
from typing import Any

from classifier.export import onnx_file, onnx_int8, onnx_validate
from classifier.prepare.registry import DATASETS
from tests.project import TEST_IMAGES, Project, one_line

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image


def metadata(path: Path) -> dict[str, Any]:
    """The project's own metadata; those of ONNX are plain text."""
    props = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    standard = [props.pop(key) for key in ("Image.BitmapPixelFormat", "Image.NominalPixelRange")]
    assert standard[0] in ("Gray8", "Rgb8")
    assert standard[1] == "NominalRange_0_255"
    assert (props.pop("model_author"), props.pop("model_license")) == ("The authors", "MIT")
    return {key: json.loads(value) for key, value in props.items()}


def refusal(project: Project) -> str:
    """The error of an export that fails and writes nothing."""
    error = one_line(project.stage("export", status=1))
    for path in ("models/classifier.onnx", "models/int8", "metrics/export.json"):
        assert not (project.root / path).exists()
    return error


FORWARD, EXPORT = "classifier.export.onnx_file.Deployed.forward", torch.onnx.export
INT8 = "models/int8/classifier.int8.onnx"
PLACES = ("site-packages", ".py", "stages/", "onnx.quantize")  # of the machine or the code that wrote a file


def test_onnx_file_has_the_contract(finished: Project) -> None:
    path = finished.root / "models/classifier.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", 18)]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    for word in (*map(str, (finished.root, finished.root.parents[1], Path.home())), *PLACES):
        assert word.encode() not in path.read_bytes(), word


def test_metadata_have_contract_and_provenance(finished: Project) -> None:
    held = metadata(finished.root / "models/classifier.onnx")
    evaluation = finished.json("metrics/evaluate/details.json")
    assert held == {
        "accuracy": evaluation["accuracy"],
        "architecture": "mlp",
        "author": "The authors",
        "license": "MIT",
        "background": "dark",
        "class_names": list(DATASETS["fashion-mnist"].class_names),
        "input": "images: (batch, 1, 28, 28) uint8, 0 to 255; grayscale",
        "preprocessing": {"background": "black", "filter": "lanczos", "fit": "stretch"},
        "outputs": "logits, probabilities: (batch, 10) float32, in the order of class_names",
        "temperature": evaluation["temperature"],
        "training_data": {
            "attribution": "Zalando SE, 2017",
            "homepage": "github.com/zalandoresearch/fashion-mnist",
            "images": {"test": 100, "train": 359, "val": 41},
            "license": "MIT",
            "name": "Fashion-MNIST",
        },
        "weights_sha256": hashlib.sha256(finished.read("models/classifier.safetensors")).hexdigest(),
    }


def test_metrics_and_differences_are_written(finished: Project) -> None:
    size = (finished.root / "models/classifier.onnx").stat().st_size
    assert finished.json("metrics/export.json") == {"size_mb": size / 1e6}
    assert finished.json("metrics/export/details.json") == {
        "accuracy": finished.json("metrics/evaluate/details.json")["accuracy"],
        "disagreeing_predictions": 0,
        "num_images": TEST_IMAGES,
        "size_bytes": size,
    }
    differences = finished.json("models/export_differences.json")
    assert sorted(differences) == ["logits", "logits_of_extremes", "probabilities"]
    assert all(0 <= value <= 1e-4 for value in differences.values())
    assert differences["logits"] > 0
    assert finished.run("git", "status", "--porcelain").stdout == ""  # they depend on the processor: untracked


def test_difference_from_pytorch_or_evaluate_fails_and_writes_nothing(finished: Project) -> None:
    finished.set(export__tolerance=1e-12)
    assert "more than export.tolerance 1.00e-12" in refusal(finished)
    finished.set(export__tolerance=1e-4)
    path = "metrics/evaluate/details.json"
    finished.write(path, json.dumps(finished.json(path) | {"accuracy": 0.5}))
    assert f"but that of evaluate ({path}) is 0.5" in refusal(finished)


def forward(before: Any = lambda x: x, after: Any = lambda x: x, temperature: Any = operator.truediv) -> Any:
    """``Deployed.forward`` with other pixels, other logits or another use of the temperature."""

    def method(self: onnx_file.Deployed, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = after(self.model(before(images).float()))
        return logits, temperature(logits, self.temperature).softmax(1)

    return method


def exporter(**change: Any) -> Any:
    """``torch.onnx.export`` with other options."""
    return lambda *words, **options: EXPORT(*words, **(options | change))


@pytest.mark.parametrize(
    ("target", "wrong", "says"),
    [
        (FORWARD, forward(after=torch.neg), "for 100 of 100 images (first: test/000"),
        (FORWARD, forward(before=lambda images: images.clamp(max=254)), "of 1 that are all 255"),
        (FORWARD, forward(temperature=operator.mul), "the file's probabilities differ from the softmax"),
        (FORWARD, forward(after=lambda logits: logits * float("nan")), "differ"),
        (
            "torch.onnx.export",
            exporter(dynamic_shapes=(None,)),
            "(name, type, axes), but has [('images', 2, [2, 1, 28, 28])",
        ),
        ("torch.onnx.export", exporter(input_names=["pixels"]), "but has [('pixels', 2, ['batch', 1, 28, 28])"),
        ("torch.onnx.export", exporter(opset_version=19), "the exported file does not use export.opset 18"),
    ],
)
def test_wrong_conversion_fails_and_writes_nothing(
    finished: Project, monkeypatch: pytest.MonkeyPatch, target: str, wrong: Any, says: str
) -> None:
    monkeypatch.setattr(target, wrong)
    assert says in refusal(finished)


def test_int8_switched_off_leaves_nothing_behind(finished: Project) -> None:
    assert not (finished.root / INT8).exists()
    finished.set(export__int8=True)
    assert finished.repro() == ["export"]
    content = finished.read(INT8)
    assert len(content) < 0.5 * len(finished.read("models/classifier.onnx"))
    finished.set(export__int8=False)
    assert finished.repro() == []  # from the run cache: no script runs that could clean up
    assert not (finished.root / INT8).exists()
    assert b"export.int8 is false" in finished.read("models/int8/README.txt")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    finished.set(export__int8=True)
    assert finished.repro() == []
    assert finished.read(INT8) == content
    finished.stage("export")
    assert finished.dvc("status").stdout.strip() == "Data and pipelines are up to date."  # the same bytes again


def test_int8_is_static_by_channel_and_keeps_the_contract(finished: Project) -> None:
    finished.set(export__int8=True)
    finished.stage("export")
    path = finished.root / INT8
    model = onnx.load(path)
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dequantized = [node.input for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert any(scales[values].dtype == np.int8 and scales[scale].size > 1 for values, scale, _ in dequantized)
    assert not any("Dynamic" in node.op_type for node in model.graph.node)
    metrics = finished.json("metrics/export/details.json")["int8"]
    assert metrics["size_bytes"] == path.stat().st_size
    assert finished.json("metrics/export.json")["int8"] == {
        "accuracy": metrics["accuracy"],
        "size_mb": metrics["size_bytes"] / 1e6,
    }
    held = metadata(path)
    assert held["accuracy"] == metrics["accuracy"]
    assert held["quantized"] == "int8 weights by channel, uint8 activations"
    same = metadata(finished.root / "models/classifier.onnx")
    assert {**held, **same} == {**held, "accuracy": same["accuracy"]}
    rows = finished.table("metrics/predictions.csv")
    folder = finished.test_images()
    images = np.stack([np.asarray(Image.open(folder / name))[None] for name in rows["image"]])
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"images": images})
    assert (np.array(held["class_names"])[logits.argmax(1)] == rows["label"]).mean() == metrics["accuracy"]
    for word in (str(finished.root), *PLACES):
        assert word.encode() not in path.read_bytes(), word


def test_int8_drop_above_maximum_fails_and_writes_nothing(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.set(export__int8=True, compute__portable=False)  # or there is a warning, too
    # Mirrored: the small data set's classes are sides of the image, and easy enough for any 8 bits.
    monkeypatch.setattr(onnx_int8, "run", lambda session, images: onnx_validate.run(session, images[..., ::-1]))
    assert re.search(r"of accuracy.*more than export.int8_max_accuracy_drop 0\.01", refusal(finished))
