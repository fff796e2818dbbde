"""train in several processes: whatever refuses a run is printed, exactly once."""

from collections.abc import Callable

from tests.project import Project

import pytest

MODEL = "models/classifier.safetensors"
LAUNCHED = ("torchrun", "--nproc-per-node", "2", "-m", "stages.train")
pytestmark = pytest.mark.distributed


def refused(project: Project, *command: str) -> str:
    """The errors of a run that must fail."""
    process = project.start(*command)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    return errors


def of_another_size(project: Project) -> str:
    project.set(train__world_size=3)
    return "train.world_size: is 3, but the launcher started 2 processes; they must be equal"


def of_bad_params(project: Project) -> str:
    project.edit("params.yaml", "epochs: 6", "epochs: six")
    return "params.yaml: train.epochs: must be a valid integer"


def of_a_missing_input(project: Project) -> str:
    project.set(train__world_size=2)
    (project.root / "data/images.zip").unlink()
    return "data/images.zip is missing; `dvc repro train` makes what this stage needs"


@pytest.mark.parametrize(("prepare", "times"), [(of_another_size, 3), (of_bad_params, 1), (of_a_missing_input, 1)])
def test_launched_run_is_refused_with_one_line(
    finished: Project, prepare: Callable[[Project], str], times: int
) -> None:
    """Rank 0 speaks, whichever rank comes first."""
    says = prepare(finished)
    for errors in (refused(finished, *LAUNCHED) for _ in range(times)):
        (line,) = [line for line in errors.splitlines() if "train: error" in line]
        assert line.startswith(f"train: error: {says}")
        assert errors.count("Traceback (most recent call last)") == 1, "torchrun has one of its own"
        assert 'stages/train.py", line' not in errors
    assert (finished.root / MODEL).exists() == (prepare is of_bad_params)  # that of the run before


@pytest.mark.parametrize("rank", ["1", ""])
def test_rank_left_in_the_shell_changes_nothing(finished: Project, rank: str) -> None:
    before = finished.read("models/classifier.safetensors")
    finished.environment["RANK"] = rank
    finished.stage("train")
    assert finished.read("models/classifier.safetensors") == before
