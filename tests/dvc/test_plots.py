"""The page of DVC's plots needs no network after ``make plots``."""

import re
import shutil
from pathlib import Path

from tests.project import REPOSITORY, Project
from tests.support.browser import Browser, cannot_run

import pytest
from selenium.webdriver.common.by import By


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
