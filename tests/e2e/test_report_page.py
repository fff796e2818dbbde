"""The page of report in a real Chromium."""

import re
from collections.abc import Iterator

from classifier.evaluate import predictions
from tests.project import Project
from tests.support.browser import Browser, contrast

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By

MISTAKES = 30
NASTY = "<script>alert(1)</script> & $x$"
PICTURES = ("confusion", "f1", "reliability", "mistakes", "samples", "filters")
PHONE = 360, 740  # CSS pixels


@pytest.fixture(scope="session")
def reported(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose model made 30 mistakes, one of them on a class that wants to be markup."""
    project = finished_template.copy(tmp_path_factory.mktemp("reported") / "project")
    path = "metrics/predictions.csv"
    names = predictions.read(project.root / path).class_names
    project.write(path, project.read(path).decode().replace(names[0], NASTY))
    names[0] = NASTY
    rows = project.table(path)
    for row in range(MISTAKES):
        label = names.index(str(rows.loc[row, "label"]))
        wrong = names[(label + 1 + row % 3) % len(names)]
        rows.loc[row, [f"probability of {name}" for name in names]] = (0.5 - row / 1000) / (len(names) - 1)
        rows.loc[row, f"probability of {wrong}"] = 0.5 + row / 1000
        rows.loc[row, "predicted"] = wrong
    project.write(path, rows.to_csv(index=False, float_format="%.6f"))
    project.stage("report")
    return project


@pytest.fixture
def opened(browser: Browser, reported: Project) -> Iterator[Browser]:
    """The page from the disk; afterwards its console must be empty and no host asked for anything."""
    browser.driver.get("about:blank")
    browser.hosts()  # of the browser's own first page
    browser.driver.get((reported.root / "metrics/report.html").as_uri())
    yield browser
    assert browser.console() == []
    assert browser.hosts() == set()


def column(browser: Browser, number: int, table: str = "all-mistakes") -> list[str]:
    """What a column of a table shows, from top to bottom."""
    script = f"return [...document.querySelectorAll('#{table} tbody tr')].map((row) => row.cells[{number}].innerText)"
    return [*browser.driver.execute_script(script)]


def click(browser: Browser, name: str, table: str = "all-mistakes") -> str:
    """Sort by a column; returns the order that its heading tells a screen reader."""
    head = browser.driver.find_element(By.XPATH, f"//table[@id='{table}']//th[button='{name}']")
    head.find_element(By.TAG_NAME, "button").click()
    return str(head.get_attribute("aria-sort"))


def test_page_lists_all_mistakes_by_confidence(opened: Browser, reported: Project) -> None:
    rows = reported.table("metrics/predictions.csv", keep_default_na=False)
    wrong = rows[rows["label"] != rows["predicted"]]
    assert len(wrong) >= MISTAKES
    for number, name in enumerate(("image", "label", "predicted"), start=1):
        assert sorted(column(opened, number)) == sorted(wrong[name])
    confidences = [float(text.removesuffix(" %")) for text in column(opened, 4)]
    assert confidences == sorted(confidences, reverse=True)
    assert len(set(confidences)) > 10
    thumbnails = opened.driver.find_elements(By.CSS_SELECTOR, "#all-mistakes img")
    assert len(thumbnails) == len(wrong)
    assert all(image.get_property("naturalWidth") == 28 for image in thumbnails)
    assert NASTY in opened.driver.find_element(By.TAG_NAME, "body").text


def test_headings_sort_by_click_and_by_key(opened: Browser) -> None:
    assert click(opened, "confidence") == "ascending"
    up = [float(text.removesuffix(" %")) for text in column(opened, 4)]
    assert up == sorted(up)
    assert click(opened, "confidence") == "descending"
    assert column(opened, 4) == [f"{value:.2f} %" for value in sorted(up, reverse=True)]
    opened.driver.execute_script("document.querySelector('#all-mistakes th:nth-child(2) button').focus()")
    opened.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    assert column(opened, 1) == sorted(column(opened, 1))
    heads = opened.driver.find_elements(By.CSS_SELECTOR, "#all-mistakes th[aria-sort]")
    assert [(head.text.split()[0], head.get_attribute("aria-sort")) for head in heads] == [("image", "ascending")]
    click(opened, "images", "by-class")
    support = [int(text) for text in column(opened, 5, "by-class")]
    assert support == sorted(support)


@pytest.mark.parametrize("width", [PHONE[0], 1280])
def test_page_never_scrolls_sideways(opened: Browser, width: int) -> None:
    """Wide tables and pictures scroll in a box of their own."""
    opened.resize(width, PHONE[1], mobile=width == PHONE[0])
    assert opened.driver.execute_script("return document.documentElement.scrollWidth") <= width
    for figure in opened.driver.find_elements(By.CSS_SELECTOR, "figure svg"):
        assert figure.size["width"] > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_follow_the_color_scheme(opened: Browser, scheme: str) -> None:
    opened.use_colors(scheme)
    body = opened.driver.find_element(By.TAG_NAME, "body")
    letters = opened.driver.find_element(By.CSS_SELECTOR, "figure svg #text_1 g")
    paper = body.value_of_css_property("background-color")
    for ink in (body.value_of_css_property("color"), letters.value_of_css_property("fill")):
        ratio = contrast(ink, paper)
        assert (ratio if scheme == "light" else 1 / ratio) > 9


def test_page_has_figures_and_params(opened: Browser, reported: Project) -> None:
    text = opened.driver.find_element(By.TAG_NAME, "body").text
    metrics = reported.json("metrics/evaluate/details.json")
    low, high = sorted(metrics["accuracy_interval"].values())
    assert f"{metrics['accuracy']:.2%}\n{low:.2%} to {high:.2%}" in text
    for value in (metrics["f1"], metrics["loss"], metrics["brier_score"]):
        assert f"{value:.4f}" in text
    for line in ("train.epochs 6", "models.mlp.hidden [32]", "optimizers.sgd.momentum 0.9", "compute.portable true"):
        assert line in text
    assert re.search(r"torch \d+\.\d+", text)


def test_page_and_pictures_are_small_and_name_no_machine(reported: Project) -> None:
    content = reported.read("metrics/report.html")
    assert len(content) < 2_000_000
    assert str(reported.root).encode() not in content
    assert b"http://" not in content.replace(b"http://www.w3.org/", b"")  # names of XML vocabularies, not addresses
    for name in PICTURES:
        with Image.open(reported.root / f"metrics/report/{name}.png") as image:
            assert min(image.size) > 100
            assert set(image.info) <= {"dpi"}
            assert len(np.unique(np.asarray(image.convert("L").resize((64, 64))))) > 10, "it is empty"
