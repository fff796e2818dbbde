"""params.yaml is refused in one line, before any work, and read as DVC reads it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from classifier import yaml_file
from tests.project import STAGES, Project


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
        ("twice", "  epochs: 6", "  epochs: 6\n  epochs: 7", "the key 'epochs' stands there twice"),
        ("a section is missing", "runtime:", "run_time:", "run_time: unknown key; did you mean runtime?"),
        ("no mapping", "download:", "- download:", "no valid YAML"),
    ],
)
def test_bad_params_are_one_line_and_status_2(fresh: Project, key: str, old: str, new: str, says: str) -> None:
    fresh.edit("params.yaml", old, new)
    done = fresh.stage("download", status=2)
    assert says in done.stderr
    assert done.stderr.startswith("download: error: params.yaml")
    assert done.stderr.count("\n") == 1
    assert not (fresh.root / "data/raw").exists()


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_checks_the_whole_file(finished: Project, name: str) -> None:
    finished.edit("params.yaml", "tolerance: 0.0001", "tolerance: -1")
    assert "export.tolerance: must be greater than 0; it is -1" in finished.stage(name, status=2).stderr
    assert finished.read("models/classifier.onnx")  # refused before any work: what was there is there


def test_a_missing_file_is_one_line(fresh: Project) -> None:
    (fresh.root / "params.yaml").unlink()
    assert "params.yaml is missing; `git checkout params.yaml`" in fresh.stage("train", status=2).stderr


def test_an_exponent_without_a_point_is_a_number(fresh: Project) -> None:
    fresh.edit("params.yaml", "tolerance: 0.0001", "tolerance: 1e-4")
    fresh.stage("download")


def test_debug_shows_the_traceback(fresh: Project) -> None:
    fresh.set(train__epochs=0)
    assert "Traceback" not in fresh.stage("download", status=2).stderr
    assert "Traceback" in fresh.stage("download", "--debug", status=2).stderr


# fmt: off
SCALARS = [
    "1e-3", "1E5", "-1e3", "010", "-010", "08", "0o10", "0x1F", "0x", "yes", "no", "on", "off", "y", "n", "True",
    "TRUE", "tRue", "true", "null", "~", "Null", ".5", "1.", "+1", "1.5e3", "12:30", "1:30:20.5", ".inf", "-.INF",
    "+.inf", ".nan", ".NaN", ".", "e5", "1e", "'1e-3'", '"1"', "_1", "0o", "+", "..5", "1.2.3", "text", "1_000", "0b11",
    "2001-01-01",
]
# fmt: on


def same_or_refused(scalar: str) -> None:
    """Either DVC sees the same value, or a stage sees text where no text belongs and refuses it."""
    from dvc.utils.serialize import parse_yaml

    ours: Any = yaml_file.load(f"a: {scalar}\n")["a"]
    try:
        theirs: Any = parse_yaml(f"a: {scalar}\n", "params.yaml")["a"]
    except ValueError:  # "-_" and the like crash it
        return
    if type(ours) is type(theirs):
        assert ours == theirs or (ours != ours and theirs != theirs)  # NaN
    else:
        assert ours == scalar, f"DVC reads {theirs!r}, a stage reads {ours!r}"


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalars_are_those_that_dvc_reads(scalar: str) -> None:
    same_or_refused(scalar)


@given(st.from_regex(r"[-+]?[0-9_.]{1,6}([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_numbers_are_those_that_dvc_reads(scalar: str) -> None:
    same_or_refused(scalar)


def test_plain_pyyaml_would_not_do() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"
    assert yaml_file.load("1e-3") == 0.001
    assert yaml.safe_load("010") == 8
    assert yaml_file.load("010") == 10
