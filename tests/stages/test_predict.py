"""predict: classifying image files with the exported model alone."""

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from tests.project import TEST_IMAGES, Project
from tests.support import labeled

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps


@pytest.fixture
def pictures(finished: Project, tmp_path: Path) -> Path:
    shutil.copytree(finished.test_images() / "test", tmp_path / "pictures", ignore=shutil.ignore_patterns("*.cls"))
    return tmp_path / "pictures"


def predict(project: Project, *words: object) -> Any:
    return json.loads(project.tool("predict", "--json", *map(str, words)).stdout)


def test_predict_equals_evaluate(finished: Project, pictures: Path) -> None:
    answers = predict(finished, pictures)
    rows = finished.table("metrics/predictions.csv")
    assert [f"test/{Path(answer['image']).name}" for answer in answers] == rows["image"].tolist()
    assert [answer["class"] for answer in answers] == rows["predicted"].tolist()
    got = [[*answer["probabilities"].values()] for answer in answers]
    np.testing.assert_allclose(got, rows.filter(like="probability of"), atol=1e-5)
    table = finished.tool("predict", "--csv", str(pictures)).stdout
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
        "cmyk.jpg": large.convert("RGB").convert("CMYK"),
    }
    for name, variant in variants.items():
        variant.save(tmp_path / name)
    ImageOps.invert(large).save(tmp_path / "inverted.png")
    first, *others = predict(finished, pictures / "00000.png", *(tmp_path / name for name in variants))
    for answer in (*others, *predict(finished, "--invert", tmp_path / "inverted.png")):
        assert answer["class"] == first["class"], answer["image"]


def test_predict_reports_bad_files_after_the_answers(finished: Project, pictures: Path, tmp_path: Path) -> None:
    good, bad, cut = pictures / "00001.png", tmp_path / "bad.png", tmp_path / "cut.png"
    bad.write_bytes(b"no picture")
    cut.write_bytes(good.read_bytes()[:300])
    command = f"python -m tools.predict {bad} /no/such.png {cut} {good} 2>&1"
    lines = finished.run("sh", "-c", command, status=1).stdout.splitlines()
    assert lines[0].startswith(str(good))
    digest = hashlib.sha256(finished.read("models/classifier.onnx")).hexdigest()
    assert lines[1] == f"classifier.onnx: sha256 {digest[:16]}"
    assert lines[2:4] == [
        f"predict: error: {bad}: not a readable image: cannot identify image file",
        "predict: error: /no/such.png: no such file",
    ]
    assert lines[4].startswith(f"predict: error: {cut}: not a readable image: ")
    assert len(lines) == 5
    (finished.root / "models/classifier.onnx").unlink()
    done = finished.tool("predict", str(good), status=1)
    assert "classifier.onnx is missing; `dvc repro export` makes it" in done.stderr


def test_bombs_are_refused_before_they_are_unpacked(finished: Project, pictures: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    def png(width: int, height: int, *between: bytes) -> bytes:
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
        parts = chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(bytes(10_000_000))), chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    bombs = {"wide": png(20_000, 14_000), "huge": png(100_000, 100_000), "text": png(28, 28, text)}
    for name, content in bombs.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    labeled.as_zip(tmp_path / "zip.png", {"0.png": bytes(100_000_000)})
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))  # noqa: E731
    paths = [str(tmp_path / f"{name}.png") for name in (*bombs, "zip")]
    command = ("python", "-m", "tools.predict", *paths, str(pictures / "00001.png"))
    done = finished.run(*command, status=1, preexec_fn=limit)
    assert done.stdout.startswith(str(pictures / "00001.png"))
    errors = done.stderr.splitlines()
    assert [line.partition(": not a readable image: ")[0] for line in errors] == [f"predict: error: {p}" for p in paths]
    assert "20,000 x 14,000 pixels are too many" in errors[0]
    assert "100,000 x 100,000 pixels are too many" in errors[1]


