"""Metrics and plots of DVC show what the files hold."""

import json
from pathlib import Path

from tests.project import Project

PICTURES = ("confusion", "f1", "reliability", "mistakes", "samples", "filters")


def test_metrics_and_plots_show_the_content_of_the_files(finished: Project) -> None:
    page = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in page
    curve = finished.table("metrics/train/curves.csv")
    for column in ("train_loss", "val_loss", "train_acc", "val_acc"):
        for value in curve[column]:
            assert f'"{value}"' in page or f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    for name in PICTURES:
        assert f"{name}.png" in page
    shown = json.loads(finished.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert shown["metrics/evaluate.json"]["data"] == finished.json("metrics/evaluate.json")
    finished.set(train__seed=5)
    finished.repro("evaluate")
    compared = Path(finished.dvc("plots", "diff").stdout.strip().removeprefix("file://")).read_text()
    assert '"HEAD"' in compared
    assert '"workspace"' in compared
    changes = json.loads(finished.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0
