"""The pipeline as a DVC project: minimal reruns, remotes, experiments, comparisons, plots, merges, locks."""

import ast
import itertools
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import binomtest

from classifier import yaml_file
from classifier.errors import StageError
from tests.project import REPOSITORY, STAGES, Project, ran, wait_for
from tools.compare import compare

# --- minimal and sufficient reruns ----------------------------------------------------------------------------------

# The stages that see a change of the key itself; what follows from them reruns if their outs change.
# A key that stands in no row fails the test. The chosen model is mlp, the chosen optimizer sgd.
RERUNS = {
    r"download\.dataset": ["download", "annotate"],
    r"download\.(sources\..*|timeout_seconds|retries)": [],
    r"annotate\..*": ["annotate"],
    r"compute\..*": ["train", "evaluate", "export"],
    r"train\..*": ["train"],
    r"(models\.mlp|losses\.cross_entropy|optimizers\.sgd|schedules\.linear)(\..*)?": ["train"],
    r"models\.(?!mlp).*|losses\.(?!cross).*|optimizers\.(?!sgd).*|schedules\.(?!one).*": [],
    r"evaluate\..*": ["evaluate"],
    r"export\..*": ["export"],
    r"report\..*": ["report"],
    r"runtime\..*": [],
}


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(key: str, value: Any) -> Any:
    """Another value that the schema takes."""
    choices = {
        "download.dataset": "mnist",
        "compute.device": "cpu",
        "train.model": "lenet",
        "train.optimizer": "adam",
        "train.schedule": "constant",
        "train.loss": "nll",
        "train.keep": "best",
        "train.initial_checkpoint": "other.safetensors",
        "train.precision": "bf16",
    }
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 if value else 0.5
        case list():
            return [*value[:-1], "other"] if not value or isinstance(value[0], str) else [*value[:-1], value[-1] / 2]
        case _:
            return choices[key]


def test_every_key_reruns_what_it_must_and_nothing_else(finished: Project) -> None:
    params = yaml_file.load(finished.read("params.yaml").decode())
    for key, value in leaves(params):
        rows = [stages for pattern, stages in RERUNS.items() if re.fullmatch(pattern, key)]
        assert len(rows) == 1, f"{key} is in {len(rows)} rows of the table"
        new = changed(key, value)
        if key.startswith("models.") and isinstance(value, list):
            new = [*value[:-1], value[-1] + 1]
        finished.set_all({key: new})
        status = json.loads(finished.dvc("status", "--json").stdout)
        assert sorted(status) == sorted(rows[0]), key
        finished.set_all({key: value})


def test_every_declared_param_is_read(tmp_path: Path) -> None:
    """Reading an undeclared one is impossible (``Run.param`` refuses); here the other way round."""
    stages = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name in STAGES:
        read = set()
        for node in ast.walk(ast.parse((REPOSITORY / f"stages/{name}.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "param":
                read.add(ast.unparse(node.args[0]).strip("f'").replace("recipe.", "train.").replace("{", "${"))
        assert read == set(stages[name]["params"]), name


def test_everything_in_dvc_yaml_has_a_description() -> None:
    content = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())
    for name, stage in content["stages"].items():
        assert stage["desc"], name
        for group in ("outs", "metrics", "plots"):
            for out in stage.get(group, []):
                assert all(options.get("desc") for options in out.values()), out
    assert all(artifact["desc"] for artifact in content["artifacts"].values())
    assert all(options["title"] for plot in content["plots"] for options in plot.values())


# --- a second machine -----------------------------------------------------------------------------------------------


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[str]:
    """A real WebDAV server on loopback."""
    (tmp_path / "remote").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "wsgidav"), "--host=127.0.0.1", f"--port={port}", "--auth=anonymous"]
    with (tmp_path / "webdav.log").open("wb") as log:
        server = subprocess.Popen([*command, f"--root={tmp_path / 'remote'}"], stdout=log, stderr=log)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield f"webdav://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("way", ["pull", "allow missing"])
def test_a_second_machine_gets_results_without_computing(
    finished: Project, webdav: str, tmp_path: Path, way: str
) -> None:
    finished.dvc("remote", "add", "--default", "shared", webdav)
    finished.commit("a remote")
    finished.dvc("push")
    finished.run("git", "clone", "--quiet", str(finished.root), str(tmp_path / "elsewhere"))
    other = Project(tmp_path / "elsewhere", finished.raw)
    if way == "pull":
        other.dvc("pull")
        assert other.repro() == []
        for path in ("models/classifier.onnx", "data/images.zip", "metrics/predictions.csv"):
            assert other.read(path) == finished.read(path)
        assert other.run("git", "status", "--porcelain").stdout == ""
    else:
        assert other.repro("--pull", "--allow-missing") == []
        other.set(export__opset=19)
        assert other.repro("--pull", "--allow-missing") == ["export"]  # fetches the model and the images that it needs


