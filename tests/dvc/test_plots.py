"""Metrics and plots of DVC show what the files hold."""

import json
import re
import shutil
from pathlib import Path

from tests.project import REPOSITORY, Project
from tests.support.browser import Browser, cannot_run

import pandas as pd
import pytest
from selenium.webdriver.common.by import By

PICTURES = ("confusion", "f1", "reliability", "mistakes", "samples", "filters")


def test_metrics_and_plots_show_the_content_of_the_files(finished: Project) -> None:
    page = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in page
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    for column in ("train_loss", "val_loss", "train_acc", "val_acc"):
        for value in curve[column]:
            assert f'"{value}"' in page or f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    for name in PICTURES:
        assert f"{name}.png" in page
    shown = json.loads(finished.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert shown["metrics/evaluate.json"]["data"] == json.loads(finished.read("metrics/evaluate.json"))
    finished.set(train__seed=5)
    finished.repro("evaluate")
    compared = Path(finished.dvc("plots", "diff").stdout.strip().removeprefix("file://")).read_text()
    assert '"HEAD"' in compared
    assert '"workspace"' in compared
    changes = json.loads(finished.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0


@pytest.mark.browser
def test_plots_are_drawn_without_a_network(finished: Project, browser: Browser) -> None:
    if not shutil.which("npm"):
        cannot_run("npm is missing (on Debian: apt install npm)")
    try:
        finished.run("make", "plots")
    except AssertionError as error:
        if "npm error" in str(error):
            cannot_run(f"npm could not fetch Vega: {error}")
        raise
    for command in ("show", "diff"):
        address = finished.dvc("plots", command).stdout.strip()
        browser.driver.get(address)
        browser.wait_until(lambda: len(browser.driver.find_elements(By.CSS_SELECTOR, "canvas, svg.marks")) == 4)
        assert browser.hosts() == set()


def test_make_plots_fetches_the_versions_that_the_page_of_dvc_names(finished: Project) -> None:
    page = Path(finished.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    versions = re.findall(r"/npm/(vega[a-z-]*@[\d.]+)", page)
    assert f"\nVEGA := {' '.join(versions)}\n" in (REPOSITORY / "Makefile").read_text()
