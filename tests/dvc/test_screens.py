"""What DVC and the tools show of a finished run and a change: it is complete, and fits a screen of 120 columns."""

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from tests.project import REPOSITORY, STAGES, Project, one_line
from tests.support.browser import Browser, cannot_run

import pytest
from selenium.webdriver.common.by import By

COLUMNS = 120
# Never set up: the environment belongs to another clone.
MAKE = ("make", "--no-print-directory", "--silent", "-o", "setup", "PYTHON=false")
FIGURES = ("accuracy", "loss", "f1", "ece", "val_acc", "val_loss", "train_acc", "train_loss")


@pytest.fixture(scope="module")
def changed(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished project with one experiment, and other params than those that are committed."""
    project = finished_template.copy(tmp_path_factory.mktemp("changed") / "project")
    project.dvc("exp", "run", "--name", "seed-3", "-S", "train.seed=3", "-S", "train.epochs=1")
    project.run("git", "checkout", "--quiet", ".")
    project.dvc("checkout")
    project.set_all({"train.epochs": 1, "optimizers.sgd.lr": 0.002})
    project.repro()
    project.environment["COLUMNS"] = "1000"  # a terminal that cuts nothing off
    return project


def shown(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.stderr == ""
    return done.stdout


def screen(done: "subprocess.CompletedProcess[str]") -> str:
    """What is shown, which has to fit."""
    text = shown(done)
    lines = text.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= COLUMNS, max(lines, key=len)
    return text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("dvc", "metrics", "show"), FIGURES),
        ((*MAKE, "experiments"), ("seed-3", "accuracy", "loss", "val_acc", "val_loss", "train.seed")),
    ],
    ids=["metrics", "experiments"],
)
def test_list_fits_and_has_every_figure(changed: Project, command: tuple[str, ...], words: tuple[str, ...]) -> None:
    text = screen(changed.run(*command))
    for word in words:
        assert re.search(rf"\b{re.escape(word)}\b", text), word


def test_metrics_diff_fits_and_tells_the_change(changed: Project, finished_template: Project) -> None:
    text = screen(changed.dvc("metrics", "diff"))
    before, after = (project.json("metrics/evaluate.json") for project in (finished_template, changed))
    (row,) = re.findall(r"metrics/evaluate\.json +loss +(\S+) +(\S+) +(\S+)", text)
    assert [float(value) for value in row[:2]] == pytest.approx([before["loss"], after["loss"]], abs=1e-5)
    assert float(row[2]) == pytest.approx(after["loss"] - before["loss"], abs=2e-5)


def test_params_diff_fits_and_tells_the_change(changed: Project) -> None:
    text = screen(changed.dvc("params", "diff"))
    rows = set(re.findall(r"^params\.yaml +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE))
    assert rows == {("train.epochs", "6", "1"), ("optimizers.sgd.lr", "0.05", "0.002")}


def test_exp_show_begins_with_every_figure(changed: Project) -> None:
    """It has a column for each param and cannot be told not to; what people compare must come first."""
    lines = shown(changed.dvc("exp", "show", "--no-pager")).splitlines()
    head = next(line for line in lines if "Experiment" in line)[:COLUMNS]
    assert set(re.findall(r"\w+", head)) >= set(FIGURES)


def recalls(project: Project) -> Any:
    rows = project.table("metrics/predictions.csv")
    return (rows["label"] == rows["predicted"]).groupby(rows["label"]).mean()


def test_compare_by_class_lists_the_largest_change_first(changed: Project, finished_template: Project) -> None:
    text = screen(changed.tool("compare", "models", "HEAD", "--by-class"))
    old, new = recalls(finished_template), recalls(changed)
    table = re.findall(r"^(\S.*?) +(\d+\.\d\d)% +(\d+\.\d\d)% +([+-]\d+\.\d\d)% +(\d+)$", text, re.MULTILINE)
    assert {row[0] for row in table} == set(old.index)
    for name, before, after, change, images in table:
        assert float(before) == pytest.approx(100 * old[name], abs=0.005)
        assert float(after) == pytest.approx(100 * new[name], abs=0.005)
        assert float(change) == pytest.approx(100 * (new[name] - old[name]), abs=0.006)
        assert images == "10"
    changes = [abs(float(row[3])) for row in table]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0
    as_json = json.loads(shown(changed.tool("compare", "models", "HEAD", "--json")))
    assert {row["name"]: row["a"] for row in as_json["classes"]} == pytest.approx(old.to_dict())


def test_compare_reads_revisions_experiments_and_workspace(changed: Project, tmp_path: Path) -> None:
    project = changed.copy(tmp_path / "project")
    (experiment,) = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/seed-3").stdout.split()
    for name, revision in (("seed-3", experiment), ("main", "HEAD")):
        recorded = json.loads(project.run("git", "show", f"{revision}:metrics/evaluate.json").stdout)["accuracy"]
        result = json.loads(project.tool("compare", "models", name, "workspace", "--json").stdout)
        assert result["a"]["accuracy"] == recorded
        assert result["b"]["accuracy"] == project.json("metrics/evaluate.json")["accuracy"] < recorded
        assert f"{name} is better than workspace" in project.tool("compare", "models", name).stdout
    failed = one_line(project.tool("compare", "models", "no-such-thing", status=1))
    assert "compare: error: no-such-thing: no metrics/predictions.csv" in failed
    failed = one_line(project.tool("compare", "models", "", status=2))
    assert failed == "compare: error: an empty revision; name a commit, an experiment, or workspace\n"
    project.write("metrics/predictions.csv", b"\xff\xfe no text")
    failed = one_line(project.tool("compare", "models", "main", status=1))
    assert failed.endswith("workspace: metrics/predictions.csv is not what `dvc repro evaluate` writes\n")


def test_clone_with_autocrlf_has_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    """As on Windows: a file whose line ends were changed would be another input, and rerun its stages."""
    other = tmp_path / "clone"
    finished.run("git", "-c", "core.autocrlf=true", "clone", "--quiet", str(finished.root), str(other))
    tracked = set(finished.run("git", "ls-files").stdout.splitlines())
    params = yaml_file.load(finished.read("params.yaml").decode())
    deps = {dep for stage in STAGES for dep in read_declaration(stage, params, finished.root / "dvc.yaml").deps}
    inputs = {os.path.relpath(path, finished.root) for path in files.digests(finished.root / dep for dep in deps)}
    compared = (inputs & tracked) | {"params.yaml", "dvc.yaml", "dvc.lock"}
    assert len(compared) > 40
    for path in compared:
        assert (other / path).read_bytes() == finished.read(path), path


def test_make_works_below_a_folder_with_an_odd_name(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "it's a $HOME; folder")
    assert "report: metrics/report.html" in shown(project.run(*MAKE, "metrics"))
    assert project.repro() == []


def test_a_moved_clone_makes_its_environment_anew(finished: Project, tmp_path: Path) -> None:
    """Programs of an environment name its folder. One that a link shares with another clone stays as it is."""

    def make_setup(made_for: Path | str) -> list[str]:
        """The files that are left of the environment; what is to be installed then does not exist."""
        (environment / "installed.folder").write_text(f"{made_for}\n")
        finished.run("make", "setup", status=2)
        return sorted(path.name for path in environment.glob("*.mine"))

    environment = finished.root / ".venv"
    venv.create(environment, with_pip=False, symlinks=True)
    (environment / "a.mine").touch()
    finished.write("requirements.lock", b"./missing.whl\n")
    assert make_setup(finished.root) == ["a.mine"]
    environment.rename(tmp_path / "shared")
    environment.symlink_to(tmp_path / "shared")
    assert make_setup("/other/clone") == ["a.mine"]
    environment.unlink()
    (tmp_path / "shared").rename(environment)
    assert make_setup("/old/clone") == []
    assert (environment / "bin/python").exists()


PICTURES = ("confusion", "f1", "reliability", "mistakes", "samples", "filters")


def plots(project: Project, command: str) -> str:
    """The page of DVC's plots."""
    return Path(project.dvc("plots", command).stdout.strip().removeprefix("file://")).read_text()


def test_make_plots_fetches_the_versions_that_the_page_of_dvc_names(changed: Project) -> None:
    versions = re.findall(r"/npm/(vega[a-z-]*@[\d.]+)", plots(changed, "show"))
    assert f"\nVEGA := {' '.join(versions)}\n" in (REPOSITORY / "Makefile").read_text()


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
        browser.driver.get(finished.dvc("plots", command).stdout.strip())
        browser.wait_until(lambda: len(browser.driver.find_elements(By.CSS_SELECTOR, "canvas, svg.marks")) == 4)
        assert browser.hosts() == set()


def test_metrics_and_plots_show_the_content_of_the_files(changed: Project) -> None:
    page, curve = plots(changed, "show"), changed.table("metrics/train/curves.csv")
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in page
    for column in ("train_loss", "val_loss", "train_acc", "val_acc"):
        for value in curve[column]:
            assert f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    for name in PICTURES:
        assert f"{name}.png" in page
    metrics = json.loads(changed.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert metrics["metrics/evaluate.json"]["data"] == changed.json("metrics/evaluate.json")
    compared = plots(changed, "diff")
    assert '"HEAD"' in compared
    assert '"workspace"' in compared
    changes = json.loads(changed.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0