def test_artifacts_can_be_fetched_by_name(finished: Project, webdav: str, tmp_path: Path) -> None:
    finished.dvc("remote", "add", "--default", "shared", webdav)
    finished.commit("a remote")
    finished.dvc("push")
    finished.run("git", "tag", "-a", "-m", "first", "classifier-onnx@v1.0.0")  # how a version is registered
    out = tmp_path / "fetched.onnx"
    finished.dvc("artifacts", "get", str(finished.root), "classifier-onnx", "--out", str(out))
    assert out.read_bytes() == finished.read("models/classifier.onnx")


# --- experiments ----------------------------------------------------------------------------------------------------


def test_experiments_run_queue_show_apply_and_branch(finished: Project) -> None:
    finished.dvc("exp", "run", "--name", "lenet-try", "-S", "train.model=lenet", "-S", "train.epochs=1")
    assert json.loads(finished.read("metrics/train.json"))["weights"] == 44426
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    assert finished.repro() == []

    finished.dvc("exp", "run", "--queue", "-S", "train.seed=0,1,2")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    finished.dvc("queue", "start", "--jobs", "2")
    wait_for(lambda: finished.dvc("queue", "status").stdout.count("Success") == 3, seconds=240)
    finished.dvc("queue", "stop", "--kill")
    assert finished.run("git", "status", "--porcelain").stdout == ""

    # The mean over the seeds, from what DVC recorded
    by_seed = {}
    for seed in range(3):
        finished.set(train__seed=seed)
        finished.repro()  # from the run cache of the experiments
        by_seed[seed] = json.loads(finished.read("metrics/evaluate.json"))["accuracy"]
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    shown = next(
        line for line in finished.run("python", "-m", "tools.seed_statistics").stdout.splitlines() if "mlp" in line
    )
    values = pd.Series(by_seed)
    assert f"test accuracy {values.mean():.2%} ± {values.std():.2%} (n = 3 seeds)" in shown

    shown = finished.dvc("exp", "show", "--csv").stdout
    assert "lenet-try" in shown
    assert "train.seed" in shown
    finished.dvc("exp", "branch", "lenet-try", "keep-lenet")
    finished.dvc("exp", "apply", "lenet-try")
    assert json.loads(finished.read("metrics/train.json"))["weights"] == 44426
    assert finished.repro() == []
    finished.run("git", "checkout", "--quiet", "--force", "keep-lenet")
    finished.dvc("checkout")
    assert finished.repro() == []


# --- compare --------------------------------------------------------------------------------------------------------


def predictions(right: list[bool]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"{number:03d}.png" for number in range(len(right))],
            "label": "cat",
            "predicted": ["cat" if good else "dog" for good in right],
        }
    )


def test_compare_counts_and_tests_as_the_textbook_does() -> None:
    a = predictions([True] * 70 + [True] * 15 + [False] * 5 + [False] * 10)
    b = predictions([True] * 70 + [False] * 15 + [True] * 5 + [False] * 10)
    result = compare("a", a, "b", b)
    assert (result.a.accuracy, result.b.accuracy) == (0.85, 0.75)
    assert (result.a.only_correct, result.b.only_correct, result.num_images) == (15, 5, 100)
    assert result.p_value == pytest.approx(0.0414, abs=1e-4)  # 2 * P(X <= 5), X ~ Binomial(20, 1/2)
    assert result.in_words().startswith("a is better than b")
    interval = binomtest(85, 100).proportion_ci(method="wilson")
    assert (result.a.low, result.a.high) == (interval.low, interval.high)
    same = compare("a", a, "a", a)
    assert same.p_value == 1
    assert same.in_words().startswith("No significant difference")


def test_compare_does_not_mind_the_order_but_refuses_other_images() -> None:
    a = predictions([True, False, True])
    assert compare("a", a, "b", a[::-1]).p_value == 1
    for other in (a[:2], a.assign(label="dog"), a.assign(image=["x", "y", "z"])):
        with pytest.raises(StageError, match="were not tested on the same images"):
            compare("a", a, "b", other)


def test_compare_reads_revisions_experiments_and_the_workspace(finished: Project) -> None:
    finished.dvc("exp", "run", "--name", "worse", "-S", "train.epochs=1", "-S", "optimizers.sgd.lr=0.001")
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    result = json.loads(finished.run("python", "-m", "tools.compare", "worse", "main", "--json").stdout)
    recorded = json.loads(finished.read("metrics/evaluate.json"))["accuracy"]
    assert result["b"]["accuracy"] == recorded
    assert result["a"]["accuracy"] < recorded
    shown = finished.run("python", "-m", "tools.compare", "worse").stdout
    assert "workspace is better than worse" in shown
    failed = finished.run("python", "-m", "tools.compare", "no-such-thing", status=1)
    assert "compare: error: no-such-thing: no metrics/predictions.csv" in failed.stderr
    assert failed.stderr.count("\n") == 1


