"""What is handed on: the model card, the manifest, and what another project fetches."""

import re
import subprocess
import sys

from tests.project import Project

import pytest
import yaml


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
def test_release_is_checked_and_fetched(finished: Project) -> None:
    done = finished.tool("release", "build", "v1.2.3", "--tag", "--without-demo")
    folder = finished.root / "scratch/release/v1.2.3"
    assert "scratch/release/v1.2.3: " in done.stdout
    assert "all " in finished.tool("release", "check", str(folder)).stdout
    picture = folder / "picture.png"
    from PIL import Image

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
    other = finished.root.parent / "other"
    other.mkdir()
    finished.dvc("artifacts", "get", str(finished.root), "classifier-onnx", "--rev", "v1.2.3", cwd=other)
    assert (other / "classifier.onnx").read_bytes() == finished.read("models/classifier.onnx")


def test_unfinished_state_is_no_release(finished: Project) -> None:
    finished.set(train__seed=7)
    errors = finished.tool("release", "build", "v1.0.0", status=1).stderr
    assert errors == "release: error: not committed: params.yaml; a release is a commit\n"
    finished.commit()
    errors = finished.tool("release", "build", "v1.0.0", status=1).stderr
    assert "run `make repro` and commit" in errors
