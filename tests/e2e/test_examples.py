"""The examples in other languages classify an image with the ONNX file alone, as ``predict`` does."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.project import REPOSITORY, Project
from tests.support.browser import cannot_run, find_program

EXAMPLES = REPOSITORY / "examples"

PICTURES = [f"test/{number:05d}.png" for number in range(5)]


@pytest.fixture
def model(finished: Project, tmp_path: Path) -> Path:
    """The exported file in a folder of its own, with pictures beside it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(finished.root / "models/classifier.onnx", folder)
    with zipfile.ZipFile(finished.root / "data/test_images.zip") as archive:
        archive.extractall(folder, PICTURES)
    return folder / "classifier.onnx"


@pytest.fixture
def expected(finished: Project, model: Path) -> list[tuple[str, float]]:
    """The class and its probability for each picture, from ``predict``."""
    pictures = [str(model.parent / name) for name in PICTURES]
    answers = json.loads(finished.run("python", "-m", "tools.predict", "--json", *pictures).stdout)
    return [(answer["class"], max(answer["probabilities"].values())) for answer in answers]


def answer(*command: str | Path) -> tuple[str, float]:
    """What an example printed: the class and its probability."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    name, _, probability = done.stdout.strip().rpartition(" ")
    return name, float(probability)


def check(answers: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in answers] == [name for name, _ in expected]
    assert [value for _, value in answers] == pytest.approx([value for _, value in expected], abs=2e-4)


def test_python_example_equals_predict(model: Path, expected: list[tuple[str, float]]) -> None:
    script = EXAMPLES / "classify.py"
    check([answer(sys.executable, "-I", script, model, model.parent / name) for name in PICTURES], expected)


@pytest.mark.browser
def test_javascript_example_equals_predict(model: Path, expected: list[tuple[str, float]]) -> None:
    node, npm = find_program(("node",), "nodejs"), find_program(("npm",), "npm")
    for name in ("package.json", "package-lock.json", "classify.mjs"):
        shutil.copy(EXAMPLES / name, model.parent)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--silent"]
    installed = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, check=False, timeout=300)
    if installed.returncode:
        cannot_run(f"npm cannot install what the example needs: {installed.stderr.strip()[:200]}")
    script = model.parent / "classify.mjs"
    check([answer(node, script, model, model.parent / name) for name in PICTURES], expected)


@pytest.mark.browser
def test_cpp_example_with_openvino_equals_predict(model: Path, expected: list[tuple[str, float]]) -> None:
    import openvino

    compiler, root = find_program(("g++",), "g++"), Path(openvino.__file__).parent
    libraries = root / "libs"
    (library,) = libraries.glob("libopenvino.so.*")
    program = model.parent / "classify"
    subprocess.run(
        [compiler, "-std=c++17", EXAMPLES / "classify.cpp", f"-I{root / 'include'}", library,
         f"-Wl,-rpath,{libraries}", "-o", program],
        check=True, timeout=300,
    )  # fmt: skip
    answers = []
    for name in PICTURES:
        picture = model.parent / Path(name).with_suffix(".pgm")
        with Image.open(model.parent / name) as image:
            image.save(picture)
        answers.append(answer(program, model, picture))
    check(answers, expected)
