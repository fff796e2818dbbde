"""train in several processes: the curve of one, the same bytes each time and way, no process left, refusals."""

import io
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from classifier.runner import files
from tests.project import Project, kill_group, wait_for
from tests.support.processes import ended, processes_in
from tests.support.recipes import LONG, checkpoints

import numpy as np
import pandas as pd
import psutil
import pytest

pytestmark = pytest.mark.distributed
MODEL, CURVE = "models/classifier.safetensors", "metrics/train/curves.csv"
BY_PARAM = ("python", "-m", "stages.train")
BY_LAUNCHER = ("torchrun", "--nproc-per-node", "2", "-m", "stages.train")
Results = dict[int, tuple[bytes, pd.DataFrame]]  # model and curve by the number of processes

# Neither the batches (50 images) nor the last of them (10) divide by 4, so shares are unequal.
UNEQUAL = {"compute.portable": False, "train.batch_size": 50, "train.ema_decay": 0.9, "train.clip_grad_norm": 1.0}


@pytest.fixture(scope="module")
def template(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = finished_template.copy(tmp_path_factory.mktemp("processes") / "project")
    project.set_all(UNEQUAL)
    return project


@pytest.fixture(scope="module")
def results(template: Project) -> Results:
    found = {}
    for count in (1, 2, 4):
        template.set(train__world_size=count)
        output = template.stage("train").stdout
        assert (f"cpu, {count} processes" in output) == (count > 1)
        found[count] = template.read(MODEL), pd.read_csv(io.BytesIO(template.read(CURVE)))
    return found


@pytest.fixture
def project(template: Project, tmp_path: Path) -> Project:
    copy = template.copy(tmp_path / "project")
    copy.set(train__world_size=2)
    return copy


def two_nodes(project: Project, tmp_path: Path, change: dict[str, Any]) -> tuple[list[Project], list[tuple[int, str]]]:
    """Train on two nodes, each with its own folder and address, as a person types it; status and errors of each."""
    nodes = [project, project.copy(tmp_path / "second node")]
    nodes[1].set_all(change)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = f"torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --rdzv-id 1"
    started = []
    for number, node in enumerate(nodes, start=1):
        started.append(node.start(*words.split(), "--local-addr", f"127.0.0.{number}", "-m", "stages.train"))
        if number == 1:  # the node that is there first has rank 0
            wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    errors = [process.communicate(timeout=120)[1] for process in started]
    return nodes, [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


def trainers(project: Project) -> list[psutil.Process]:
    return processes_in(project.root, "stages.train")


def start(project: Project, *command: str, processes: int = 2) -> "subprocess.Popen[str]":
    """Start a run that does not end by itself, and wait until it is amid its steps."""
    project.set_all({**LONG, "train.epochs": 100_000, "train.world_size": processes})
    process = project.start(*command)
    wait_for(lambda: checkpoints(project), amid=process)
    return process


def test_ddp_curve_equals_one_process(results: Results) -> None:
    for count in (2, 4):
        np.testing.assert_allclose(results[count][1], results[1][1], rtol=0, atol=1e-4)
        assert results[count][0] != results[1][0]  # sums of another order; equal: nothing was shared


def test_torchrun_writes_the_same_bytes_as_the_param(project: Project, results: Results) -> None:
    project.run(*BY_LAUNCHER)
    assert project.read(MODEL) == results[2][0]
    assert not checkpoints(project)
    project.dvc("commit", "--force", "train")  # as docs/distributed.md says
    assert project.repro() == ["evaluate", "export", "report"]


def test_ddp_two_nodes_give_the_same_bytes_and_one_writes(project: Project, results: Results, tmp_path: Path) -> None:
    (project.root / MODEL).unlink()
    nodes, outcomes = two_nodes(project, tmp_path, {})
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    (writer,) = [node for node in nodes if (node.root / MODEL).exists()]
    assert writer.read(MODEL) == results[2][0]


def test_ddp_node_that_differs_is_refused(project: Project, tmp_path: Path) -> None:
    (project.root / MODEL).unlink()
    nodes, outcomes = two_nodes(project, tmp_path, {"train.seed": 5})
    assert all(status for status, _ in outcomes)
    errors = [line for _, text in outcomes for line in text.splitlines() if line.startswith("train: error")]
    assert len(errors) == 1
    assert "rank 1 has other params, inputs, code, versions or processor than rank 0" in errors[0]
    assert not any((node.root / MODEL).exists() for node in nodes)


def test_ddp_more_processes_than_images_of_a_batch_is_one_line(project: Project) -> None:
    project.set(train__world_size=11)
    errors = project.run(*BY_PARAM, status=2).stderr
    assert "leaves a last batch of 9 for 11 processes" in errors
    assert errors.count("train: error") == 1
    assert not (project.root / MODEL).exists()
    assert not trainers(project)


@pytest.mark.parametrize(
    ("command", "victim", "signum", "status", "says"),
    [
        (BY_PARAM, "rank 1", signal.SIGKILL, 1, "train: error: rank 1 of 2 was killed by SIGKILL; step "),
        (BY_PARAM, "rank 0", signal.SIGKILL, -9, ""),
        (BY_PARAM, "group", signal.SIGHUP, 129, "train: warning: stopped by SIGHUP; step "),
        (BY_PARAM, "rank 0", signal.SIGTERM, 143, "train: warning: stopped by SIGTERM; step "),
        (("dvc", "repro", "train"), "parent", signal.SIGKILL, -9, "`dvc` that started this stage is gone; step "),
        (BY_LAUNCHER, "rank 1", signal.SIGKILL, 1, "train: error: another process is gone; step "),
        (BY_LAUNCHER, "parent", signal.SIGKILL, -9, "train: "),
    ],
)
def test_ddp_any_rank_dies_all_exit(
    project: Project, command: tuple[str, ...], victim: str, signum: signal.Signals, status: int, says: str
) -> None:
    process = start(project, *command)
    if victim == "parent":
        process.kill()
    elif victim == "group":
        kill_group(process, signum)
    else:
        ranks = {each.environ().get("RANK", "0"): each for each in trainers(project) if each.pid != process.pid}
        (ranks.get(victim[-1]) or psutil.Process(process.pid)).send_signal(signum)
    errors = ended(process, status)
    assert says in errors
    assert errors.count("train: ") == bool(says)
    wait_for(lambda: not trainers(project), 10)
    assert not (project.root / MODEL).exists()


def test_ddp_killed_ends_with_the_same_bytes(project: Project, tmp_path: Path) -> None:
    project.set_all({**LONG, "train.epochs": 3, "train.world_size": 3, "train.batch_size": 40})
    reference = project.copy(tmp_path / "reference")
    reference.stage("train")
    process = project.start(*BY_PARAM)
    wait_for(lambda: any(project.root.glob("scratch/train-*/older.pt")))
    time.sleep(0.1)
    kill_group(process)
    wait_for(lambda: not trainers(project), 10)
    state = project.copy(tmp_path / "another number")
    assert "train: resuming at step" in project.stage("train").stdout
    assert project.read(MODEL) == reference.read(MODEL)
    state.set(train__world_size=2)
    assert "resuming" not in state.stage("train").stdout


@pytest.mark.parametrize(
    ("changes", "missing", "says", "times"),
    [
        (
            {"train.world_size": 3}, "",
            "train.world_size: is 3, but the launcher started 2 processes; they must be equal", 2,
        ),
        ({"train.epochs": "six"}, "", "params.yaml: train.epochs: must be a valid integer", 1),
        (
            {"train.world_size": 2}, "data/images",
            "data/images is missing; `dvc repro train` makes what this stage needs", 1,
        ),
    ],
    ids=["another size", "bad params", "missing input"],
)  # fmt: skip
def test_launched_run_is_refused_with_one_line(
    finished: Project, changes: dict[str, Any], missing: str, says: str, times: int
) -> None:
    """Rank 0 speaks, whichever rank comes first."""
    finished.set_all(changes)
    if missing:
        files.remove(finished.root / missing)
    for _ in range(times):
        errors = finished.run(*BY_LAUNCHER, status=1).stderr
        (line,) = [line for line in errors.splitlines() if "train: error" in line]
        assert line.startswith(f"train: error: {says}")
        assert errors.count("Traceback (most recent call last)") == 1, "torchrun has one of its own"
        assert 'stages/train.py", line' not in errors
    assert (finished.root / MODEL).exists() == ("train.epochs" in changes)  # that of the run before


@pytest.mark.parametrize("rank", ["1", ""])
def test_rank_left_in_the_shell_changes_nothing(finished: Project, rank: str) -> None:
    before = finished.read(MODEL)
    finished.environment["RANK"] = rank
    finished.stage("train")
    assert finished.read(MODEL) == before
