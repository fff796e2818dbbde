"""The examples in other languages classify an image with the ONNX file alone, as ``predict`` does."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.project import REPOSITORY, Project
from tests.support import own
from tests.support.browser import cannot_run, find_program
from tests.support.linear import write_linear_model

import numpy as np
import pytest
from PIL import Image

EXAMPLES = REPOSITORY / "examples"

# Each runs an example once for every picture, in one process: most of a process's time goes into loading the libraries.
PYTHON = """
import runpy, sys
script, model, *pictures = sys.argv[1:]
for picture in pictures:
    sys.argv[1:] = model, picture
    runpy.run_path(script, run_name="__main__")
"""
JAVASCRIPT = """
const [script, model, ...pictures] = process.argv.slice(2);
for (const picture of pictures) {
  process.argv.splice(2, Infinity, model, picture);
  await import(`file://${script}?${encodeURIComponent(picture)}`);  // another address is another module
}
"""

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
    found = json.loads(finished.tool("predict", "--json", *pictures).stdout)
    return [(answer["class"], max(answer["probabilities"].values())) for answer in found]


def answers(*command: str | Path) -> list[tuple[str, float]]:
    """What an example printed for each picture: the class and its probability."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    parts = [line.rpartition(" ") for line in done.stdout.splitlines()]
    return [(name, float(probability)) for name, _, probability in parts]


def python_answers(model: Path, paths: list[Path]) -> list[tuple[str, float]]:
    return answers(sys.executable, "-I", "-c", PYTHON, EXAMPLES / "classify.py", model, *paths)


def check(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=2e-4)


def test_python_example_equals_predict(model: Path, expected: list[tuple[str, float]]) -> None:
    check(python_answers(model, [model.parent / name for name in PICTURES]), expected)
    alone = answers(sys.executable, "-I", EXAMPLES / "classify.py", model, model.parent / PICTURES[0])
    check(alone, expected[:1])


@pytest.mark.browser
def test_javascript_example_equals_predict(
    finished: Project, model: Path, expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    node, npm = find_program(("node",), "nodejs"), find_program(("npm",), "npm")
    for name in ("package.json", "package-lock.json", "classify.mjs"):
        shutil.copy(EXAMPLES / name, model.parent)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--silent"]
    installed = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, check=False, timeout=300)
    if installed.returncode:
        cannot_run(f"npm cannot install what the example needs: {installed.stderr.strip()[:200]}")
    many, script = model.parent / "many.mjs", model.parent / "classify.mjs"
    many.write_text(JAVASCRIPT)
    check(answers(node, many, script, model, *(model.parent / name for name in PICTURES)), expected)
    check(answers(node, script, model, model.parent / PICTURES[0]), expected[:1])

    # Of every kind of file; sharp's filter is not Pillow's to the last level, and it keeps no 16 bits
    other = tmp_path / "other.onnx"
    write_linear_model(other, ["a", "b", "c"], (3, 28, 24), np.random.default_rng(0), "pad", "white")
    paths = []
    for name, content in own.zoo((200, 90, 40), 0).items():
        if Path(name).suffix not in (".bmp", ".tif"):  # sharp reads no BMP, and CMYK by a color profile
            paths.append(tmp_path / name)
            paths[-1].write_bytes(content)
    found = answers(node, many, script, other, *paths)
    for path, (_, given), (_, probability) in zip(paths, found, predicted(finished, other, paths), strict=True):
        assert given == pytest.approx(probability, abs=0.02), path.name


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
    found = []
    for name in PICTURES:
        picture = model.parent / Path(name).with_suffix(".pgm")
        with Image.open(model.parent / name) as image:
            image.save(picture)
        found += answers(program, model, picture)
    check(found, expected)
    for number, odd in enumerate(('a "quoted" name', "Straße", "back\\slash", "犬 😀")):
        named = model.parent / f"{number}.onnx"
        write_linear_model(named, [odd, odd], (1, 28, 28), np.random.default_rng(0))
        assert answers(program, named, model.parent / Path(PICTURES[0]).with_suffix(".pgm"))[0][0] == odd


# --- files of every kind ------------------------------------------------------------------------------------------


@pytest.fixture(params=["pad", "crop", "stretch"])
def zoo(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A model of other images, with a white background, and one picture in every form."""
    model = tmp_path / "classifier.onnx"
    write_linear_model(model, ['a "b"', "straße", "犬"], (3, 28, 24), np.random.default_rng(0), request.param, "white")
    paths = []
    for name, content in own.zoo((200, 90, 40), 0).items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    return model, paths


def predicted(finished: Project, model: Path, paths: list[Path]) -> list[tuple[str, float]]:
    words = ("--json", "--model", str(model), *map(str, paths))
    found = json.loads(finished.tool("predict", *words).stdout)
    return [(answer["class"], max(answer["probabilities"].values())) for answer in found]


def test_python_example_decodes_as_predict_does(finished: Project, zoo: tuple[Path, list[Path]]) -> None:
    model, paths = zoo
    check(python_answers(model, paths), predicted(finished, model, paths))
