"""Kill it anywhere: a real ``dvc repro``, stopped at random points of every stage, ends with the undisturbed bytes."""

import json
import os
import random
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import DVC_CUT_OFF, Chaos
from tests.project import REPOSITORY, STAGES, Project, kill_group, wait_for
from tests.test_stage import nothing_is_left, slow


def test_killed_at_random_points_it_ends_with_the_undisturbed_bytes(
    fresh: Project, finished_template: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """At least ten kills, two and more in every stage: while its outs get their names, and at any time in it.

    In two of them also while DVC records the stage, which may cut off DVC's own files.
    """
    fresh.set(runtime__checkpoint_seconds=0)  # changes no byte: every step is saved, so most kills fall between epochs
    chaos = Chaos(fresh, finished_template, int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(2**32))))
    while_recording = chaos.random.sample(STAGES, 2)
    for stage in STAGES:
        points = ["publishing", "any time", *(["epoch", "epoch"] if stage == "train" else [])]
        if stage == "train":
            points.reverse()  # a finished training would leave nothing to resume but its last step
        for point in points + ["recording"] * (stage in while_recording):
            chaos.stop(stage, point)
    chaos.finish()
    with capsys.disabled():
        print(f"\nkilled {len(chaos.stops)} times, CHAOS_SEED={chaos.seed}, DVC's own files mended: {chaos.mended}")
        print("\n".join(map(str, chaos.stops)))
    assert len(chaos.stops) >= 10
    lost = [stop for stop in chaos.stops if not stop.recorded]
    assert {stop.stage for stop in lost} == set(STAGES)
    assert any(0 < stop.named < stop.outs for stop in lost), "no kill between two outs"
    assert any(stop.resumed_at for stop in chaos.stops), "no training went on from a state"


# --- signals to the script, to dvc, to the group --------------------------------------------------------------------

ENDLESS: dict[str, Any] = {"train.epochs": 100_000, "train.batch_size": 4, "runtime.checkpoint_seconds": 1000}
SAVED = r"step (\d+) of 9000000 is saved; the same command goes on from there\n"


def states(project: Project) -> list[Path]:
    """The folders of runs that left a state."""
    return sorted({path.parent for path in project.root.glob("scratch/train-*/[!.]*.pt")})


@pytest.fixture
def endless(finished: Project) -> Project:
    """A training that only a signal ends."""
    finished.set_all(ENDLESS)
    return finished


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_script_saves_and_says_how_to_go_on(endless: Project, signum: int, status: int) -> None:
    process = endless.start("python", "-m", "stages.train")
    wait_for(lambda: bool(states(endless)))
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    stopped = re.fullmatch(rf"train: stopped by {signal.Signals(signum).name}; {SAVED}", errors)
    assert stopped, errors
    assert not (endless.root / "models/classifier.safetensors").exists()
    again = endless.start("python", "-m", "stages.train")
    assert again.stdout
    lines = iter(again.stdout.readline, "")
    assert next(line for line in lines if "resuming" in line) == f"train: resuming at step {stopped[1]} of 9000000\n"
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 255), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_to_the_group_saves_and_dvc_records_nothing(endless: Project, signum: int, status: int) -> None:
    lock = endless.read("dvc.lock")
    process = endless.start("dvc", "repro")
    wait_for(lambda: bool(states(endless)))
    kill_group(process, signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert re.search(rf"^train: .*{SAVED}", errors, re.MULTILINE), errors
    assert len(re.findall("^train: ", errors, re.MULTILINE)) == 1, errors
    assert endless.read("dvc.lock") == lock
    assert not (endless.root / "models/classifier.safetensors").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_trainer_outlives_dvc_only_to_save(endless: Project, signum: int) -> None:
    lock = endless.read("dvc.lock")
    process = endless.start("dvc", "repro")
    wait_for(lambda: bool(states(endless)))
    process.send_signal(signum)  # to dvc alone
    _, errors = process.communicate(timeout=60)  # until the stage, too, has closed its output
    assert process.returncode == -signum
    assert re.search(rf"^train: error: the `dvc` that started this stage is gone; {SAVED}", errors, re.MULTILINE)
    assert endless.read("dvc.lock") == lock
    assert not (endless.root / "models/classifier.safetensors").exists()


def test_dvc_alone_holds_a_ctrl_c_back_until_its_stage_is_done(finished: Project) -> None:
    """As DVC has it: a terminal sends Ctrl-C to both, so the stage decides. To DVC alone it stops nothing."""
    slow(finished, "evaluate")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    process.send_signal(signal.SIGINT)
    (finished.root / "go on").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert finished.repro("evaluate") == []


def test_a_stage_stops_in_the_midst_of_its_work_when_dvc_is_gone(finished: Project) -> None:
    slow(finished, "evaluate")  # it would wait for half a minute
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    process.kill()
    _, errors = process.communicate(timeout=15)
    assert "evaluate: error: the `dvc` that started this stage is gone; nothing was published" in errors
    nothing_is_left(finished, "evaluate")


def test_a_stage_that_starts_after_its_dvc_has_died_does_nothing(finished: Project) -> None:
    before = finished.read("metrics/evaluate.json")
    orphan = "DVC_STAGE=evaluate python -m stages.evaluate & kill -9 $$"  # the shell that dies stands for dvc
    process = finished.start("sh", "-c", orphan)
    _, errors = process.communicate(timeout=60)
    assert errors.startswith("evaluate: error: the `dvc` that started this stage is gone; nothing was published")
    assert finished.read("metrics/evaluate.json") == before


def test_a_second_trainer_is_refused_and_names_the_first(endless: Project) -> None:
    first = endless.start("python", "-m", "stages.train")
    wait_for(lambda: bool(states(endless)))
    line = f"train: error: another train is running here (process {first.pid}); wait for it or stop it\n"
    assert line in endless.dvc("repro", "train", status=255).stderr
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=60)
    assert re.fullmatch(rf"train: stopped by SIGTERM; {SAVED}", errors), errors


