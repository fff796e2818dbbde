"""A search that is killed, or shared by two machines, ends as one that nobody disturbed."""

import contextlib
import io
import json
import os
import random
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from classifier import yaml_file
from tests.project import Project, kill_group, wait_for
from tests.support import forking
from tests.support.postgres import postgres

import pandas as pd
import psycopg
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
    project.run("python", "-m", "tools.search")
    return project


def begin(project: Project, *words: str) -> "subprocess.Popen[str]":
    """Start a search, whose programs are forked from the server, as the leader of a process group."""
    path = os.pathsep.join([*(str(folder) for folder in [forking.programs()] if folder), project.environment["PATH"]])
    return subprocess.Popen(
        ["python", "-m", "tools.search", *words],
        cwd=project.root, env={**project.environment, "PATH": path}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def records(project: Project) -> int:
    return len([*project.root.glob("scratch/search-search/records/[!.]*.json")])


def reached(project: Project, number: int) -> bool:
    """Whether so many runs have a record, or an experiment is about to be made, where DVC hides files in a stash."""
    return records(project) > number or any(project.root.glob("scratch/search-search/trial-*/scratch/kept"))


def terminate(process: "subprocess.Popen[str]") -> None:
    """Stop a search as Ctrl-C and batch systems do."""
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "the same command goes on" in output


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
    path = project.root / "data/test_images.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    black = io.BytesIO()
    Image.new("L", (28, 28)).save(black, "PNG")
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, black.getvalue())


def check_same(project: Project, undisturbed: Project) -> None:
    for name in TABLES:
        assert project.read(name) == undisturbed.read(name), name


@pytest.mark.experiments
def test_search_leaves_experiments_tables_and_the_workspace_as_it_was(
    searchable: Project, undisturbed: Project
) -> None:
    table = pd.read_csv(undisturbed.root / TABLES[0], dtype=str)
    assert len(table) == 4
    finished = table[table["outcome"] == "finished"]
    assert len(finished) == 2
    assert set(table["outcome"]) == {"finished", "stopped at 1"}
    best = finished["experiment"].iloc[0]
    prefix = best.rpartition("-")[0]
    assert set(references(undisturbed)) == {
        *finished["experiment"], *(f"{prefix}-{which}-{place}" for which in ("best", "base") for place in range(2))
    }  # fmt: skip
    assert sorted(finished["val_acc_3"].astype(float), reverse=True) == [*finished["val_acc_3"].astype(float)]

    # Nothing of the person's has changed, and nothing is left behind.
    status = undisturbed.run("git", "status", "--porcelain").stdout.split("\n")
    assert {line[3:] for line in status if line} == {"search.yaml", *TABLES}
    for name in ("params.yaml", "dvc.lock", "models/classifier.safetensors", "metrics/evaluate.json"):
        assert undisturbed.read(name) == searchable.read(name)
    assert {path.name for path in (undisturbed.root / "scratch/search-search").iterdir()} == {"records", "claims"}
    assert undisturbed.run("git", "for-each-ref", "refs/runs").stdout == ""


@pytest.mark.experiments
def test_search_in_a_git_hook_leaves_stash_experiments_head_and_config(searchable: Project, tmp_path: Path) -> None:
    """In a linked worktree git gives its hooks an absolute GIT_DIR, which every git in another folder would obey."""
    project = searchable.copy(tmp_path / "project")
    project.set(search__trials=2)
    project.edit("README.md", "#", "# My")
    project.run("git", "stash", "push", "--quiet", "README.md")
    head = project.run("git", "rev-parse", "HEAD").stdout.strip()
    project.run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine", head)
    show = ("git", "for-each-ref", "--format=%(refname) %(objectname)")
    before, config = project.run(*show).stdout.splitlines(), project.read(".git/config")

    project.environment["GIT_DIR"] = str(project.root / ".git")
    for _ in range(2):
        project.run("python", "-m", "tools.search")
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
    again = project.run("python", "-m", "tools.search")
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
    accuracy = json.loads(project.read("metrics/train.json"))["val_acc"]
    confirmed = pd.read_csv(project.root / TABLES[1], dtype={"val_acc": float})
    assert accuracy == confirmed["val_acc"].iloc[0]

    # Of a trial that was only trained, the other stages run after all.
    trial = pd.read_csv(project.root / TABLES[0])["experiment"].iloc[0]
    project.dvc("exp", "apply", trial)
    assert json.loads(project.read("metrics/evaluate.json")) == {}
    assert project.repro() == ["evaluate", "export", "report"]

    # Another search is refused; --restart begins it.
    project.set(train__batch_size=50)
    refused = project.run("python", "-m", "tools.search", status=2)
    assert "train.batch_size" in refused.stderr
    assert "changed since this search began" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.kills
def test_search_killed_at_random_ends_with_the_same_tables_and_models(
    searchable: Project, undisturbed: Project, tmp_path: Path
) -> None:
    """With two runs at a time, and without test images: what they show must not matter."""
    project = searchable.copy(tmp_path / "project")
    blank_test_images(project)
    draw = random.Random(os.environ.get("CHAOS_SEED"))
    for after, kill in ((0, kill_group), (3, terminate), (4, subprocess.Popen.kill)):
        process = begin(project, "--jobs", "2")
        wait_for(lambda after=after, process=process: reached(project, after) or process.poll() is not None, PATIENCE)  # type: ignore[misc]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, 2))
        assert not process.poll(), process.communicate()[0]
        kill(process)
        process.wait(60)
    for clone in project.root.glob("scratch/search-search/trial-*"):
        (clone / ".git/index.lock").touch()  # what a killed git leaves
    done = project.run("python", "-m", "tools.search", "--jobs", "2")
    assert "going on: " in done.stdout
    check_same(project, undisturbed)
    assert models(project) == models(undisturbed)


