"""A real Slurm takes the node away from a training, twice: the weights are those of an undisturbed run."""

import re
from pathlib import Path

import pytest

from tests.project import Project, wait_for
from tests.support.recipes import LONG, checkpoints
from tests.support.slurm import slurm

MODEL = "models/classifier.safetensors"
PATIENCE = 240  # seconds; Slurm itself waits between its steps


@pytest.mark.kills
def test_preempted_and_requeued_job_ends_with_the_same_weights(finished: Project, tmp_path: Path) -> None:
    finished.set_all({**LONG, "train.epochs": 60})
    undisturbed = finished.copy(tmp_path / "undisturbed")
    undisturbed.stage("train")
    with slurm() as environment:
        finished.environment |= environment

        def state(job: str) -> str:
            shown = finished.run("scontrol", "show", "job", job).stdout
            restarts, job_state = (re.search(rf"{name}=(\w+)", shown) for name in ("Restarts", "JobState"))
            assert restarts
            assert job_state
            return f"{job_state[1]} {restarts[1]}"

        def submit(*words: str) -> str:
            return finished.run("sbatch", "--parsable", *words).stdout.strip()

        job = submit("--exclusive", "--output=slurm.log", "examples/slurm.sbatch", "python", "-m", "stages.train")
        wait_for(lambda: bool(checkpoints(finished)) or state(job).startswith(("FAILED", "COMPLETED")), PATIENCE)
        assert state(job) == "RUNNING 0", finished.read("slurm.log").decode()
        urgent = submit("--exclusive", "--partition=high", "--output=/dev/null", "--wrap", "true")
        wait_for(lambda: state(urgent).startswith("COMPLETED"), PATIENCE, pause=0.2)
        wait_for(lambda: finished.read("slurm.log").count(b"resuming at step") == 1, PATIENCE)
        # What Slurm sends before the time limit, by --signal=B:TERM@120.
        finished.run("scancel", "--batch", "--signal=TERM", job)
        wait_for(lambda: state(job) == "COMPLETED 2", PATIENCE, pause=0.2)
    log = finished.read("slurm.log").decode()
    assert log.count("stopped by SIGTERM") == 2
    assert log.count("resuming at step") == 2
    assert finished.read(MODEL) == undisturbed.read(MODEL)