def test_predict_takes_folders_patterns_and_stdin(finished: Project, pictures: Path) -> None:
    (pictures / "more").mkdir()
    (pictures / "00003.png").rename(pictures / "more" / "x.png")
    (pictures / ".hidden").write_text("no picture")
    answers = predict(finished, pictures)
    names = [str(Path(answer["image"]).relative_to(pictures)) for answer in answers]
    assert names == [*(f"{number:05d}.png" for number in range(TEST_IMAGES) if number != 3), "more/x.png"]
    by_name = {answer["image"]: answer["class"] for answer in answers}
    answers = predict(finished, pictures / "**" / "[x]*.png", pictures / "0000[0-2].png")
    assert [Path(answer["image"]).name for answer in answers] == ["x.png", "00000.png", "00001.png", "00002.png"]
    piped = finished.run("sh", "-c", f"python -m tools.predict - < {pictures / '00005.png'}").stdout
    assert piped.split("  ")[:2] == ["-", by_name[str(pictures / "00005.png")]]
    (pictures / "empty").mkdir()
    done = finished.tool("predict", str(pictures / "empty"), str(pictures / "*.gif"), status=1)
    assert done.stderr.splitlines() == [
        f"predict: error: {pictures / 'empty'}: no file in this folder",
        f"predict: error: {pictures / '*.gif'}: no such file",
    ]


def test_predict_ends_quietly_on_a_closed_pipe(finished: Project, pictures: Path) -> None:
    done = finished.run("sh", "-c", f"python -m tools.predict --json {f'{pictures} ' * 4} | head -n 1")  # 4 x 35 kB
    assert (done.stdout, done.stderr) == ("[\n", "")
    done = finished.run("sh", "-c", f"python -m tools.predict {pictures} | head -1; true")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_predict_warns_of_the_other_background(finished: Project, pictures: Path, tmp_path: Path) -> None:
    assert finished.tool("predict", str(pictures)).stderr == ""  # no false alarm
    for name in ("00000.png", "00001.png"):
        with Image.open(pictures / name) as image:
            ImageOps.invert(image).resize((300, 200)).save(tmp_path / name)
    done = finished.tool("predict", str(tmp_path / "00000.png"), str(tmp_path / "00001.png"))
    first = f"predict: warning: {tmp_path / '00000.png'}"
    assert done.stderr == f"{first} and 1 more: light background, but the model knows dark ones; try --invert\n"
    assert finished.tool("predict", "--invert", str(tmp_path / "00000.png")).stderr == ""
    done = finished.tool("predict", "--invert", str(pictures / "00000.png"))
    assert "light background once inverted, but the model knows dark ones; leave out --invert" in done.stderr


def test_predict_imports_no_torch(finished: Project, pictures: Path) -> None:
    words = [str(pictures / "00000.png"), "--model", str(finished.root / "models/classifier.onnx")]
    code = (
        "import sys; from tools import predict\n"
        f"predict.main({words!r})\n"
        "print(sorted({'torch', 'pandas', 'onnx', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_one_bad_argument_loses_no_answer(finished: Project, pictures: Path, tmp_path: Path) -> None:
    """Names that are no text or too long, a link that leads back, a pipe: each is classified, or named in one line."""
    content, name = (pictures / "00000.png").read_bytes(), os.fsdecode(b"caf\xe9 \n\x1b[31m.png")
    folder = labeled.write(tmp_path / "odd", {name: content, "plain.png": content})
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere.png")
    command = (
        f"cat {pictures}/00001.png | python -m tools.predict {folder} {'x' * 300} '{folder}/**/plain.png' /dev/stdin"
    )
    done = finished.run("sh", "-c", command, status=1)
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == [
        f"{folder}/caf\\xe9 \\n\\x1b[31m.png", f"{folder}/plain.png", f"{folder}/plain.png", "/dev/stdin"
    ]  # fmt: skip
    assert sorted(done.stderr.splitlines()) == [
        f"predict: error: {folder}/gone.png: not a readable image: No such file or directory",
        f"predict: error: {'x' * 300}: no such file",
    ]


def test_folder_with_an_umlaut_in_a_locale_without_is_read(finished: Project, pictures: Path) -> None:
    there = finished.copy(finished.root.parent / "Räume")
    there.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = there.run("python", "-m", "tools.predict", str(pictures))
    assert done.stdout.count("\n") == TEST_IMAGES + 1
    assert done.stderr == ""