@pytest.mark.experiments
def test_two_machines_share_a_search_and_one_is_killed(
    searchable: Project, undisturbed: Project, tmp_path: Path
) -> None:
    hub = tmp_path / "hub.git"
    searchable.run("git", "clone", "--quiet", "--bare", ".", str(hub))
    clones = []
    with postgres() as urls:
        for name in ("a", "b"):
            project = searchable.copy(tmp_path / name)
            project.run("git", "remote", "add", "origin", str(hub))
            project.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
            clones.append(project)
        a, b = clones
        first = begin(b, "--storage", urls[1])
        wait_for(lambda: any(b.root.glob("scratch/search-search/trial-*")) or first.poll() is not None, PATIENCE)
        second = begin(a, "--storage", urls[0])
        wait_for(lambda: any(a.root.glob("scratch/search-search/trial-*")) or second.poll() is not None, PATIENCE)
        kill_group(first)
        output, _ = second.communicate(timeout=2 * PATIENCE)
        assert second.returncode == 0, output
        check_same(a, undisturbed)
        with psycopg.connect(urls[0]) as connection:
            (held,) = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() or (1,)
            (kept,) = connection.execute("SELECT count(*) FROM search_records").fetchone() or (0,)
        assert held == 0, "something is still called running"
        assert kept == 1 + 4 + 2 + 4  # settings, trials at both rungs, fresh seeds

    assert not set(references(a)) & set(references(b)), "a run was done twice"
    assert {**models(a), **models(b)} == models(undisturbed)
    for project in clones:
        project.dvc("exp", "push", "origin") if references(project) else None
    third = Project(tmp_path / "third", searchable.raw)
    searchable.run("git", "clone", "--quiet", str(hub), str(third.root))
    third.dvc("remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    third.dvc("exp", "pull", "origin")
    assert set(references(third)) == set(references(undisturbed))


@pytest.mark.experiments
def test_storage_that_is_not_reachable_is_one_line(searchable: Project, tmp_path: Path) -> None:
    project = searchable.copy(tmp_path / "project")
    failed = project.run(
        "python", "-m", "tools.search", "--storage", "postgresql://me:secret@127.0.0.1:1/none", status=1
    )
    assert "the storage postgresql://127.0.0.1:1/none cannot be used" in failed.stderr
    assert "secret" not in failed.stderr
    assert failed.stderr.count("\n") == 1
    failed = project.run("python", "-m", "tools.search", "--storage", "sqlite:///x", status=2)
    assert "--storage: must be a postgresql:// URL" in failed.stderr


@pytest.mark.experiments
def test_recipes_are_compared_on_folds_and_runs_are_reused(searchable: Project, tmp_path: Path) -> None:
    project = searchable.copy(tmp_path / "project")
    command = (
        "python",
        "-m",
        "tools.compare",
        "recipes",
        "-S",
        "optimizers.sgd.lr=0.0001",
        "--folds",
        "2",
        "--seeds",
        "1",
    )
    first = project.run(*command)
    assert "4 trainings, 4 to do" in first.stdout
    names = sorted(references(project))
    assert len(names) == 4
    assert len({name.split("-")[1] for name in names}) == 2
    again = project.run(*command)
    assert "4 trainings, 0 to do" in again.stdout
    assert again.stdout.partition("validation")[2] == first.stdout.partition("validation")[2] != ""
    # The experiments alone are enough, as in another clone that has pulled them.
    project.run("rm", "-r", "scratch/compare-recipes")
    more = project.run(*command[:-3], "3", "--seeds", "1")
    assert "6 trainings, 2 to do" in more.stdout
    assert "b is better than a" in more.stdout
    # An experiment that has the name of a run only is not taken for it.
    by_name = references(project)
    project.run("git", "update-ref", by_name[names[0]], by_name[names[1]])
    project.run("rm", "-r", "scratch/compare-recipes")
    refused = project.run(*command, status=1).stderr
    key = "annotate.validation_fold"
    assert refused.endswith(f"the experiment {names[0]} ran with another {key}; rename or remove it\n")


@pytest.mark.experiments
def test_recipes_with_uncommitted_changes_are_compared_in_a_shallow_clone(
    finished_template: Project, tmp_path: Path
) -> None:
    project = Project(tmp_path / "shallow", finished_template.raw)
    finished_template.run("git", "clone", "--quiet", "--depth", "1", finished_template.root.as_uri(), str(project.root))
    project.dvc("cache", "dir", "--local", str(finished_template.root / ".dvc/cache"))
    project.dvc("checkout", "--quiet")
    project.set(train__epochs=1)
    done = project.run("python", "-m", "tools.compare", "recipes", "-S", "train.batch_size=50", "--folds", "1")
    assert "difference: " in done.stdout
    assert len(references(project)) == 4
