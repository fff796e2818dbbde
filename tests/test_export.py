"""export and predict: the file's contract, its equality with PyTorch, and classifying image files with it alone."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from stages.lib import models, onnx_file
from stages.lib.model_file import ModelCard, Normalise
from tests.project import TEST_IMAGES, Project
from tests.test_train import MODEL_ARGUMENTS


def make_card(name: str, channels: int = 1, size: tuple[int, int] = (28, 28)) -> ModelCard:
    names = [f"class {number}" for number in range(7)]
    return ModelCard(name, MODEL_ARGUMENTS[name], names, channels, *size, [0.3] * channels, [0.4] * channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_every_model_exports_to_what_it_computes(tmp_path: Path, name: str, channels: int) -> None:
    torch.manual_seed(0)
    card = make_card(name, channels)
    model = card.build()
    for module in model.modules():  # running statistics as after training, or folding would have nothing to do
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    model.eval()
    onnx_file.write(tmp_path / "model.onnx", model, card, opset=18)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 7, 257):
        for images in (
            torch.randint(0, 256, (count, channels, 28, 28), dtype=torch.uint8),
            torch.zeros(count, channels, 28, 28, dtype=torch.uint8),
            torch.full((count, channels, 28, 28), 255, dtype=torch.uint8),
        ):
            logits, probabilities = session.run(None, {"images": images.numpy()})
            with torch.inference_mode():
                expected = model(Normalise(card)(images))
            np.testing.assert_allclose(logits, expected, atol=1e-4)
            np.testing.assert_allclose(probabilities, expected.softmax(1), atol=1e-5)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "BatchNormalization" not in operators


def test_the_contract(finished: Project) -> None:
    model = onnx.load(finished.root / "models/classifier.onnx")
    onnx.checker.check_model(model, full_check=True)

    def describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[object]]:
        shape = value.type.tensor_type.shape.dim
        return value.name, value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in shape]

    assert [describe(value) for value in model.graph.input] == [
        ("images", onnx.TensorProto.UINT8, ["batch", 1, 28, 28])
    ]
    assert [describe(value) for value in model.graph.output] == [
        ("logits", onnx.TensorProto.FLOAT, ["batch", 10]),
        ("probabilities", onnx.TensorProto.FLOAT, ["batch", 10]),
    ]
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", 18)]
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["class_names"][9] == "Ankle boot"
    assert "uint8" in metadata["input"]


def test_the_file_holds_no_path_and_comes_out_the_same_anywhere(finished: Project, tmp_path: Path) -> None:
    content = finished.read("models/classifier.onnx")
    for word in (
        str(finished.root),
        str(finished.root.parents[1]),
        "site-packages",
        ".py",
        "stages/",
        str(Path.home()),
    ):
        assert word.encode() not in content, word
    other = finished.copy(tmp_path / "x" / "elsewhere")
    other.stage("export")
    assert other.read("models/classifier.onnx") == content


def test_the_metrics_say_how_close_it_is(finished: Project) -> None:
    metrics = json.loads(finished.read("metrics/export.json"))
    assert metrics["disagreeing_predictions"] == 0
    assert 0 < metrics["largest_difference_millionths"] <= 100
    assert metrics["bytes"] == (finished.root / "models/classifier.onnx").stat().st_size
    assert metrics["rows"] == TEST_IMAGES
    assert metrics["accuracy"] == json.loads(finished.read("metrics/evaluate.json"))["accuracy"]


def test_a_difference_over_the_tolerance_fails_and_writes_nothing(finished: Project) -> None:
    finished.set(export__tolerance=1e-12)
    done = finished.stage("export", status=1)
    assert "more than export.tolerance 1.00e-12" in done.stderr
    assert not (finished.root / "models/classifier.onnx").exists()
    assert not (finished.root / "metrics/export.json").exists()


def test_a_wrong_conversion_fails_and_writes_nothing(finished: Project) -> None:
    finished.edit(
        "stages/lib/onnx_file.py", "self.model(self.normalise(images))", "-self.model(self.normalise(images))"
    )
    done = finished.stage("export", status=1)
    assert f"predict different classes for {TEST_IMAGES} of {TEST_IMAGES} test images" in done.stderr
    assert not (finished.root / "models/classifier.onnx").exists()


# --- predict --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(finished: Project, tmp_path: Path) -> Path:
    with zipfile.ZipFile(finished.root / "data/images.zip") as archive:
        archive.extractall(tmp_path / "pictures", [name for name in archive.namelist() if name.startswith("test/")])
    return tmp_path / "pictures" / "test"


def test_predict_equals_evaluate_image_by_image(finished: Project, pictures: Path) -> None:
    answers = json.loads(finished.stage("predict", "--json", str(pictures)).stdout)
    rows = pd.read_csv(finished.root / "metrics/predictions.csv")
    assert [f"test/{Path(answer['image']).name}" for answer in answers] == rows["image"].tolist()
    assert [answer["class"] for answer in answers] == rows["predicted"].tolist()
    got = [[*answer["probabilities"].values()] for answer in answers]
    np.testing.assert_allclose(got, rows.filter(like="probability of"), atol=1e-5)


def test_predict_takes_any_size_and_mode(finished: Project, pictures: Path, tmp_path: Path) -> None:
    with Image.open(pictures / "00000.png") as image:
        large = image.resize((280, 280), Image.Resampling.NEAREST)
    variants = {
        "grey.png": large,
        "rgb.jpg": large.convert("RGB"),
        "alpha.png": large.convert("RGBA"),
        "palette.gif": large.convert("P"),
        "16bit.png": Image.fromarray(np.asarray(large).astype(np.uint16) * 257),
    }
    for name, variant in variants.items():
        variant.save(tmp_path / name)
    paths = [str(tmp_path / name) for name in variants]
    answers = json.loads(finished.stage("predict", "--json", str(pictures / "00000.png"), *paths).stdout)
    for answer in answers[1:]:
        assert answer["class"] == answers[0]["class"], answer["image"]
    inverted = tmp_path / "inverted.png"
    Image.fromarray(255 - np.asarray(large)).save(inverted)
    (answer,) = json.loads(finished.stage("predict", "--json", "--invert", str(inverted)).stdout)
    assert answer["class"] == answers[0]["class"]


def test_a_bad_file_gets_one_line_after_the_good_ones_were_answered(
    finished: Project, pictures: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = finished.stage("predict", str(bad), "/no/such.png", str(pictures / "00001.png"), status=1)
    assert done.stdout.startswith(str(pictures / "00001.png"))
    assert done.stderr.splitlines() == [
        f"predict: error: {bad}: no readable image: cannot identify image file",
        "predict: error: /no/such.png: no such file",
    ]
    (finished.root / "models/classifier.onnx").unlink()
    done = finished.stage("predict", str(pictures / "00001.png"), status=1)
    assert "classifier.onnx is missing; `dvc repro export` makes it" in done.stderr


def test_predict_imports_no_torch(finished: Project, pictures: Path) -> None:
    words = [str(pictures / "00000.png"), "--model", str(finished.root / "models/classifier.onnx")]
    code = (
        "import sys; from stages import predict\n"
        f"predict.main({words!r})\n"
        "print(sorted({'torch', 'pandas', 'onnx', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