# --- what a killed DVC leaves ---------------------------------------------------------------------------------------


def test_locks_of_a_killed_dvc_stop_nobody(finished: Project) -> None:
    slow(finished, "evaluate")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    kill_group(process)
    locked = json.loads(finished.read(".dvc/tmp/rwlock"))
    assert {entry["pid"] for entry in locked["write"].values()} == {process.pid}
    (finished.root / "go on").touch()
    assert finished.repro("evaluate") == ["evaluate"]
    assert finished.run("python", "-m", "tools.repair").stdout == ""


def mended(project: Project) -> str:
    """What `python -m tools.repair` says when DVC cannot go on; afterwards it can."""
    failed = project.dvc("repro", status=255)
    assert DVC_CUT_OFF.search(failed.stderr + failed.stdout), failed.stderr
    return project.run("python", "-m", "tools.repair").stdout


@pytest.mark.parametrize("kept", [0, 0.5, 0.8])
def test_a_dvc_lock_that_was_cut_off_is_mended(finished: Project, kept: float) -> None:
    finished.set(evaluate__batch_size=7)
    assert finished.repro() == ["evaluate", "report"]
    whole = finished.read("dvc.lock")
    part = whole[: int(kept * len(whole))]
    (finished.root / "dvc.lock").write_bytes(part[: part.rfind(b": ")])  # in the midst of a line
    assert mended(finished).startswith("mend: dvc.lock was cut off; the committed one is back")
    assert finished.repro() == []  # from the run cache
    assert finished.read("dvc.lock") == whole


def test_a_dvc_lock_that_was_never_committed_is_mended(finished: Project) -> None:
    whole = finished.read("dvc.lock")
    finished.run("git", "rm", "--quiet", "--cached", "dvc.lock")
    finished.run("git", "commit", "--quiet", "--message", "no lock")
    (finished.root / "dvc.lock").write_bytes(b"")
    assert mended(finished).startswith("mend: dvc.lock was cut off and never committed; removed")
    assert finished.repro() == []
    assert finished.read("dvc.lock") == whole


def test_a_list_of_locked_files_that_was_cut_off_is_mended(finished: Project) -> None:
    from dvc.lock import Lock

    finished.set(evaluate__batch_size=7)
    listed = finished.root / ".dvc/tmp/rwlock"
    listed.write_text("")
    with Lock(str(finished.root / ".dvc/tmp/lock")):  # a living DVC, which may be writing it just now
        assert finished.run("python", "-m", "tools.repair").stdout == ""
    assert listed.exists()
    assert mended(finished) == "mend: .dvc/tmp/rwlock was cut off; removed, DVC makes a new one\n"
    assert finished.repro() == ["evaluate", "report"]


