"""The examples in other languages classify an image with the ONNX file alone, as ``predict`` does."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.project import REPOSITORY, Project, one_line
from tests.support import labeled, own
from tests.support.browser import cannot_run, find_program
from tests.support.linear import write_linear_model
from tests.support.processes import execute
from tools.predict import Classifier

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
Answers = list[tuple[str, float]]  # the class and its probability, for each picture


@pytest.fixture
def model(finished: Project, tmp_path: Path) -> Path:
    """The exported file in a folder of its own, with pictures beside it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(finished.root / "models/classifier.onnx", folder)
    unpacked = finished.test_images()
    for name in PICTURES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(unpacked / name, folder / name)
    return folder / "classifier.onnx"


@pytest.fixture
def expected(finished: Project, model: Path) -> Answers:
    return predicted(finished, model, [model.parent / name for name in PICTURES])


def predicted(finished: Project, model: Path, paths: list[Path]) -> Answers:
    words = ("--json", "--model", str(model), *map(str, paths))
    found = json.loads(finished.tool("predict", *words).stdout)
    return [(answer["class"], max(answer["probabilities"].values())) for answer in found]


def answers(*command: str | Path) -> Answers:
    """What an example printed for each picture."""
    parts = [line.rpartition(" ") for line in execute(*command).stdout.splitlines()]
    return [(name, float(probability)) for name, _, probability in parts]


def python_answers(model: Path, paths: list[Path]) -> Answers:
    return answers(sys.executable, "-I", "-c", PYTHON, EXAMPLES / "classify.py", model, *paths)


def check(found: Answers, expected: Answers) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=2e-4)


def other_model(path: Path, fit: str) -> Path:
    """A model of other images, with a white background."""
    write_linear_model(path, ['a "b"', "straße", "犬"], (3, 28, 24), np.random.default_rng(0), fit, "white")
    return path


@pytest.fixture
def zoo(tmp_path: Path) -> list[Path]:
    """One picture in every form."""
    pictures = own.zoo((200, 90, 40), 0)
    folder = labeled.write(tmp_path / "zoo", pictures)
    return [folder / name for name in pictures]


def test_python_example_equals_predict(model: Path, expected: Answers) -> None:
    check(python_answers(model, [model.parent / name for name in PICTURES]), expected)
    alone = answers(sys.executable, "-I", EXAMPLES / "classify.py", model, model.parent / PICTURES[0])
    check(alone, expected[:1])


@pytest.mark.browser
def test_javascript_example_equals_predict(
    finished: Project, model: Path, expected: Answers, zoo: list[Path], tmp_path: Path
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

    # Of every kind of file; sharp's filters are not Pillow's, above all where they enlarge
    readable = [path for path in zoo if path.suffix not in (".bmp", ".tif")]  # no BMP, and CMYK by a color profile
    for fit in ("pad", "crop"):
        other = other_model(tmp_path / f"{fit}.onnx", fit)
        found = dict(zip(readable, answers(node, many, script, other, *readable), strict=True))
        for path, (_, probability) in zip(readable, predicted(finished, other, readable), strict=True):
            assert found[path][1] == pytest.approx(probability, abs=0.04), (fit, path.name)
    (bitmap,) = [path for path in zoo if path.suffix == ".bmp"]
    one_line(execute(node, script, other, bitmap, status=1))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the lock has OpenVINO for x86-64 only")
@pytest.mark.browser
def test_cpp_example_with_openvino_equals_predict(model: Path, expected: Answers) -> None:
    import openvino

    compiler, root = find_program(("g++",), "g++"), Path(openvino.__file__).parent
    libraries = root / "libs"
    (library,) = libraries.glob("libopenvino.so.*")
    program = model.parent / "classify"
    places = (f"-I{root / 'include'}", library, f"-Wl,-rpath,{libraries}", "-o", program)
    execute(compiler, "-std=c++17", EXAMPLES / "classify.cpp", *places)
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


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_python_example_decodes_as_predict_does(finished: Project, zoo: list[Path], tmp_path: Path, fit: str) -> None:
    model = other_model(tmp_path / "classifier.onnx", fit)
    check(python_answers(model, zoo), predicted(finished, model, zoo))


def test_python_example_rounds_and_refuses_as_predict_does(tmp_path: Path) -> None:
    model, pictures = tmp_path / "m.onnx", (tmp_path / "wide.png", tmp_path / "sixteen.pgm", tmp_path / "float.tif")
    write_linear_model(model, ["a", "b", "c"], (3, 28, 24), np.random.default_rng(0), "pad")
    pictures[0].write_bytes(own.encode(own.picture((200, 90, 40), 0, (176, 55)), "PNG"))  # 7.5 rows, rounded to 8
    pictures[1].write_bytes(b"P5\n20 20\n65535\n" + bytes([0, 200, 150, 0] * 200))
    pictures[2].write_bytes(own.encode(Image.fromarray(np.full((20, 20), 0.5, np.float32)), "TIFF"))
    classifier = Classifier(model)
    pixels = np.stack([classifier.preprocessing(path.read_bytes(), "") for path in pictures[:2]])
    expected = [(each["class"], max(each["probabilities"].values())) for each in classifier.answers(["", ""], pixels)]
    check(python_answers(model, [*pictures[:2]]), expected)
    done = execute(sys.executable, "-I", EXAMPLES / "classify.py", model, pictures[2], status=1)
    assert done.stderr == f"{pictures[2]}: has 32 bits a pixel; save it with 8 or 16\n"
