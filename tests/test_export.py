"""export and predict: the file's contract, its equality with PyTorch, and classifying image files with it alone."""

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from scipy.special import softmax

from classifier.dataset_registry import DATASETS
from classifier.errors import StageError
from classifier.export import background, dataset_info, onnx_file, onnx_int8, onnx_validate
from classifier.model import zoo
from classifier.model.serialization import ModelConfig, Normalize
from tests.project import TEST_IMAGES, Project
from tests.test_train import MODEL_ARGUMENTS


def make_model_config(name: str, channels: int = 1, size: tuple[int, int] = (28, 28)) -> ModelConfig:
    names = [f"class {number}" for number in range(7)]
    return ModelConfig(name, MODEL_ARGUMENTS[name], names, channels, *size, [0.3] * channels, [0.4] * channels, {})


def as_after_training(model: torch.nn.Module) -> torch.nn.Module:
    """With running statistics that are not 0 and 1, or folding BatchNorm would have nothing to do."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def check_exported(model: torch.nn.Module, model_config: ModelConfig, path: Path) -> None:
    """The file has the contract's form and computes what the model computes, in batches of any size."""
    onnx_file.write(path, onnx_file.convert(model, model_config, 18))
    onnx_validate.check_contract(path, model_config, opset=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = (model_config.channels, model_config.height, model_config.width)
    for count in (1, 2, 7):
        for images in (
            torch.randint(0, 256, (count, *size), dtype=torch.uint8),
            torch.zeros(count, *size, dtype=torch.uint8),
            torch.full((count, *size), 255, dtype=torch.uint8),
        ):
            logits, probabilities = session.run(None, {"images": images.numpy()})
            with torch.inference_mode():
                expected = model(Normalize(model_config)(images))
            np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, expected.abs().max().item()))
            np.testing.assert_allclose(probabilities, (expected / model_config.temperature).softmax(1), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_model_exports_to_what_it_computes(tmp_path: Path, name: str, channels: int) -> None:
    torch.manual_seed(0)
    model_config = make_model_config(name, channels)
    model_config = dataclasses.replace(model_config, temperature=0.7)
    check_exported(as_after_training(model_config.build()), model_config, tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert not kinds & {"Mul", "Add", "Sub"}  # the first layer normalizes


def test_a_first_layer_that_pads_leaves_the_normalisation_to_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 7)
    )
    check_exported(model.eval(), make_model_config("cnn", channels=3), tmp_path / "model.onnx")


