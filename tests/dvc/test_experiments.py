"""Experiments: run, queue, show, compare, apply, branch."""

import json

from tests.project import Project, wait_for

import pandas as pd
import pytest


@pytest.mark.experiments
def test_experiments_run_queue_show_apply_and_branch(finished: Project) -> None:
    finished.dvc("exp", "run", "--name", "lenet-try", "-S", "train.model=lenet", "-S", "train.epochs=1")
    assert finished.json("metrics/evaluate/details.json")["num_parameters"] == 44426
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    assert finished.repro() == []

    finished.dvc("exp", "run", "--queue", "-S", "train.seed=0,1")
    assert finished.run("git", "status", "--porcelain").stdout == ""
    finished.run("dvc", "queue", "start", "--jobs", "2")
    wait_for(lambda: finished.dvc("queue", "status").stdout.count("Success") == 2, seconds=240, pause=3)
    finished.run("dvc", "queue", "stop", "--kill")
    assert finished.run("git", "status", "--porcelain").stdout == ""

    # The mean over the seeds, from what DVC recorded
    by_seed = {}
    for seed in range(2):
        finished.set(train__seed=seed)
        finished.repro()  # from the run cache of the experiments
        by_seed[seed] = finished.json("metrics/train.json")["val_acc"]
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    shown = next(line for line in finished.tool("compare", "seeds").stdout.splitlines() if "mlp" in line)
    values = pd.Series(by_seed)
    assert f"validation accuracy {values.mean():.2%} ± {values.std():.2%} (n = 2 seeds)" in shown

    shown = finished.dvc("exp", "show", "--csv").stdout
    assert "lenet-try" in shown
    assert "train.seed" in shown
    finished.dvc("exp", "branch", "lenet-try", "keep-lenet")
    finished.dvc("exp", "apply", "lenet-try")
    assert finished.json("metrics/evaluate/details.json")["num_parameters"] == 44426
    assert finished.repro() == []
    finished.run("git", "checkout", "--quiet", "--force", "keep-lenet")
    finished.dvc("checkout")
    assert finished.repro() == []


@pytest.mark.experiments
def test_compare_reads_revisions_experiments_and_workspace(finished: Project) -> None:
    finished.dvc("exp", "run", "--name", "worse", "-S", "train.epochs=1", "-S", "optimizers.sgd.lr=0.001")
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    result = json.loads(finished.tool("compare", "models", "worse", "main", "--json").stdout)
    recorded = finished.json("metrics/evaluate.json")["accuracy"]
    assert result["b"]["accuracy"] == recorded
    assert result["a"]["accuracy"] < recorded
    shown = finished.tool("compare", "models", "worse").stdout
    assert "workspace is better than worse" in shown
    failed = finished.tool("compare", "models", "no-such-thing", status=1)
    assert "compare: error: no-such-thing: no metrics/predictions.csv" in failed.stderr
    assert failed.stderr.count("\n") == 1
    failed = finished.tool("compare", "models", "", status=2)
    assert failed.stderr == "compare: error: an empty revision; name a commit, an experiment, or workspace\n"
    (finished.root / "metrics/predictions.csv").write_bytes(b"\xff\xfe no text")
    failed = finished.tool("compare", "models", "main", status=1)
    assert (
        failed.stderr == "compare: error: workspace: metrics/predictions.csv is not what `dvc repro evaluate` writes\n"
    )


def test_compare_refuses_predictions_of_other_params_or_code(finished: Project) -> None:
    def refused(*revisions: str) -> str:
        done = finished.tool("compare", "models", *revisions, status=1)
        again = " changed since; `dvc repro evaluate` makes metrics/predictions.csv anew\n"
        assert done.stderr.endswith(again)
        return done.stderr.removeprefix("compare: error: ").removesuffix(again)

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
    (finished.root / "data/images.zip").unlink()  # as in a clone that has pulled the predictions only
    assert "No significant difference" in finished.tool("compare", "models", "main~1").stdout
