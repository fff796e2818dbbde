"""A search that is killed, or shared by several machines, ends as one that nobody disturbed."""

import contextlib
import json
import os
import random
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.errors import StageError
from classifier.experiments import recipes
from classifier.experiments.halving import Run
from classifier.experiments.snapshot import Snapshot, link
from classifier.runner import files
from tests.project import Project, kill_group, one_line, wait_for
from tests.support import dask, own
from tests.support.processes import ended, processes_in

import psutil
import pytest
from PIL import Image

PATIENCE = 240  # seconds
TABLES = ("metrics/search.csv", "metrics/search_confirmed.csv", "metrics/search.html")
SEARCH: dict[str, Any] = {
    "search.trials": 4,
    "search.trials_per_round": 2,
    "search.rungs": [1],
    "search.reduction_factor": 2,
    "search.confirm_seeds": 2,
    "train.epochs": 3,
    "search.space": {
        "train.optimizer": ["sgd", "adam"],
        "optimizers.sgd.lr": {"low": 0.001, "high": 0.02, "log": True},
        "optimizers.adam.lr": {"low": 0.0001, "high": 0.01, "log": True},
        "train.batch_size": [20, 40],
    },
}


@pytest.fixture(scope="module")
def searchable(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished project with a small search in params.yaml that is not committed."""
    project = finished_template.copy(tmp_path_factory.mktemp("searchable") / "project")
    project.set_all({"train.epochs": 3})
    project.repro()
    project.commit("three epochs")
    project.set_all(SEARCH)
    return project


@pytest.fixture(scope="module")
def undisturbed(searchable: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After a search that nobody disturbed; to look at only."""
    project = searchable.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    project.tool("search")
    return project


@pytest.fixture
def project(searchable: Project, tmp_path: Path) -> Project:
    return searchable.copy(tmp_path / "project")


def begin(project: Project, *words: str) -> "subprocess.Popen[str]":
    return project.start("python", "-m", "tools.search", *words)


def records(project: Project) -> int:
    return len([*project.root.glob("scratch/search-search/records/[!.]*.json")])


def trainings(project: Project) -> list[psutil.Process]:
    """The processes that train for a search."""
    return processes_in(project.root / "scratch/search-search/project", "stages")


def terminate(process: "subprocess.Popen[str]") -> None:
    """Stop a search as Ctrl-C and batch systems do."""
    process.terminate()
    assert "the same command goes on" in ended(process, 130)


def references(project: Project) -> dict[str, str]:
    """The experiments by name."""
    listed = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return {name.rpartition("/")[2]: name for name in listed}


def models(project: Project) -> dict[str, str]:
    """The digest of each experiment's model."""
    found = {}
    for name, reference in references(project).items():
        lock = yaml_file.load(project.run("git", "show", f"{reference}:dvc.lock").stdout)
        outs = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
        found[name] = outs["models/classifier.safetensors"]
    return found


def blank_test_images(project: Project) -> None:
    folder = project.test_images()
    for path in folder.rglob("*.png"):
        path.write_bytes(own.encode(Image.new("L", (28, 28)), "PNG"))
    files.remove(project.root / "data/test_images")
    folder.rename(project.root / "data/test_images")


def check_same(project: Project, undisturbed: Project) -> None:
    """The tables and the models."""
    for name in TABLES:
        assert project.read(name) == undisturbed.read(name), name
    assert models(project) == models(undisturbed)


@pytest.mark.experiments
def test_search_leaves_experiments_tables_and_the_workspace_as_it_was(
    searchable: Project, undisturbed: Project
) -> None:
    table = undisturbed.table(TABLES[0], dtype=str)
    assert len(table) == 4
    finished = table[table["outcome"] == "finished"]
    assert len(finished) == 2
    assert set(table["outcome"]) == {"finished", "stopped at 1"}
    best = f"{int(finished['trial'].iloc[0]):03}"
    prefix = undisturbed.table(TABLES[1])["experiment"].iloc[0].removesuffix("-best-0")
    names = (best, "best-0", "best-1", "base-0", "base-1")
    assert set(references(undisturbed)) == {f"{prefix}-{name}" for name in names}
    assert sorted(finished["val_acc_3"].astype(float), reverse=True) == [*finished["val_acc_3"].astype(float)]

    # Nothing of the person's has changed, and nothing is left behind.
    status = undisturbed.run("git", "status", "--porcelain").stdout.split("\n")
    assert {line[3:] for line in status if line} == {"search.yaml", *TABLES}
    for name in ("params.yaml", "dvc.lock", "models/classifier.safetensors", "metrics/evaluate.json"):
        assert undisturbed.read(name) == searchable.read(name)
    left = {path.name for path in (undisturbed.root / "scratch/search-search").iterdir()}
    assert left == {"records", "search.lock", "search.pid"}


@pytest.mark.experiments
def test_search_in_a_git_hook_leaves_stash_experiments_head_and_config(project: Project) -> None:
    """In a linked worktree git gives its hooks an absolute GIT_DIR, which every git in another folder would obey."""
    project.set(search__trials=2)
    project.edit("README.md", "#", "# My")
    project.run("git", "stash", "push", "--quiet", "README.md")
    head = project.run("git", "rev-parse", "HEAD").stdout.strip()
    project.run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine", head)
    show = ("git", "for-each-ref", "--format=%(refname) %(objectname)")
    before, config = project.run(*show).stdout.splitlines(), project.read(".git/config")

    project.environment["GIT_DIR"] = str(project.root / ".git")
    for _ in range(2):
        project.tool("search")
    del project.environment["GIT_DIR"]

    assert project.read(".git/HEAD") == b"ref: refs/heads/main\n"
    assert project.read(".git/config") == config
    after = project.run(*show).stdout.splitlines()
    assert set(before) <= set(after)
    added = {line.rpartition(" ")[0] for line in set(after) - set(before)}
    assert added
    assert all(name.startswith(f"refs/exps/{head[:2]}/{head[2:]}/search-") for name in added)


@pytest.mark.experiments
def test_search_that_is_done_says_it_again_and_its_experiments_can_be_applied(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = undisturbed.copy(tmp_path / "project")
    again = project.tool("search")
    assert "; 0 epochs to train" in again.stdout
    assert "fresh seeds" in again.stdout
    check_same(project, undisturbed)

    prefix = next(iter(references(project))).rpartition("-")[0].removesuffix("-best").removesuffix("-base")
    shown = project.dvc("exp", "show", "--csv").stdout
    assert "!" not in shown
    assert f"{prefix}-best-0" in shown
    project.run("git", "checkout", "--quiet", "params.yaml")
    project.dvc("exp", "apply", f"{prefix}-best-0")
    assert project.repro() == []
    accuracy = project.json("metrics/train.json")["val_acc"]
    confirmed = project.table(TABLES[1], dtype={"val_acc": float})
    assert accuracy == confirmed["val_acc"].iloc[0]

    # Of a trial that was only trained, the other stages run after all.
    project.dvc("exp", "apply", f"{prefix}-{project.table(TABLES[0])['trial'].iloc[0]:03}")
    assert project.json("metrics/evaluate.json") == {}
    assert project.repro() == ["evaluate", "export", "report"]

    # Another search is refused; --restart begins it.
    project.set(train__batch_size=50)
    refused = one_line(project.tool("search", status=2))
    assert "train.batch_size" in refused
    assert "changed since this search began" in refused


@pytest.mark.kills
def test_search_killed_at_random_ends_with_the_same_tables_and_models(project: Project, undisturbed: Project) -> None:
    """With two runs at a time, and without test images: what they show must not matter."""
    blank_test_images(project)
    draw = random.Random(os.environ.get("CHAOS_SEED"))

    def kill_training(process: "subprocess.Popen[str]") -> None:
        wait_for(lambda: trainings(project), PATIENCE, amid=process)
        for training in trainings(project):
            training.kill()
        terminate(process)

    for after, kill in ((0, kill_group), (3, terminate), (4, kill_training), (5, subprocess.Popen.kill)):
        process = begin(project, "--jobs", "2")
        wait_for(lambda after=after: records(project) > after, PATIENCE, amid=process)  # type: ignore[misc]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, 2))
        assert process.poll() is None, process.communicate()
        kill(process)
        process.wait(60)
        wait_for(lambda: not trainings(project))  # they end with the process that reads their answers
    process = begin(project, "--jobs", "2")
    wait_for((project.root / "scratch/search-search/clone").exists, PATIENCE, amid=process)
    kill_group(process)  # while DVC makes an experiment
    done = project.tool("search", "--jobs", "2")
    assert "going on: " in done.stdout
    assert "; 0 epochs to train" in done.stdout
    check_same(project, undisturbed)


@pytest.mark.kills
def test_dask_workers_share_a_search_and_one_is_killed_and_the_driver_too(
    project: Project, undisturbed: Project, tmp_path: Path
) -> None:
    file = tmp_path / "scheduler.json"
    command = [*dask.worker(file), "--local-directory", str(tmp_path / "dask")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.scheduler(project, file))
        address = json.loads(file.read_text())["address"]
        first = stack.enter_context(dask.program(project, *command))
        driver = begin(project, "--scheduler", address)
        wait_for(lambda: records(project) > 1 and trainings(project), PATIENCE, amid=driver)
        kill_group(driver)
        driver = begin(project, "--scheduler", str(file))
        wait_for(lambda: trainings(project), PATIENCE, amid=driver)
        dask.kill(first)
        stack.enter_context(dask.program(project, *command))
        ended(driver, 0, 2 * PATIENCE)
    check_same(project, undisturbed)


@pytest.mark.experiments
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a folder from a process")
def test_worker_without_the_disk_trains_in_its_own_clone_if_that_is_the_same(
    project: Project, undisturbed: Project, tmp_path: Path
) -> None:
    other = project.copy(tmp_path / "other/project")
    other.set(train__epochs=2)
    other.edit("classifier/train/losses.py", '"""', '"""Other. ')
    other.environment["PYTHONPATH"] = str(other.root)
    with dask.scheduler(project, tmp_path / "scheduler.json") as file:
        hidden = f"mount -t tmpfs none {project.root} && exec {shlex.join(dask.worker(file))}"
        words = ("unshare", "--mount", "sh", "-c", f"{hidden} --local-directory {tmp_path}")
        with dask.program(other, *words):
            refused = one_line(project.tool("search", "--scheduler", str(file), status=1))
            assert f"in {other.root}: another train.epochs, classifier/train/losses.py;" in refused
        other.run("git", "checkout", "--quiet", "classifier", "params.yaml")
        with dask.program(other, *words):
            project.tool("search", "--scheduler", str(file))
    check_same(project, undisturbed)
    assert [*other.root.glob("scratch/search-search/runs/trial-*")]


@pytest.mark.experiments
def test_scheduler_that_is_gone_is_one_line_and_nothing_is_lost(project: Project, tmp_path: Path) -> None:
    failed = one_line(project.tool("search", "--scheduler", "tcp://127.0.0.1:1", status=1))
    assert failed.startswith("search: error: the scheduler tcp://127.0.0.1:1: ")
    with dask.scheduler(project, tmp_path / "scheduler.json") as file:
        driver = begin(project, "--scheduler", str(file))
        assert driver.stdout
        assert driver.stdout.readline().startswith("search: 4 trials")
        assert "waiting for workers" in driver.stdout.readline()
    errors = ended(driver, 1, PATIENCE)
    assert errors.startswith(f"search: error: the scheduler {file}: ")
    assert errors.count("\n") == 1


@pytest.mark.experiments
def test_recipes_are_compared_on_folds_and_runs_are_reused(project: Project) -> None:
    words = ("recipes", "-S", "optimizers.sgd.lr=0.0001", "--seeds", "1", "--folds")
    first = project.tool("compare", *words, "2")
    assert "4 trainings, 4 to do" in first.stdout
    again = project.tool("compare", *words, "2")
    assert "4 trainings, 0 to do" in again.stdout
    assert again.stdout.partition("validation")[2] == first.stdout.partition("validation")[2] != ""
    more = project.tool("compare", *words, "3")
    assert "6 trainings, 2 to do" in more.stdout
    assert "b is better than a" in more.stdout
    assert references(project) == {}
    assert project.run("git", "status", "--porcelain").stdout == " M search.yaml\n"
    assert (project.root / "scratch/compare-recipes/records").is_dir()


def test_recipes_are_trained_with_params_and_code_as_they_are_now(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Path] = []

    def interrupted(runs: Sequence[Run], snapshot: Snapshot, jobs: int) -> None:
        copies.append(snapshot.project)
        raise StageError("interrupted")

    monkeypatch.setattr(recipes, "train", interrupted)
    (finished.root / "classifier/train/new.py").write_text("")
    for epochs in (4, 5):
        finished.set(train__epochs=epochs)
        finished.tool("compare", "recipes", "-S", "train.batch_size=50", status=1)
    old, new = ((copy / "params.yaml").read_bytes() for copy in copies)
    assert old != new == finished.read("params.yaml")
    assert (copies[1] / "classifier/train/new.py").exists()
    refused = finished.tool("compare", "recipes", "-S", "train.initial_checkpoint=some.safetensors", status=2)
    assert "train.initial_checkpoint: must be the same for both recipes; it is 'some.safetensors'" in refused.stderr


def test_link_leaves_other_names_of_a_file_alone(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for source, target in (("first", "a"), ("first", "b"), ("first", "b"), ("second", "b")):
        link(["file"], tmp_path / source, tmp_path / target)
    assert [(tmp_path / name / "file").read_text() for name in ("a", "b")] == ["first", "second"]


@pytest.mark.experiments
def test_recipes_with_uncommitted_changes_are_compared_in_a_shallow_clone(
    finished_template: Project, tmp_path: Path
) -> None:
    project = Project(tmp_path / "shallow", finished_template.raw)
    finished_template.run("git", "clone", "--quiet", "--depth", "1", finished_template.root.as_uri(), str(project.root))
    project.dvc("cache", "dir", "--local", str(finished_template.root / ".dvc/cache"))
    project.dvc("checkout", "--quiet")
    project.set(train__epochs=1)
    done = project.tool("compare", "recipes", "-S", "train.batch_size=50", "--folds", "1")
    assert "difference: " in done.stdout