def test_int8_takes_pixels_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_config = make_model_config("cnn")
    model = as_after_training(model_config.build())
    images = torch.randint(0, 200, (64, 1, 28, 28), dtype=torch.uint8)  # no white: the range is not the calibration's
    onnx_file.write(tmp_path / "model.onnx", onnx_file.convert(model, model_config, 18))
    proto = onnx_int8.quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", images.numpy())
    kinds = [node.op_type for node in proto.graph.node]
    (first,) = (node for node in proto.graph.node if "images" in node.input)
    assert first.op_type == "DequantizeLinear"
    assert "Cast" not in kinds
    onnx_file.write(tmp_path / "int8.onnx", proto)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    white = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    for batch in (images, white):
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        with torch.inference_mode():
            expected = model(Normalize(model_config)(batch)).numpy()
        assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "multiplications"),
    # DenseNet's BatchNorm comes before its convolutions: 62 of its 121 cannot be folded. MaxViT is like it (11 left).
    [("resnet18", 1), ("mobilenet_v3_small", None), ("shufflenet_v2_x0_5", 1), ("densenet121", 63)],
)
def test_torchvision_classifiers_export_without_batch_norm(
    tmp_path: Path, name: str, multiplications: int | None
) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=7)
    where, first = next(item for item in model.named_modules() if isinstance(item[1], torch.nn.Conv2d))
    parent, _, attribute = where.rpartition(".")
    gray = torch.nn.Conv2d(1, first.out_channels, 3, padding=1, bias=first.bias is not None)
    setattr(model.get_submodule(parent), attribute, gray)
    model_config = ModelConfig(name, {}, [f"class {number}" for number in range(7)], 1, 32, 32, [0.3], [0.4], {})
    check_exported(as_after_training(model), model_config, tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    if multiplications:  # one is the normalization's; squeeze-and-excitation multiplies too
        assert operators.count("Mul") == multiplications


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
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def metadata(path: Path) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def test_the_metadata_say_how_to_use_it_and_what_it_was_made_from(finished: Project) -> None:
    held = metadata(finished.root / "models/classifier.onnx")
    evaluation = json.loads(finished.read("metrics/evaluate.json"))
    assert held == {
        "accuracy": evaluation["accuracy"],
        "architecture": "mlp",
        "background": "dark",
        "class_names": list(DATASETS["fashion-mnist"].class_names),
        "input": "images: (batch, 1, 28, 28) uint8, 0 to 255; grayscale",
        "outputs": "logits, probabilities: (batch, 10) float32, in the order of class_names",
        "temperature": evaluation["calibration"]["temperature"],
        "training_data": {
            "attribution": "Zalando SE, 2017",
            "homepage": "github.com/zalandoresearch/fashion-mnist",
            "images": {"test": 100, "train": 360, "val": 40},
            "license": "MIT",
            "name": "Fashion-MNIST",
        },
        "weights_sha256": hashlib.sha256(finished.read("models/classifier.safetensors")).hexdigest(),
    }


def test_the_probabilities_are_calibrated_with_the_models_temperature(finished: Project) -> None:
    temperature = json.loads(finished.read("metrics/evaluate.json"))["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.01  # or this would show nothing
    session = onnxruntime.InferenceSession(finished.root / "models/classifier.onnx")
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 28, 28), dtype=np.uint8)
    logits, probabilities = session.run(None, {"images": images})
    np.testing.assert_allclose(probabilities, softmax(logits / temperature, axis=1), atol=1e-6)


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
    differences = metrics["largest_difference_millionths"]
    assert sorted(differences) == ["logits_of_extremes", "logits_of_test_images", "probabilities_of_test_images"]
    assert all(0 <= value <= 100 for value in differences.values())
    assert differences["logits_of_test_images"] > 0
    assert metrics["bytes"] == (finished.root / "models/classifier.onnx").stat().st_size
    assert metrics["rows"] == TEST_IMAGES
    assert metrics["accuracy"] == json.loads(finished.read("metrics/evaluate.json"))["accuracy"]


def test_a_difference_over_the_tolerance_fails_and_writes_nothing(finished: Project) -> None:
    finished.set(export__tolerance=1e-12)
    done = finished.stage("export", status=1)
    assert "more than export.tolerance 1.00e-12" in done.stderr
    assert not (finished.root / "models/classifier.onnx").exists()
    assert not (finished.root / "metrics/export.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "self.model(images.float())",
            "-self.model(images.float())",
            "for 100 of 100 images, test/000",
        ),
        ("images.float()", "images.clamp(max=254).float()", "of 1 that are all 255"),
        ("logits / self.temperature", "logits * self.temperature", "the file's probabilities differ from the softmax"),
        ("return logits, calibrated", "return logits * float('nan'), calibrated", "differ"),
        ('{0: torch.export.Dim("batch")}', "None", "('images', 2, ['batch', 1, 28, 28]) (name, type, axes), but has"),
        ("input_names=[INPUT]", 'input_names=["pixels"]', "but has ('pixels', 2, ['batch', 1, 28, 28])"),
        ("opset_version=opset", "opset_version=opset + 1", "the exported file is not of export.opset 18"),
    ],
)
def test_a_wrong_conversion_fails_and_writes_nothing(finished: Project, old: str, new: str, says: str) -> None:
    finished.edit("classifier/export/onnx_file.py", old, new)
    done = finished.stage("export", status=1)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    for path in ("models/classifier.onnx", "models/int8", "metrics/export.json"):
        assert not (finished.root / path).exists()


def test_another_accuracy_than_evaluates_fails_and_writes_nothing(finished: Project) -> None:
    path = finished.root / "metrics/evaluate.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"accuracy": 0.5}))
    assert "but evaluate's (metrics/evaluate.json) is 0.5" in finished.stage("export", status=1).stderr
    assert not (finished.root / "models/classifier.onnx").exists()
    path.write_text(json.dumps({"loss": content["loss"]}))
    assert "metrics/evaluate.json: has no accuracy;" in finished.stage("export", status=1).stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no JSON", "no JSON file"),
        ("[]", "must hold texts by name"),
        ('{"name": "Mine", "license": 4}', "must hold texts by name"),
        ('{"name": "Mine"}', 'has no "license"; "unknown" is an answer'),
    ],
)
def test_an_origin_that_says_too_little_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "dataset_info.json"
    path.write_text(content)
    with pytest.raises(StageError, match=re.escape(says)):
        dataset_info.read(path)


