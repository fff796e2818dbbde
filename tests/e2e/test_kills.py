"""Kill it anywhere: a real ``dvc repro`` or one of its writers, stopped at any point, ends with the same bytes."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from tests.chaos import Chaos
from tests.project import REPOSITORY, STAGES, Project, kill_group, wait_for
from tests.support.processes import ended
from tests.support.recipes import ENDLESS, LONG, SAVED, checkpoints, newer, set_clock_back, states
from tests.support.tiny import FIRST, METRICS, Tiny

import pytest

MODEL = "models/classifier.safetensors"
pytestmark = pytest.mark.kills


def test_repro_killed_at_random_ends_with_the_same_bytes(
    fresh: Project, finished_template: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every stage at any time and while its outs get their names, and in two of them while DVC records them.

    That may cut off DVC's own files.
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
        print(f"\nkilled {len(chaos.stops)} times, CHAOS_SEED={chaos.seed}, DVC's own files repaired: {chaos.repaired}")
        print("\n".join(map(str, chaos.stops)))
    assert len(chaos.stops) >= 10
    lost = [stop for stop in chaos.stops if not stop.recorded]
    assert {stop.stage for stop in lost} == set(STAGES)
    assert any(0 < stop.named < stop.outs for stop in lost), "no kill between two outs"
    assert any(stop.resumed_at for stop in chaos.stops), "no training went on from a state"


def test_train_outlives_dvc_only_to_save(finished: Project) -> None:
    finished.set_all(ENDLESS)
    lock = finished.read("dvc.lock")
    process = finished.start("dvc", "repro")
    wait_for(lambda: states(finished))
    process.terminate()  # dvc alone
    errors = ended(process, -signal.SIGTERM)
    assert re.search(rf"^train: error: the `dvc` that started this stage is gone; {SAVED}", errors, re.MULTILINE)
    assert finished.read("dvc.lock") == lock
    assert not (finished.root / MODEL).exists()


def test_dvc_alone_defers_ctrl_c_until_its_stage_is_done(tiny: Tiny) -> None:
    """A terminal sends Ctrl-C to both, so the stage decides. To DVC alone it stops nothing."""
    process = tiny.start_waiting("dvc", "repro")
    process.send_signal(signal.SIGINT)
    tiny.go_on()
    ended(process, 0)
    assert tiny.repro() == []


def test_stage_started_after_dvc_died_does_nothing(tiny: Tiny) -> None:
    before = tiny.read(METRICS)
    orphan = "DVC_STAGE=tiny python -m stages.tiny & kill -9 $$"  # the shell that dies stands for dvc
    errors = ended(tiny.start("sh", "-c", orphan), -signal.SIGKILL)
    assert errors == "tiny: error: the `dvc` that started this stage is gone; nothing was done\n"
    assert tiny.read(METRICS) == before


def test_locks_and_temporary_files_of_a_killed_run_stop_nobody(tiny: Tiny) -> None:
    process = tiny.start_waiting("dvc", "repro")
    kill_group(process)
    locked = tiny.json(".dvc/tmp/rwlock")
    assert {entry["pid"] for entry in locked["write"].values()} == {process.pid}
    assert (tiny.root / "models/.tmp.first.bin").exists()
    assert not (tiny.root / FIRST).exists()
    assert tiny.run("git", "status", "--porcelain", "models").stdout == ""
    tiny.go_on()
    assert tiny.repro() == ["tiny"]
    assert not (tiny.root / "models/.tmp.first.bin").exists()
    assert tiny.tool("repair").stdout == ""


def test_train_killed_and_interrupted_ends_with_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    """The whole group, as a terminal does; then its newest state is damaged, so that the one before it is used."""
    finished.set_all(LONG)  # it uses everything that has a state
    reference, longer = finished, finished.copy(tmp_path / "longer")
    reference.set(runtime__checkpoint_seconds=1000)
    reference.repro("train")
    lock = longer.read("dvc.lock")
    for delay, signum in ((0.0, signal.SIGKILL), (0.2, signal.SIGTERM), (0.5, signal.SIGINT)):
        process = longer.start("dvc", "repro", "train")
        before = {path: path.read_bytes() for path in checkpoints(longer)}
        wait_for(partial(newer, longer, before))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        kill_group(process, signum)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == (255 if signum == signal.SIGINT else -signum)
        assert not (longer.root / MODEL).exists()
        assert longer.read("dvc.lock") == lock
        assert ("resuming at step" in output) == bool(before)
        said = [line for line in errors.splitlines(keepends=True) if line.startswith("train: ")]
        assert len(said) == (signum != signal.SIGKILL), errors
        assert all(re.fullmatch(f"train: .*{SAVED}", line) for line in said), said
        set_clock_back(longer)
    (path,) = longer.root.glob("scratch/train-*/newest.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = longer.dvc("repro", "train")
    assert "newest.pt is corrupt; the previous checkpoint is used" in done.stderr
    assert "train: resuming at step" in done.stdout
    assert longer.read("dvc.lock") == reference.read("dvc.lock")
    assert checkpoints(longer) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_dvc_records_no_interrupted_stage(tiny: Tiny, signum: int) -> None:
    lock = tiny.read("dvc.lock")
    process = tiny.start_waiting("dvc", "repro")
    os.killpg(process.pid, signum)  # as a terminal does with Ctrl-C: to dvc and to the stage
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert tiny.read("dvc.lock") == lock
    tiny.nothing_is_left()
    tiny.go_on()
    assert tiny.repro() == ["tiny"]


@pytest.mark.parametrize("at", ["work", "its end"])
def test_stage_whose_dvc_was_killed_publishes_nothing(tiny: Tiny, at: str) -> None:
    process = tiny.start_waiting("dvc", "repro")  # its stage would wait for half a minute
    process.kill()  # dvc alone: its child runs on
    process.wait(60)
    if at == "its end":
        tiny.go_on()
    errors = ended(process, -signal.SIGKILL, 15)
    assert "tiny: error: the `dvc` that started this stage is gone; nothing was published" in errors
    tiny.nothing_is_left()


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
@pytest.mark.parametrize(
    ("case", "order", "calls"),
    [
        ("file", ["old", "new"], 12),
        ("folder", ["none", "new"], 30),
        ("state", ["old", "new"], 15),
        ("stage", [f"{n} of 3 outs" for n in range(4)], 4),
    ],
    ids=["file", "folder", "state", "stage"],
)
def test_kill_before_any_system_call_leaves_old_or_new(tiny: Tiny, case: str, order: list[str], calls: int) -> None:
    """A kill before each call of a writer in turn leaves these states, and then the writer runs again."""
    tiny.environment["PYTHONPATH"] = str(tiny.root)
    done = tiny.run("python", str(REPOSITORY / "tests/support/syscalls.py"), case)
    found = json.loads(done.stdout.splitlines()[-1])
    states = [entry["found"] for entry in found]
    assert len(states) >= calls, states
    assert [*dict.fromkeys(states)] == order, Counter(states)
    if case != "stage":  # whose number of calls varies a little from run to run
        assert states == sorted(states, key=order.index), "it went back"
    for entry in found:
        assert entry["again"] == order[-1]
        assert entry["temporary"] == []
