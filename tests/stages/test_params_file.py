"""params.yaml is refused in one line, before any work."""

from tests.project import STAGES, Project

import pytest


@pytest.mark.parametrize(
    ("key", "old", "new", "says"),
    [
        ("unknown", "  epochs:", "  epoch: 3\n  epochs:", "train.epoch: unknown key; did you mean epochs?"),
        ("missing", "  opset: 18", "", "export.opset: missing"),
        ("text for a number", "epochs: 6", "epochs: six", "train.epochs: must be a valid integer; it is 'six'"),
        ("float for an integer", "epochs: 6", "epochs: 6.0", "train.epochs: must be a valid integer"),
        ("yes is text", "shuffle: true", "shuffle: yes", "train.shuffle: must be a valid boolean; it is 'yes'"),
        ("010 is ten", "opset: 18", "opset: 010", "export.opset: must be greater than or equal to 18; it is 10"),
        ("not a number", "lr: 0.05", "lr: .nan", "optimizers.sgd.lr: must be a finite number; it is nan"),
        ("infinity", "lr: 0.05", "lr: .inf", "optimizers.sgd.lr: must be a finite number; it is inf"),
        ("out of range", "batch_size: 40", "batch_size: 0", "train.batch_size: must be greater than or equal to 1"),
        ("no such model", "model: mlp", "model: mpl", "train.model: must be one of mlp, lenet, cnn"),
        (
            "no such choice",
            "schedule: linear",
            "schedule: two",
            "train.schedule: must be one of constant, step, cosine, linear",
        ),
        (
            "model that is not chosen",
            "  resnet18:",
            "  resnet18x:",
            "models.resnet18x: no model of this project or of tor",
        ),
        ("source", "    kmnist:", "    kmnistt:", "download.sources.kmnistt: unknown key; did you mean kmnist?"),
        ("twice", "  epochs: 6", "  epochs: 6\n  epochs: 7", 'line LINE: not valid YAML: found duplicate key "epochs"'),
        ("a section is missing", "runtime:", "run_time:", "run_time: unknown key; did you mean runtime?"),
        (
            "balance without shuffling",
            "shuffle: true\n  class_balance: as_is",
            "shuffle: false\n  class_balance: equal",
            "train.class_balance: equal draws the images, so it needs train.shuffle: true",
        ),
        ("no mapping", "download:", "- download:", "not valid YAML"),
    ],
)
def test_bad_params_are_one_line_and_status_2(fresh: Project, key: str, old: str, new: str, says: str) -> None:
    first = fresh.read("params.yaml").decode().splitlines().index("  epochs: 6") + 1
    fresh.edit("params.yaml", old, new)
    done = fresh.stage("download", status=2)
    assert says.replace("LINE", str(first + 1)) in done.stderr
    assert done.stderr.startswith("download: error: params.yaml")
    assert done.stderr.count("\n") == 1
    assert not (fresh.root / "data/raw").exists()


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_validates_the_whole_file(finished: Project, name: str) -> None:
    finished.edit("params.yaml", "tolerance: 0.0001", "tolerance: -1")
    assert "export.tolerance: must be greater than 0; it is -1" in finished.stage(name, status=2).stderr
    assert finished.read("models/classifier.onnx")  # refused before any work: what was there is there


def test_exponent_is_a_number_debug_shows_the_traceback_and_a_missing_file_is_one_line(fresh: Project) -> None:
    fresh.edit("params.yaml", "tolerance: 0.0001", "tolerance: 1e-4")  # YAML 1.1 has a text there
    fresh.stage("download")
    fresh.set(train__epochs=0)
    assert "Traceback" not in fresh.stage("download", status=2).stderr
    assert "Traceback" in fresh.stage("download", "--debug", status=2).stderr
    (fresh.root / "params.yaml").unlink()
    assert "params.yaml is missing; `git checkout params.yaml`" in fresh.stage("train", status=2).stderr