# --- plots, merges, locks -------------------------------------------------------------------------------------------


def test_plots_show_what_the_files_hold(finished: Project) -> None:
    page = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Accuracy by class", "Confusion matrix"):
        assert title in page
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        for value in curve[column]:
            assert f'"{value}"' in page or f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    assert "samples.png" in page
    finished.set(train__seed=5)
    finished.repro()
    compared = Path(finished.dvc("plots", "diff").stdout.strip().removeprefix("file://")).read_text()
    assert '"HEAD"' in compared
    assert '"workspace"' in compared


def test_a_lock_conflict_after_a_merge_is_solved_as_the_readme_says(finished: Project) -> None:
    for branch, change in (("theirs", {"evaluate.batch_size": 9}), ("mine", {"train.seed": 4})):
        finished.run("git", "checkout", "--quiet", "-b", branch, "main")
        finished.dvc("checkout")
        finished.set_all(change)
        finished.repro()
        finished.commit(branch)
    finished.run("git", "merge", "theirs", status=1)
    assert "UU dvc.lock" in finished.run("git", "status", "--porcelain").stdout
    readme = (REPOSITORY / "README.md").read_text()
    block = re.search(r"<!-- merge -->\n```console\n(.*?)```", readme, re.DOTALL)
    assert block
    for line in block[1].splitlines():
        if line.startswith("$ "):
            finished.run("sh", "-c", line.removeprefix("$ "))
    assert finished.run("git", "status", "--porcelain").stdout == ""
    assert finished.repro() == []
    params = yaml_file.load(finished.read("params.yaml").decode())
    assert (params["evaluate"]["batch_size"], params["train"]["seed"]) == (9, 4)


def test_a_second_repro_says_so_and_harms_nothing(finished: Project) -> None:
    finished.set_all({"train.epochs": 400, "train.seed": 8})
    first = finished.start("dvc", "repro")
    wait_for(lambda: any(finished.root.glob("scratch/train.pid")))
    time.sleep(1)
    second = finished.dvc("repro", status=255)
    assert re.search(r"is busy, it is being blocked by|Unable to acquire lock", second.stderr), second.stderr
    output, errors = first.communicate(timeout=240)
    assert first.returncode == 0, errors
    assert ran(output) == ["train", "evaluate", "export", "report"]
    assert finished.repro() == []


def test_the_drawing_of_the_stages_is_true(finished: Project) -> None:
    edges = re.findall(r'"(\w+)" -> "(\w+)"', finished.dvc("dag", "--dot").stdout)
    assert set(edges) == {
        ("download", "annotate"),
        *itertools.product(["annotate"], ["train", "evaluate", "export", "report"]),
        *itertools.product(["train"], ["evaluate", "export", "report"]),
        *itertools.product(["evaluate"], ["export", "report"]),
    }


# --- the README -----------------------------------------------------------------------------------------------------


def cookbook(part: str) -> list[str]:
    """The commands of one part of the README's cookbook."""
    readme = (REPOSITORY / "README.md").read_text()
    block = re.search(rf"<!-- cookbook: {part} -->\n```console\n(.*?)```", readme, re.DOTALL)
    assert block, part
    return [line.removeprefix("$ ") for line in block[1].splitlines() if line.startswith("$ ")]


def test_the_recipe_for_a_gpu_runs_in_reduced_form(finished: Project) -> None:
    (command,) = cookbook("gpu")
    finished.run("sh", "-c", f"{command} -S train.epochs=1 -S optimizers.sgd.lr=0.01")
    params = yaml_file.load(finished.read("params.yaml").decode())
    assert params["train"]["model"] == "resnet18"
    assert params["train"]["augment"]["cutout_pixels"] == 10
    assert json.loads(finished.read("metrics/export.json"))["disagreeing_predictions"] == 0


def test_the_cookbook_works_as_the_readme_says(finished: Project) -> None:
    def type_in(part: str) -> dict[str, str]:
        return {line: finished.run("sh", "-c", line).stdout for line in cookbook(part)}

    changed = type_in("change")
    assert "train.model" in changed["dvc params diff"]
    assert ran(changed["dvc repro"]) == ["train", "evaluate", "export", "report"]
    assert "metrics/evaluate.json" in changed["dvc metrics diff"]
    back = type_in("back")
    assert ran(back["dvc repro"]) == []
    assert finished.run("git", "status", "--porcelain").stdout == ""
    experiments = type_in("experiments")
    assert "exact McNemar p = " in experiments["python -m tools.compare lenet-0 lenet-1"]
    assert "(n = 2 seeds)" in experiments["python -m tools.seed_statistics"]
    assert finished.run("git", "status", "--porcelain").stdout == ""
