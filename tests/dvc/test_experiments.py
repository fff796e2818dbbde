"""Experiments: run, queue, show, apply, branch; models and seeds compared."""

import statistics
from collections import defaultdict
from typing import Any

from classifier.runner import files
from tests.project import Project, wait_for

import pytest


def go_back(project: Project) -> None:
    project.run("git", "checkout", "--quiet", ".")
    project.dvc("checkout")
    assert project.clean()


@pytest.mark.experiments
def test_experiments_run_queue_apply_and_branch(finished: Project) -> None:
    finished.dvc("exp", "run", "--name", "lenet-try", "-S", "train.model=lenet", "-S", "train.epochs=1")
    assert finished.json("metrics/evaluate/details.json")["num_parameters"] == 44426
    go_back(finished)
    assert finished.repro() == []

    finished.dvc("exp", "run", "--queue", "-S", "train.seed=0,1")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    finished.run("dvc", "queue", "start", "--jobs", "2")
    wait_for(lambda: finished.dvc("queue", "status").stdout.count("Success") == 2, seconds=240, pause=3)
    finished.run("dvc", "queue", "stop", "--kill")
    assert finished.run("git", "status", "--porcelain").stdout == ""

    # The mean over the seeds, from what DVC recorded
    values = []
    for seed in range(2):
        finished.set(train__seed=seed)
        finished.repro()  # from the run cache of the experiments
        values.append(finished.json("metrics/train.json")["val_acc"])
    go_back(finished)
    shown = next(line for line in finished.tool("compare", "seeds").stdout.splitlines() if "mlp" in line)
    assert seeds(values) in shown

    finished.dvc("exp", "branch", "lenet-try", "keep-lenet")
    finished.dvc("exp", "apply", "lenet-try")
    assert finished.json("metrics/evaluate/details.json")["num_parameters"] == 44426
    assert finished.repro() == []
    finished.run("git", "checkout", "--quiet", "--force", "keep-lenet")
    finished.dvc("checkout")
    assert finished.repro() == []


def test_compare_refuses_predictions_of_other_params_or_code(finished: Project) -> None:
    def refused(*revisions: str) -> str:
        errors = finished.tool("compare", "models", *revisions, status=1).stderr
        again = " changed since; `dvc repro evaluate` makes metrics/predictions.csv anew\n"
        assert errors.endswith(again)
        return errors.removeprefix("compare: error: ").removesuffix(again)

    finished.edit("metrics/predictions.csv", "\n", "\nother.png,0,0\n")
    assert refused("main") == "workspace: metrics/predictions.csv"
    finished.dvc("checkout", "--force")
    finished.edit("stages/train.py", '"""', '"""My ')
    assert refused("main") == "workspace: stages/train.py"
    finished.run("git", "checkout", "--quiet", "stages")
    finished.set(train__seed=1)
    assert refused("main") == "workspace: params.yaml (train.seed)"
    finished.commit("params of a run that did not happen")
    assert refused("main") == "main: params.yaml (train.seed)"
    finished.set(train__seed=0)
    files.remove(finished.root / "data/images")  # as in a clone that has pulled the predictions only
    assert "No significant difference" in finished.tool("compare", "models", "main~1").stdout


def seeds(values: list[float]) -> str:
    """What is said of a recipe that ran with two seeds."""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"validation accuracy {mean:.2%} ± {deviation:.2%} (n = 2 seeds)"


RECIPES: list[dict[str, Any]] = [
    {"losses.cross_entropy.label_smoothing": 0.1, "train.schedule": "linear"},  # as committed, seed 0
    {"losses.cross_entropy.label_smoothing": 0.3, "train.schedule": "linear"},
    {"train.schedule": "step", "schedules.step.gamma": 0.1},
    {"train.schedule": "step", "schedules.step.gamma": 0.5},
]


def test_recipes_that_differ_in_loss_or_schedule_are_kept_apart(finished: Project) -> None:
    values: dict[int, list[float]] = defaultdict(list)
    for number, recipe in enumerate(RECIPES):
        for seed in (0, 1):
            if (number, seed) != (0, 0):
                finished.set_all({**recipe, "train.seed": seed})
                finished.dvc("repro", "train")
                finished.commit(f"recipe {number}, seed {seed}")
            values[number].append(finished.json("metrics/train.json")["val_acc"])
    lines = finished.tool("compare", "seeds", "--commits", "9").stdout.splitlines()
    assert len(lines) == len(RECIPES), lines
    for number, recipe in enumerate(RECIPES):
        (line,) = [line for line in lines if all(f"{key}={value}" in line for key, value in recipe.items())]
        assert line.endswith(seeds(values[number]))


def test_what_did_not_run_is_not_counted(finished: Project) -> None:
    finished.set(train__seed=1)
    nothing = "compare: error: no recipe ran with two seeds; dvc exp run -S 'train.seed=0,1' --queue\n"
    assert finished.tool("compare", "seeds", status=1).stderr == nothing
    finished.edit("metrics/train.json", '"val_acc": ', '"val_acc": 0')
    left_out = "compare: warning: left out: workspace: metrics/train.json is not what dvc.lock records\n"
    assert finished.tool("compare", "seeds", status=1).stderr == left_out + nothing