def test_an_entry_of_the_run_cache_that_was_cut_off_is_mended(finished: Project) -> None:
    """A Ctrl-C while DVC writes an entry leaves its first part, which DVC then takes for the newest."""
    known = set(finished.root.glob(".dvc/cache/runs/*/*/*"))
    finished.set(evaluate__batch_size=7)
    finished.repro()
    new = set(finished.root.glob(".dvc/cache/runs/*/*/*")) - known
    (entry,) = (path for path in new if b"stages.evaluate" in path.read_bytes())
    content = entry.read_bytes()
    entry.with_name(".Yf3k0TlX.tmp").write_bytes(content[: content.index(b"outs:")])
    finished.run("git", "checkout", "dvc.lock")
    assert mended(finished).endswith(".Yf3k0TlX.tmp was cut off; removed, the stage is recorded anew\n")
    assert finished.repro() == []
    assert entry.exists()


def test_mend_leaves_alone_what_dvc_can_read_and_what_git_has_to_solve(finished: Project) -> None:
    for branch, value in (("theirs", 9), ("mine", 8)):
        finished.run("git", "checkout", "--quiet", "-b", branch, "main")
        finished.set(evaluate__batch_size=value)
        batch_size = "        evaluate:\n          batch_size: "
        finished.edit("dvc.lock", f"{batch_size}200", f"{batch_size}{value}")
        finished.commit(branch)
    assert finished.run("python", "-m", "tools.repair").stdout == ""
    finished.run("git", "merge", "theirs", status=1)
    conflict = finished.read("dvc.lock")
    assert b"<<<<<<<" in conflict
    assert finished.run("python", "-m", "tools.repair").stdout == ""
    assert finished.read("dvc.lock") == conflict


def test_make_repro_mends_first() -> None:
    shown = subprocess.run(["make", "-n", "repro"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert shown.index("python -m tools.repair\n") < shown.index("dvc repro\n")


# --- leftovers ------------------------------------------------------------------------------------------------------


def leftovers(project: Project, *words: str, status: int = 0) -> list[str]:
    return project.run("python", "-m", "tools.checkpoints", *words, status=status).stdout.splitlines()


def test_leftovers_are_told_and_removed_on_request(finished: Project) -> None:
    finished.set_all({**ENDLESS, "runtime.checkpoint_seconds": 0})
    names = []
    for change in ({}, {"train.seed": 7, "train.augment.translate_pixels": 2}):
        finished.set_all(change)
        process = finished.start("python", "-m", "stages.train")
        wait_for(lambda known=len(states(finished)): len(states(finished)) > known)  # type: ignore[misc] # noqa: B008
        kill_group(process)
        names += [path.name for path in states(finished) if path.name not in names]
    other, current = names
    (finished.root / "scratch/train-0123456789abcdef").mkdir()
    (finished.root / "scratch/train-0123456789abcdef/newest.pt").write_bytes(b"from before there were notes")

    told = {line.partition(",")[0]: line for line in leftovers(finished)}
    assert set(told) == {other, current, "train-0123456789abcdef"}
    shape = r"{}, mlp, step [\d,]+, epoch \d+, 0\.\d MB, 0\.0 h old, "
    assert re.fullmatch(shape.format(current) + "the next run goes on from it", told[current])
    assert re.fullmatch(
        shape.format(other) + r"of other train\.seed 0, train\.augment\.translate_pixels 1|"
        + shape.format(other) + r"of other train\.augment\.translate_pixels 1, train\.seed 0", told[other]
    )  # fmt: skip
    assert "no state that can be read" in told["train-0123456789abcdef"]
    assert {path.name for path in states(finished)} == set(told)  # to tell is not to remove

    assert sum(line.startswith("removed: ") for line in leftovers(finished, "--remove")) == 2
    assert [path.name for path in states(finished)] == [current]
    finished.edit("classifier/model/models.py", '"""', '"""Changed. ')
    assert leftovers(finished)[0].endswith("of other classifier/model/models.py")
    finished.run("git", "checkout", "classifier/model/models.py")
    assert leftovers(finished, "--remove", "--all")[0].startswith("removed: ")
    assert leftovers(finished) == ["nothing in scratch/"]


def test_the_state_of_a_running_stage_is_not_removed(endless: Project) -> None:
    process = endless.start("python", "-m", "stages.train")
    wait_for(lambda: bool(states(endless)))
    failed = endless.run("python", "-m", "tools.checkpoints", "--remove", "--all", status=1)
    assert failed.stderr == (
        f"leftovers: error: another train is running here (process {process.pid}); wait for it or stop it\n"
    )
    assert states(endless)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert re.fullmatch(f"train: stopped by SIGINT; {SAVED}", errors), errors
