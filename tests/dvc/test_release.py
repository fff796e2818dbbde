"""What is handed on: results through a remote, the model card, the manifest, and what another project fetches."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project

import pytest
import yaml
from cheroot import wsgi
from PIL import Image
from wsgidav.wsgidav_app import WsgiDAVApp


def test_every_number_of_the_card_is_that_of_the_metrics(finished: Project) -> None:
    card = finished.read("models/README.md").decode()
    _, front, body = card.split("---\n", 2)
    about = yaml.safe_load(front)
    details = finished.json("metrics/evaluate/details.json")
    figures = {each["type"]: each["value"] for each in about["model-index"][0]["results"][0]["metrics"]}
    assert figures == {"accuracy": details["accuracy"], "f1": details["f1"]}
    assert (about["license"], about["library_name"]) == ("mit", "onnx")
    interval = details["accuracy_interval"]
    assert f"| accuracy | {details['accuracy']} ({interval['low']} to {interval['high']}) |" in body
    for key in ("balanced_accuracy", "majority_accuracy", "brier_score", "loss"):
        assert f" {details[key]} |" in body, key
    assert f"is {details['ece']}: the" in body
    assert f"Without it, it is {details['ece_uncalibrated']}." in body
    counts = finished.json("metrics/annotate.json")["num_images"]
    assert f"temperature {details['temperature']}, which was fitted on the {counts['val']} images" in body
    assert f"{details['num_parameters']:,} parameters" in body
    classes = finished.table("metrics/evaluate/classes.csv")
    for row in classes.to_dict("records"):
        line = next(line for line in body.splitlines() if line.startswith(f"| {row['class']} |"))
        numbers = [float(text) for text in re.findall(r"(?<![\w-])[0-9]+(?:\.[0-9]+)?", line.split("|", 2)[2])]
        wanted = ("recall", "recall_low", "recall_high", "precision", "f1", "support")
        assert numbers == [row[key] for key in wanted]
    assert ", ".join(f"{split} {count:,}" for split, count in counts.items()) in body
    assert "nan" not in body.lower().split()


@pytest.mark.experiments
def test_release_is_checked_and_fetched(finished: Project, tmp_path: Path) -> None:
    done = finished.tool("release", "build", "v1.2.3", "--tag", "--without-demo")
    folder = finished.root / "scratch/release/v1.2.3"
    assert "scratch/release/v1.2.3: " in done.stdout
    assert "all " in finished.tool("release", "check", str(folder)).stdout
    picture = folder / "picture.png"
    Image.new("L", (28, 28)).save(picture)
    answer = subprocess.run(
        [sys.executable, folder / "examples/classify.py", folder / "classifier.onnx", picture],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert re.fullmatch(r".+ [01]\.[0-9]{4}\n", answer)
    picture.rename(folder / "extra.png")
    (folder / "README.md").write_text("another card")
    (folder / "classifier.onnx").unlink()
    told = finished.tool("release", "check", str(folder), status=1).stdout
    assert told.splitlines() == ["README.md: changed", "classifier.onnx: missing", "extra.png: not in the manifest"]
    assert "classifier-onnx@v1.2.3" in finished.run("git", "tag", "--list").stdout
    for name, words in (("named.onnx", ["--rev", "v1.2.3"]), ("newest.onnx", [])):
        finished.dvc("artifacts", "get", str(finished.root), "classifier-onnx", "--out", name, *words, cwd=tmp_path)
        assert (tmp_path / name).read_bytes() == finished.read("models/classifier.onnx")


def test_unfinished_state_is_no_release(finished: Project) -> None:
    finished.set(train__seed=7)
    errors = finished.tool("release", "build", "v1.0.0", status=1).stderr
    assert errors == "release: error: not committed: params.yaml; a release is a commit\n"
    finished.commit()
    assert "run `make repro` and commit" in finished.tool("release", "build", "v1.0.0", status=1).stderr


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[str]:
    """A real WebDAV server on loopback."""
    (tmp_path / "remote").mkdir()
    anybody = {"simple_dc": {"user_mapping": {"*": True}}}
    application = WsgiDAVApp({"provider_mapping": {"/": str(tmp_path / "remote")}, **anybody})
    server = wsgi.Server(("127.0.0.1", 0), application)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield f"webdav://127.0.0.1:{server.bind_addr[1]}/"
    server.stop()
    thread.join()


@pytest.mark.experiments
@pytest.mark.parametrize("way", ["pull", "allow missing"])
def test_second_clone_gets_results_without_computing(finished: Project, webdav: str, tmp_path: Path, way: str) -> None:
    finished.dvc("remote", "add", "--default", "shared", webdav)
    finished.commit("a remote")
    finished.dvc("push")
    finished.run("git", "clone", "--quiet", str(finished.root), str(tmp_path / "elsewhere"))
    other = Project(tmp_path / "elsewhere", finished.raw)
    if way == "pull":
        other.dvc("pull")
        assert other.repro() == []
        for path in ("models/classifier.onnx", "data/images/shard-0.tar", "metrics/predictions.csv"):
            assert other.read(path) == finished.read(path)
        assert other.run("git", "status", "--porcelain").stdout == ""
    else:
        assert other.repro("--pull", "--allow-missing") == []
        other.set(export__opset=19)
        assert other.repro("--pull", "--allow-missing") == ["export"]  # fetches the model and the images that it needs
