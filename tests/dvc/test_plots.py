"""Metrics and plots of DVC show what the files hold."""

import json
from pathlib import Path

from tests.project import Project

import pandas as pd

PICTURES = ("confusion", "f1", "reliability", "mistakes", "samples", "filters")


def test_plots_show_the_content_of_the_files(finished: Project) -> None:
    page = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in page
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    for column in ("train_loss", "val_loss", "train_acc", "val_acc"):
        for value in curve[column]:
            assert f'"{value}"' in page or f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    assert "samples.png" in page
    finished.set(train__seed=5)
    finished.repro("evaluate")
    compared = Path(finished.dvc("plots", "diff").stdout.strip().removeprefix("file://")).read_text()
    assert '"HEAD"' in compared
    assert '"workspace"' in compared


def test_plots_show_curves_confusion_and_samples(finished: Project) -> None:
    page = finished.dvc("plots", "show").stdout.strip().removeprefix("file://")
    text = Path(page).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in text
    assert "val_loss" in text
    assert "samples.png" in text


def test_metrics_show_and_diff_have_the_written_values(finished: Project) -> None:
    shown = json.loads(finished.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert shown["metrics/evaluate.json"]["data"] == json.loads(finished.read("metrics/evaluate.json"))
    finished.set(train__seed=3)
    finished.repro("evaluate")
    changes = json.loads(finished.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0


def test_plots_show_the_pictures_of_report(finished: Project) -> None:
    shown = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for name in PICTURES:
        assert f"{name}.png" in shown
