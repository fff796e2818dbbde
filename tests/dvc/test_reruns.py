"""``dvc repro`` in a clone, again, after a change and back: it runs what it must and nothing else."""

import importlib.metadata
import itertools
import json
import re
from pathlib import Path
from typing import Any

from classifier import yaml_file
from tests.project import STAGES, Project, ran
from tests.support.tiny import Tiny

import pytest
from dvc.repo import Repo
from PIL import Image


def status(project: Project) -> set[str]:
    """The stages that `dvc status` lists."""
    return {*json.loads(project.dvc("status", "--json").stdout)}


# The stages that see a change of the key itself; what follows from them reruns if their outs change.
# A key that stands in no row fails the test. The chosen model is mlp, the chosen optimizer sgd.
RERUNS = {
    r"dataset": ["download", "annotate"],
    r"download\.(sources\..*|timeout_seconds)": [],
    r"annotate\..*": ["annotate"],
    r"compute\..*": ["train", "evaluate", "export"],
    r"train\..*": ["train"],
    r"(models\.mlp|losses\.cross_entropy|optimizers\.sgd|schedules\.linear)(\..*)?": ["train"],
    r"models\.(?!mlp).*|losses\.(?!cross).*|optimizers\.(?!sgd).*|schedules\.(?!linear).*": [],
    r"evaluate\..*": ["evaluate"],
    r"export\..*": ["export"],
    r"report\..*": ["report"],
    r"runtime\..*": [],
}


# The keys of which dvc.yaml has others: DVC refuses a value that names no section of params.yaml.
NAMES = {"train.model": "lenet", "train.optimizer": "adam", "train.schedule": "constant", "train.loss": "nll"}


def changed(key: str, value: Any) -> Any:
    """Another value; DVC knows no schema."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case list():
            return [*value, 1]
        case _:
            return NAMES.get(key, "other")


def test_each_changed_key_reruns_exactly_its_stages(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.root)
    repo = Repo()
    params = yaml_file.load(finished.read("params.yaml").decode())
    unread: dict[str, Any] = {}  # by no stage: changed all at once, as one that is read would show
    for key, value in yaml_file.flatten(params).items():
        rows = [stages for pattern, stages in RERUNS.items() if re.fullmatch(pattern, key)]
        assert len(rows) == 1, f"{key} is in {len(rows)} rows of the table"
        if not rows[0]:
            unread[key] = changed(key, value)
            continue
        finished.set_all({key: changed(key, value)})
        assert sorted(repo.status()) == sorted(rows[0]), key  # as `dvc status`, without its start
        finished.set_all({key: value})
    finished.set_all(unread)
    assert repo.status() == json.loads(finished.dvc("status", "--json").stdout) == {}
    finished.set(evaluate__batch_size=7)
    assert repo.status() == json.loads(finished.dvc("status", "--json").stdout) != {}


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        *((path, []) for path in ("runner/cli.py", "config/schema.py", "errors.py", "progress.py", "tensorboard.py")),
        ("portability.py", STAGES),
        ("prepare/quality.py", ["download", "annotate"]),
        ("data/images.py", STAGES[1:]),
        ("train/loop.py", ["train"]),
        ("model/zoo.py", ["train", "evaluate", "export"]),
        ("export/onnx_file.py", ["export"]),
    ],
)
def test_changed_code_reruns_the_stages_that_it_decides(finished: Project, path: str, stages: list[str]) -> None:
    with (finished.root / "classifier" / path).open("a") as file:
        file.write("# a comment\n")
    assert status(finished) == {*stages}


def test_second_repro_meanwhile_is_refused_and_harmless(tiny: Tiny) -> None:
    first = tiny.start_waiting("dvc", "repro")
    second = tiny.dvc("repro", status=255)
    assert re.search(r"is busy, it is being blocked by|Unable to acquire lock", second.stderr), second.stderr
    tiny.go_on()
    output, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert ran(output) == ["tiny"]
    assert tiny.repro() == []


def test_dag_has_the_documented_edges(finished: Project) -> None:
    edges = re.findall(r'"(\w+)" -> "(\w+)"', finished.dvc("dag", "--dot").stdout)
    assert set(edges) == {
        ("download", "annotate"),
        *itertools.product(["annotate"], STAGES[2:]),
        *itertools.product(["train"], ["evaluate", "export", "report"]),
        *itertools.product(["evaluate"], ["export", "report"]),
    }


def test_repro_writes_every_out_and_again_runs_nothing(finished: Project) -> None:
    for path in finished.root.glob("metrics/*/*.png"):  # other tests read the other outs
        with Image.open(path) as picture:
            picture.load()
    assert not [*finished.root.glob("scratch/train-*")]
    assert finished.json("metrics/evaluate.json")["accuracy"] > 0.9  # chance is 0.1
    assert finished.repro() == []
    assert finished.clean()


def test_changed_param_reruns_its_stages_and_going_back_none(finished: Project) -> None:
    before = finished.read("models/classifier.safetensors")
    finished.set(evaluate__batch_size=7)
    assert finished.repro() == ["evaluate"]  # an image has the same bits in any batch
    finished.set(train__seed=1)
    assert finished.repro() == STAGES[2:]
    assert finished.read("models/classifier.safetensors") != before
    finished.run("git", "checkout", "params.yaml")
    assert finished.repro() == []
    assert finished.read("models/classifier.safetensors") == before
    assert finished.run("git", "status", "--porcelain").stdout == ""


def test_two_clones_agree_to_the_byte(finished: Project, fresh_template: Project, tmp_path: Path) -> None:
    other = fresh_template.copy(tmp_path / "another folder" / "deeper" / "clone")
    other.repro("--force", "--no-run-cache")
    for path in ["dvc.lock", "metrics/evaluate.json", "metrics/export.json", "models/classifier.onnx"]:
        assert other.read(path) == finished.read(path), path


@pytest.mark.parametrize(
    ("package", "stages"),
    [("torch", {"train", "evaluate", "export"}), ("matplotlib", {"annotate", "report"}), ("onnx", {"export"})],
)
def test_other_version_of_a_package_reruns_its_stages(finished: Project, package: str, stages: set[str]) -> None:
    version = importlib.metadata.version(package).partition("+")[0]
    finished.edit("environment.toml", f'{package} = ["{version}"', f'{package} = ["1.2.3"')
    assert status(finished) >= stages
    assert f"environment.toml  packages.{package}" in finished.dvc("params", "diff").stdout
    refused = finished.stage(min(stages), status=2)
    assert refused.stderr == (
        f"{min(stages)}: error: {package} {version} is installed, environment.toml has 1.2.3; `make setup` installs the"
        " lock, or write the new version there\n"
    )


def test_another_version_is_a_warning_where_results_are_not_portable(finished: Project) -> None:
    finished.set(compute__portable=False)
    finished.edit("environment.toml", 'torch = ["', 'torch = ["9')
    assert "is installed, environment.toml has 9" in finished.stage("evaluate").stderr


def test_other_packages_run_nothing_again(finished: Project) -> None:
    finished.edit("environment.toml", "[packages]", '[packages]\npolars = ["1.0"]')
    finished.edit("requirements.lock", "tqdm==", "tqdm==9")
    assert status(finished) == set()
    finished.edit("environment.toml", "[packages]", "[packages")
    assert "environment.toml: not readable (" in finished.stage("train", status=2).stderr
