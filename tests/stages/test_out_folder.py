"""``-S KEY=VALUE --out FOLDER``: a stage with other params, in another place; the workspace stays as it is."""

from tests.project import Project

import pytest

MODEL = "models/classifier.safetensors"
OTHER = ("-S", "train.epochs=2", "--set-param", "params.yaml:optimizers.sgd.lr=0.001", "--out", "scratch/mine")


def test_outputs_are_those_of_the_params_and_the_workspace_is_untouched(finished: Project) -> None:
    before = {path: path.read_bytes() for path in finished.root.rglob("*") if path.is_file()}
    finished.stage("train", *OTHER)
    finished.stage("evaluate", *OTHER)  # of the model that is there
    after = {path: path.read_bytes() for path in finished.root.rglob("*") if path.is_file()}
    mine = finished.root / "scratch/mine"
    assert [path for path in before if after.get(path) != before[path]] == []
    assert {path.name for path in {*after} - {*before} if mine not in path.parents} <= {"train.lock", "train.pid"}
    assert finished.dvc("status").stdout == "Data and pipelines are up to date.\n"

    finished.set_all({"train.epochs": 2, "optimizers.sgd.lr": 0.001})
    finished.stage("train")
    finished.stage("evaluate")
    for path in (MODEL, "metrics/train/curves.csv", "metrics/predictions.csv"):
        assert (mine / path).read_bytes() == finished.read(path) != before[finished.root / path], path
    assert (mine / "models/environment.json").read_bytes() == finished.read("models/environment.json")


def test_a_run_goes_on_wherever_it_is_started(finished: Project) -> None:
    finished.stage("train", *OTHER, "-S", "runtime.stop_after_epoch=1", status=75)
    finished.set_all({"train.epochs": 2, "optimizers.sgd.lr": 0.001})
    assert "resuming at step" in finished.stage("train").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-S", "train.epoch=1", "--out", "scratch/mine"), "-S train.epoch: no such key in params.yaml"),
        (("-S", "train.epochs=0", "--out", "scratch/mine"), "-S train.epochs: must be greater than or equal to 1"),
        (("-S", "train.epochs=1,2", "--out", "scratch/mine"), "-S train.epochs: must be"),
        (("-S", "train.epochs", "--out", "scratch/mine"), "-S train.epochs: must be KEY=VALUE, such as"),
        (("-S", "train.epochs=[", "--out", "scratch/mine"), "-S train.epochs=[: must be KEY=VALUE, such as"),
        (("-S", "train.epochs=1"), "need a folder of their own, such as --out scratch/mine"),
        (("--out", "."), "need a folder of their own, such as --out scratch/mine"),
    ],
)
def test_a_wrong_word_is_one_line(finished: Project, words: tuple[str, ...], says: str) -> None:
    refused = finished.stage("train", *words, status=2)
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""


def test_a_param_that_changes_meanwhile_stops_the_run_only_if_it_is_not_overridden(finished: Project) -> None:
    finished.stage("train", *OTHER)
    model = (finished.root / "scratch/mine" / MODEL).read_bytes()
    finished.set_all({"train.epochs": 5})
    finished.stage("train", *OTHER)
    assert (finished.root / "scratch/mine" / MODEL).read_bytes() == model
    assert finished.json("scratch/mine/metrics/train.json")
