"""A real Slurm of two nodes: preempted and requeued jobs, one training on both nodes, workers of one search."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project, wait_for
from tests.support.dask import scheduler, worker
from tests.support.recipes import LONG, checkpoints
from tests.support.slurm import slurm

import pytest

MODEL = "models/classifier.safetensors"
PATIENCE = 240  # seconds; Slurm itself waits between its steps


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The variable that the commands of a running cluster need."""
    with slurm() as environment:
        yield environment


class Jobs:
    """What a person types in a project on a cluster."""

    def __init__(self, project: Project, cluster: dict[str, str]):
        self.project = project
        project.environment |= cluster

    def submit(self, *words: str) -> str:
        return self.project.run("sbatch", "--parsable", *words).stdout.strip()

    def shown(self, job: str, field: str) -> list[str]:
        """A field of each task of an array, or of the one job."""
        return re.findall(rf"{field}=(\w+)", self.project.run("scontrol", "show", "job", job).stdout)

    def state(self, job: str) -> str:
        """``RUNNING 1``: the state, and how often it was begun again."""
        return f"{self.shown(job, 'JobState')[0]} {self.shown(job, 'Restarts')[0]}"

    def states(self, job: str) -> set[str]:
        """Of all tasks of an array; COMPLETED, once all are."""
        return {*self.shown(job, "JobState")} - {"COMPLETED"} or {"COMPLETED"}


@pytest.mark.kills
def test_preempted_and_requeued_job_ends_with_the_same_weights(
    finished: Project, cluster: dict[str, str], tmp_path: Path
) -> None:
    finished.set_all({**LONG, "train.epochs": 60})
    undisturbed = finished.copy(tmp_path / "undisturbed")
    undisturbed.set(runtime__checkpoint_seconds=1000)
    undisturbed.stage("train")
    jobs = Jobs(finished, cluster)
    job = jobs.submit("--exclusive", "--output=slurm.log", "examples/slurm.sbatch", "python", "-m", "stages.train")
    wait_for(lambda: checkpoints(finished) or jobs.state(job).startswith(("FAILED", "COMPLETED")), PATIENCE)
    assert jobs.state(job) == "RUNNING 0", finished.read("slurm.log").decode()
    urgent = jobs.submit("--exclusive", "--nodes=2", "--partition=high", "--output=/dev/null", "--wrap", "true")
    wait_for(lambda: jobs.state(urgent).startswith("COMPLETED"), PATIENCE, pause=0.2)
    wait_for(lambda: finished.read("slurm.log").count(b"resuming at step") == 1, PATIENCE)
    # What Slurm sends before the time limit, by --signal=B:TERM@120.
    finished.run("scancel", "--batch", "--signal=TERM", job)
    wait_for(lambda: jobs.state(job) == "COMPLETED 2", PATIENCE, pause=0.2)
    log = finished.read("slurm.log").decode()
    assert log.count("stopped by SIGTERM") == 2
    assert log.count("resuming at step") == 2
    assert finished.read(MODEL) == undisturbed.read(MODEL)


@pytest.mark.distributed
def test_torchrun_on_two_nodes_gives_the_weights_of_two_processes(
    finished: Project, cluster: dict[str, str], tmp_path: Path
) -> None:
    """The nodes share the folder, as those of a cluster do."""
    finished.set_all({"compute.portable": False, "train.world_size": 2, "runtime.threads": 1})
    one_machine = finished.copy(tmp_path / "one-machine")
    one_machine.stage("train")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = "torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id 1 --local-addr 127.0.0.1"
    words = (*launch.split(), "--rdzv-endpoint", f"127.0.0.1:{port}", "-m", "stages.train")
    jobs = Jobs(finished, cluster)
    options = ("--nodes=2", "--ntasks-per-node=1", "--output=slurm.log")
    job = jobs.submit(*options, "examples/slurm.sbatch", "srun", *words)
    wait_for(lambda: jobs.states(job) & {"COMPLETED", "FAILED"}, PATIENCE, pause=0.3)
    log = finished.read("slurm.log").decode()
    assert jobs.states(job) == {"COMPLETED"}, log
    assert finished.read(MODEL) == one_machine.read(MODEL)
    assert log.count("train: wrote ") == 1


@pytest.mark.experiments
def test_workers_in_an_array_of_jobs_share_a_search(finished: Project, cluster: dict[str, str], tmp_path: Path) -> None:
    finished.set(search__trials=2, search__trials_per_round=2, search__rungs=[1], search__confirm_seeds=2)
    finished.set(search__space={"optimizers.sgd.lr": {"low": 0.001, "high": 0.02, "log": True}}, train__epochs=2)
    alone = finished.copy(tmp_path / "alone")
    alone.tool("search")
    jobs = Jobs(finished, cluster)
    with scheduler(finished, tmp_path / "scheduler.json") as file:
        words = ["examples/slurm.sbatch", *worker(file), "--local-directory", str(tmp_path), "--death-timeout", "20"]
        job = jobs.submit("--array=0-1", "--output=slurm-%a.log", *words)
        wait_for(lambda: jobs.states(job) == {"RUNNING"}, PATIENCE)
        finished.tool("search", "--scheduler", str(file))
    wait_for(lambda: not {"RUNNING", "PENDING"} & jobs.states(job), PATIENCE, pause=0.3)
    for name in ("metrics/search.csv", "metrics/search_confirmed.csv", "metrics/search.html"):
        assert finished.read(name) == alone.read(name), name
    assert all("Registered to" in path.read_text() for path in finished.root.glob("slurm-*.log"))