def test_every_catalogued_data_set_has_a_name_and_a_license(tmp_path: Path) -> None:
    for entry in DATASETS.values():
        (tmp_path / "dataset_info.json").write_text(json.dumps(entry.info))
        assert dataset_info.read(tmp_path / "dataset_info.json") == entry.info


# --- 8 bits ---------------------------------------------------------------------------------------------------------

INT8 = "models/int8/classifier.int8.onnx"


def test_int8_is_an_option_that_leaves_nothing_behind(finished: Project) -> None:
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
    model, session = onnx.load(path), onnxruntime.InferenceSession(path)
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    by_channel = [
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and scales[node.input[1]].size > 1
    ]
    assert any(scales[node.input[0]].dtype == np.int8 for node in by_channel)
    assert not any("Dynamic" in node.op_type for node in model.graph.node)
    metrics = json.loads(finished.read("metrics/export.json"))["int8"]
    assert metrics["bytes"] == path.stat().st_size
    held = metadata(path)
    assert held["accuracy"] == metrics["accuracy"]
    assert held["quantized"] == "int8 weights by channel, uint8 activations"
    same = metadata(finished.root / "models/classifier.onnx")
    assert {key: held[key] for key in same if key != "accuracy"} == {
        key: value for key, value in same.items() if key != "accuracy"
    }
    rows = pd.read_csv(finished.root / "metrics/predictions.csv")
    with zipfile.ZipFile(finished.root / "data/images.zip") as archive:
        images = np.stack([np.asarray(Image.open(archive.open(name)))[None] for name in rows["image"]])
    (logits,) = session.run(["logits"], {"images": images})
    names = np.array(held["class_names"])
    assert (names[logits.argmax(1)] == rows["label"]).mean() == metrics["accuracy"]
    for word in (str(finished.root), "site-packages", ".py", "onnx.quantize"):
        assert word.encode() not in path.read_bytes(), word


def test_the_seed_draws_the_calibration_images(finished: Project) -> None:
    contents = []
    for seed in (0, 1):
        finished.set(export__int8=True, export__int8_images=5, export__int8_seed=seed)
        finished.stage("export")
        contents.append(finished.read(INT8))
    assert contents[0] != contents[1]


def test_8_bits_that_cost_too_much_fail_and_write_nothing(finished: Project) -> None:
    finished.set(export__int8=True)
    # Mirrored: the small data set's classes are sides of the image, and easy enough for any 8 bits.
    finished.edit("stages/export.py", "run(session, test.all_images()", "run(session, test.all_images().flip(-1)")
    done = finished.stage("export", status=1)
    assert "of accuracy" in done.stderr
    assert "more than export.int8_max_accuracy_drop 0.01" in done.stderr
    for path in ("models/classifier.onnx", "models/int8", "metrics/export.json"):
        assert not (finished.root / path).exists()


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
    temperature = json.loads(finished.read("metrics/evaluate.json"))["calibration"]["temperature"]
    calibrated = rows.filter(like="probability of").to_numpy().clip(1e-6) ** (
        1 / temperature
    )  # evaluate writes them raw
    np.testing.assert_allclose(got, calibrated / calibrated.sum(1, keepdims=True), atol=1e-4)
    table = finished.stage("predict", "--csv", str(pictures)).stdout
    frame = pd.read_csv(io.StringIO(table))
    assert frame.columns.tolist() == [column for column in rows.columns if column != "label"]
    assert frame["predicted"].tolist() == rows["predicted"].tolist()
    np.testing.assert_allclose(frame.filter(like="probability of"), got, atol=1e-9)


