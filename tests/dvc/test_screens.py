"""What DVC and the tools show of a finished run and a change: it is complete, and fits a screen of 120 columns."""

import json
import os
import re
import venv
from pathlib import Path

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from tests.project import STAGES, Project, one_line

import pandas as pd
import pytest

COLUMNS = 120
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


def shown(project: Project, *command: str) -> str:
    match command:
        case "dvc", *words:
            done = project.dvc(*words)
        case "compare", *words:
            done = project.tool("compare", *words)
        case _:
            done = project.run(*command)
    assert done.stderr == ""
    return done.stdout


def fits(text: str) -> None:
    lines = text.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= COLUMNS, max(lines, key=len)


def test_metrics_show_fits_and_has_every_figure(changed: Project) -> None:
    text = shown(changed, "dvc", "metrics", "show")
    fits(text)
    for name in FIGURES:
        assert re.search(rf"\b{name}\b", text), name


def test_metrics_diff_fits_and_tells_the_change(changed: Project) -> None:
    text = shown(changed, "dvc", "metrics", "diff")
    fits(text)
    before = json.loads(changed.run("git", "show", "HEAD:metrics/evaluate.json").stdout)
    after = changed.json("metrics/evaluate.json")
    (row,) = re.findall(r"metrics/evaluate\.json +loss +(\S+) +(\S+) +(\S+)", text)
    assert [float(value) for value in row[:2]] == pytest.approx([before["loss"], after["loss"]], abs=1e-5)
    assert float(row[2]) == pytest.approx(after["loss"] - before["loss"], abs=2e-5)


def test_params_diff_fits_and_tells_the_change(changed: Project) -> None:
    text = shown(changed, "dvc", "params", "diff")
    fits(text)
    rows = set(re.findall(r"^params\.yaml +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE))
    assert rows == {("train.epochs", "6", "1"), ("optimizers.sgd.lr", "0.05", "0.002")}


def test_make_experiments_fits_and_has_the_figures(changed: Project) -> None:
    words = ("-o", "setup", "PYTHON=false")  # never set up: the environment belongs to another clone
    text = shown(changed, "make", "--no-print-directory", "--silent", *words, "experiments")
    fits(text)
    assert "seed-3" in text
    for name in ("accuracy", "loss", "val_acc", "val_loss", "train.seed"):
        assert re.search(rf"\b{re.escape(name)}\b", text), name


def test_exp_show_begins_with_every_figure(changed: Project) -> None:
    """It has a column for each param and cannot be told not to; what people compare must come first."""
    lines = shown(changed, "dvc", "exp", "show", "--no-pager").splitlines()
    head = next(line for line in lines if "Experiment" in line)[:COLUMNS]
    names = set(re.findall(r"\w+", head))
    assert names >= set(FIGURES), sorted(set(FIGURES) - names)


def test_compare_by_class_lists_recalls_the_largest_change_first(changed: Project) -> None:
    text = shown(changed, "compare", "models", "HEAD", "--by-class")
    fits(text)
    (changed.root / "scratch").mkdir(exist_ok=True)
    old = changed.root / "scratch/old.csv"
    changed.dvc("get", ".", "metrics/predictions.csv", "--rev", "HEAD", "--out", str(old), "--force")
    recalls = [
        (rows["label"] == rows["predicted"]).groupby(rows["label"]).mean()
        for rows in map(pd.read_csv, (old, changed.root / "metrics/predictions.csv"))
    ]
    table = re.findall(r"^(\S.*?) +(\d+\.\d\d)% +(\d+\.\d\d)% +([+-]\d+\.\d\d)% +(\d+)$", text, re.MULTILINE)
    assert {row[0] for row in table} == set(recalls[0].index)
    for name, before, after, change, images in table:
        assert float(before) == pytest.approx(100 * recalls[0][name], abs=0.005)
        assert float(after) == pytest.approx(100 * recalls[1][name], abs=0.005)
        assert float(change) == pytest.approx(100 * (recalls[1][name] - recalls[0][name]), abs=0.006)
        assert images == "10"
    changes = [abs(float(row[3])) for row in table]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0
    as_json = json.loads(shown(changed, "compare", "models", "HEAD", "--json"))
    assert {row["name"]: row["a"] for row in as_json["classes"]} == pytest.approx(recalls[0].to_dict())


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
    text = shown(project, "make", "--no-print-directory", "--silent", "-o", "setup", "PYTHON=false", "metrics")
    assert "report: metrics/report.html" in text
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


def test_metrics_and_plots_show_the_content_of_the_files(changed: Project) -> None:
    page = Path(changed.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Recall by class", "Confusion matrix"):
        assert title in page
    curve = changed.table("metrics/train/curves.csv")
    for column in ("train_loss", "val_loss", "train_acc", "val_acc"):
        for value in curve[column]:
            assert f'"{value}"' in page or f"{value}" in page, (column, value)
    assert page.count("vegaEmbed(") == 4  # and no picture that nobody asked for
    for name in PICTURES:
        assert f"{name}.png" in page
    metrics = json.loads(changed.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert metrics["metrics/evaluate.json"]["data"] == changed.json("metrics/evaluate.json")
    compared = Path(changed.dvc("plots", "diff").stdout.strip().removeprefix("file://")).read_text()
    assert '"HEAD"' in compared
    assert '"workspace"' in compared
    changes = json.loads(changed.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0
