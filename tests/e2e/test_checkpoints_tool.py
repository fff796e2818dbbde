"""The checkpoints of interrupted runs are listed and pruned."""

import re
import signal

from tests.project import Project, wait_for
from tests.support.processes import ended
from tests.support.recipes import ENDLESS, SAVED, set_clock_back, states

import pytest


def checkpoints_tool(project: Project, *words: str, status: int = 0) -> list[str]:
    return project.tool("checkpoints", *words, status=status).stdout.splitlines()


def test_checkpoints_are_listed_and_pruned(finished: Project) -> None:
    names: list[str] = []
    for change in ({"runtime.stop_after_epoch": 1}, {"train.seed": 7, "train.augment.translate_pixels": 2}):
        finished.set_all(change)
        finished.stage("train", status=75)
        names += [path.name for path in states(finished) if path.name not in names]
    other, current = names
    (finished.root / "scratch/train-0123456789abcdef").mkdir()
    (finished.root / "scratch/train-0123456789abcdef/newest.pt").write_bytes(b"from before there were notes")

    set_clock_back(finished)
    told = {line.partition(",")[0]: line for line in checkpoints_tool(finished)}
    assert set(told) == {other, current, "train-0123456789abcdef"}
    shape = r"{}, mlp, step [\d,]+, epoch \d+, 0\.\d MB, 0\.0 h old, "
    assert re.fullmatch(shape.format(current) + "the next run resumes from it", told[current])
    assert re.fullmatch(
        shape.format(other) + r"of other train\.seed 0, train\.augment\.translate_pixels 1|"
        + shape.format(other) + r"of other train\.augment\.translate_pixels 1, train\.seed 0", told[other]
    )  # fmt: skip
    assert "no readable checkpoint" in told["train-0123456789abcdef"]
    assert {path.name for path in states(finished)} == set(told)  # to tell is not to remove

    assert sum(line.startswith("removed: ") for line in checkpoints_tool(finished, "prune")) == 2
    assert [path.name for path in states(finished)] == [current]
    finished.edit("classifier/model/zoo.py", '"""', '"""Changed. ')
    assert checkpoints_tool(finished)[0].endswith("of other classifier/model/zoo.py")
    finished.run("git", "checkout", "classifier/model/zoo.py")
    assert finished.run("python", "-m", "tools.checkpoints").stderr == ""
    finished.set(train__epochs="many")  # is not read
    assert checkpoints_tool(finished, "prune", "--all")[0].startswith("removed: ")
    assert checkpoints_tool(finished) == ["nothing in scratch/"]


@pytest.mark.kills
def test_checkpoints_of_a_running_stage_are_not_pruned(finished: Project) -> None:
    finished.set_all(ENDLESS)
    process = finished.start("python", "-m", "stages.train")
    wait_for(lambda: states(finished))
    failed = finished.tool("checkpoints", "prune", "--all", status=1)
    assert failed.stderr == (
        f"checkpoints: error: another train is running here (process {process.pid}); wait for it or stop it\n"
    )
    assert states(finished)
    process.send_signal(signal.SIGINT)
    errors = ended(process, 130)
    assert re.fullmatch(f"train: warning: stopped by SIGINT; {SAVED}", errors), errors