def test_predict_takes_any_size_and_mode(finished: Project, pictures: Path, tmp_path: Path) -> None:
    with Image.open(pictures / "00000.png") as image:
        large = image.resize((280, 280), Image.Resampling.NEAREST)
    variants = {
        "gray.png": large,
        "rgb.jpg": large.convert("RGB"),
        "alpha.png": large.convert("RGBA"),
        "palette.gif": large.convert("P"),
        "16bit.png": Image.fromarray(np.asarray(large).astype(np.uint16) * 257),
        "32bit.tiff": Image.fromarray(np.asarray(large).astype(np.int32) * 257),
        "float.tiff": Image.fromarray(np.asarray(large).astype(np.float32) / 255),
        "cmyk.jpg": large.convert("RGB").convert("CMYK"),
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
    good, cut = pictures / "00001.png", tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:300])
    command = f"python -m tools.predict {bad} /no/such.png {cut} {good} 2>&1"
    lines = finished.run("sh", "-c", command, status=1).stdout.splitlines()
    assert lines[0].startswith(str(good))
    assert lines[1:3] == [
        f"predict: error: {bad}: no readable image: cannot identify image file",
        "predict: error: /no/such.png: no such file",
    ]
    assert lines[3].startswith(f"predict: error: {cut}: no readable image: ")
    assert len(lines) == 4
    (finished.root / "models/classifier.onnx").unlink()
    done = finished.stage("predict", str(pictures / "00001.png"), status=1)
    assert "classifier.onnx is missing; `dvc repro export` makes it" in done.stderr


def test_predict_takes_folders_patterns_and_standard_input(finished: Project, pictures: Path) -> None:
    (pictures / "more").mkdir()
    (pictures / "00003.png").rename(pictures / "more" / "x.png")
    (pictures / ".hidden").write_text("no picture")
    answers = json.loads(finished.stage("predict", "--json", str(pictures)).stdout)
    names = [str(Path(answer["image"]).relative_to(pictures)) for answer in answers]
    assert names == [*(f"{number:05d}.png" for number in range(TEST_IMAGES) if number != 3), "more/x.png"]
    by_name = {answer["image"]: answer["class"] for answer in answers}
    answers = json.loads(
        finished.stage("predict", "--json", str(pictures / "**" / "[x]*.png"), str(pictures / "0000[0-2].png")).stdout
    )
    assert [Path(answer["image"]).name for answer in answers] == ["x.png", "00000.png", "00001.png", "00002.png"]
    piped = finished.run("sh", "-c", f"python -m tools.predict - < {pictures / '00005.png'}").stdout
    assert piped.split("  ")[:2] == ["-", by_name[str(pictures / "00005.png")]]
    (pictures / "empty").mkdir()
    done = finished.stage("predict", str(pictures / "empty"), str(pictures / "*.gif"), status=1)
    assert done.stderr.splitlines() == [
        f"predict: error: {pictures / 'empty'}: no file in this folder",
        f"predict: error: {pictures / '*.gif'}: no such file",
    ]


def test_predict_ends_quietly_when_nobody_reads_on(finished: Project, pictures: Path) -> None:
    done = finished.run("sh", "-c", f"python -m tools.predict --json {f'{pictures} ' * 4} | head -n 1")  # 4 x 35 kB
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_a_picture_with_the_other_background_gets_a_note(finished: Project, pictures: Path, tmp_path: Path) -> None:
    assert finished.stage("predict", str(pictures)).stderr == ""  # no false alarm
    for name in ("00000.png", "00001.png"):
        with Image.open(pictures / name) as image:
            ImageOps.invert(image).resize((300, 200)).save(tmp_path / name)
    done = finished.stage("predict", str(tmp_path / "00000.png"), str(tmp_path / "00001.png"))
    first = f"predict: note: {tmp_path / '00000.png'}"
    assert done.stderr == f"{first} and 1 more: light background, but the model knows dark ones; try --invert\n"
    assert finished.stage("predict", "--invert", str(tmp_path / "00000.png")).stderr == ""
    done = finished.stage("predict", "--invert", str(pictures / "00000.png"))
    assert "light background once inverted, but the model knows dark ones; leave out --invert" in done.stderr


def test_backgrounds_of_a_data_set() -> None:
    dark = np.zeros((100, 3, 6, 8), np.uint8)
    dark[..., 1:-1, 1:-1] = 255
    assert background.kind(dark) == "dark"
    assert background.kind(255 - dark) == "light"
    assert background.kind(np.concatenate([dark, 255 - dark])) == "mixed"


def test_predict_imports_no_torch(finished: Project, pictures: Path) -> None:
    words = [str(pictures / "00000.png"), "--model", str(finished.root / "models/classifier.onnx")]
    code = (
        "import sys; from tools import predict\n"
        f"predict.main({words!r})\n"
        "print(sorted({'torch', 'pandas', 'onnx', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
