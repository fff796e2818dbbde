"""Kill it anywhere: a real ``dvc repro``, stopped at any point of every stage, ends with the same bytes."""

import itertools
import os
import random
import re
import signal
from pathlib import Path

from tests.chaos import Chaos
from tests.project import STAGES, Project, kill_group, wait_for
from tests.support.recipes import ENDLESS, LONG, SAVED, checkpoints, newer, set_clock_back, states
from tests.support.tiny import FIRST, METRICS, Tiny

import pytest


@pytest.fixture
def endless(finished: Project) -> Project:
    """A training that only a signal ends."""
    finished.set_all(ENDLESS)
    return finished


@pytest.fixture(scope="module")
def longer_template(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Before a longer run that uses everything that has a state."""
    project = finished_template.copy(tmp_path_factory.mktemp("longer") / "project")
    project.set_all(LONG)
    project.commit("a longer run")
    return project


@pytest.fixture
def longer(longer_template: Project, tmp_path: Path) -> Project:
    return longer_template.copy(tmp_path / "longer")


@pytest.fixture(scope="module")
def reference(longer_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Its training, finished without a disturbance; to look at only."""
    project = longer_template.copy(tmp_path_factory.mktemp("reference") / "project")
    project.set(runtime__checkpoint_seconds=1000)
    project.repro("train")
    return project


@pytest.mark.kills
def test_repro_killed_at_random_ends_with_the_same_bytes(
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
        print(f"\nkilled {len(chaos.stops)} times, CHAOS_SEED={chaos.seed}, DVC's own files repaired: {chaos.repaired}")
        print("\n".join(map(str, chaos.stops)))
    assert len(chaos.stops) >= 10
    lost = [stop for stop in chaos.stops if not stop.recorded]
    assert {stop.stage for stop in lost} == set(STAGES)
    assert any(0 < stop.named < stop.outs for stop in lost), "no kill between two outs"
    assert any(stop.resumed_at for stop in chaos.stops), "no training went on from a state"


@pytest.mark.kills
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_train_signaled_saves_and_resumes(endless: Project, signum: int, status: int) -> None:
    process = endless.start("python", "-m", "stages.train")
    wait_for(lambda: bool(states(endless)))
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    stopped = re.fullmatch(rf"train: warning: stopped by {signal.Signals(signum).name}; {SAVED}", errors)
    assert stopped, errors
    assert not (endless.root / "models/classifier.safetensors").exists()
    again = endless.start("python", "-m", "stages.train")
    assert again.stdout
    lines = iter(again.stdout.readline, "")
    assert next(line for line in lines if "resuming" in line) == f"train: resuming at step {stopped[1]} of 9000000\n"
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)


@pytest.mark.kills
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 255), (signal.SIGTERM, -signal.SIGTERM)])
def test_group_signaled_saves_and_dvc_records_nothing(endless: Project, signum: int, status: int) -> None:
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


@pytest.mark.kills
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_train_outlives_dvc_only_to_save(endless: Project, signum: int) -> None:
    lock = endless.read("dvc.lock")
    process = endless.start("dvc", "repro")
    wait_for(lambda: bool(states(endless)))
    process.send_signal(signum)  # to dvc alone
    _, errors = process.communicate(timeout=60)  # until the stage, too, has closed its output
    assert process.returncode == -signum
    assert re.search(rf"^train: error: the `dvc` that started this stage is gone; {SAVED}", errors, re.MULTILINE)
    assert endless.read("dvc.lock") == lock
    assert not (endless.root / "models/classifier.safetensors").exists()


@pytest.mark.kills
def test_dvc_alone_defers_ctrl_c_until_its_stage_is_done(tiny: Tiny) -> None:
    """A terminal sends Ctrl-C to both, so the stage decides. To DVC alone it stops nothing."""
    process = tiny.start_waiting("dvc", "repro")
    process.send_signal(signal.SIGINT)
    tiny.go_on()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert tiny.repro() == []


@pytest.mark.kills
def test_stage_started_after_dvc_died_does_nothing(tiny: Tiny) -> None:
    before = tiny.read(METRICS)
    orphan = "DVC_STAGE=tiny python -m stages.tiny & kill -9 $$"  # the shell that dies stands for dvc
    process = tiny.start("sh", "-c", orphan)
    _, errors = process.communicate(timeout=60)
    assert errors == "tiny: error: the `dvc` that started this stage is gone; nothing was done\n"
    assert tiny.read(METRICS) == before


@pytest.mark.kills
def test_locks_of_a_killed_dvc_stop_nobody(tiny: Tiny) -> None:
    process = tiny.start_waiting("dvc", "repro")
    kill_group(process)
    locked = tiny.json(".dvc/tmp/rwlock")
    assert {entry["pid"] for entry in locked["write"].values()} == {process.pid}
    tiny.go_on()
    assert tiny.repro() == ["tiny"]
    assert tiny.tool("repair").stdout == ""


@pytest.mark.kills
def test_train_killed_and_interrupted_ends_with_the_same_bytes(longer: Project, reference: Project) -> None:
    signals = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    for delay, signum in zip([0.0, 0.1, 0.3, 0.5], signals, strict=False):
        process = longer.start("dvc", "repro", "train")
        before = {path: path.read_bytes() for path in checkpoints(longer)}
        wait_for(lambda before=before: newer(longer, before))  # type: ignore[misc]
        with pytest.raises(Exception, match="timed out"):
            process.wait(delay)
        kill_group(process, signum)
        output, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert not (longer.root / "models/classifier.safetensors").exists()
        if signum != signal.SIGKILL:
            assert "is saved; the same command goes on from there" in errors
        assert ("resuming at step" in output) == bool(before)
        set_clock_back(longer)
    output = longer.dvc("repro", "train").stdout
    assert "train: resuming at step" in output
    assert longer.read("dvc.lock") == reference.read("dvc.lock")
    assert checkpoints(longer) == []


@pytest.mark.kills
def test_corrupt_checkpoint_falls_back_to_the_previous(longer: Project, reference: Project) -> None:
    process = longer.start("dvc", "repro", "train")
    wait_for(lambda: any(longer.root.glob("scratch/train-*/older.pt")))
    kill_group(process, signal.SIGTERM)  # SIGKILL could fall between renaming one state and writing the next
    process.communicate(timeout=60)  # until the trainer, too, has ended
    (path,) = longer.root.glob("scratch/train-*/newest.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = longer.dvc("repro", "train")
    assert "newest.pt is corrupt; the previous checkpoint is used" in done.stderr
    assert "resuming at step" in done.stdout
    assert longer.read("dvc.lock") == reference.read("dvc.lock")


@pytest.mark.kills
def test_checkpoint_of_other_params_is_not_used(finished: Project) -> None:
    finished.set_all(LONG)
    process = finished.start("python", "-m", "stages.train")
    wait_for(lambda: bool(checkpoints(finished)))
    kill_group(process)
    process.communicate(timeout=60)
    finished.set_all({"optimizers.muon.lr": 0.002, "train.epochs": 1})
    assert "resuming" not in finished.stage("train").stdout


@pytest.mark.kills
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


@pytest.mark.kills
@pytest.mark.parametrize("at", ["work", "its end"])
def test_stage_whose_dvc_was_killed_publishes_nothing(tiny: Tiny, at: str) -> None:
    process = tiny.start_waiting("dvc", "repro")  # its stage would wait for half a minute
    process.kill()  # dvc alone: its child runs on
    process.wait(60)
    if at == "its end":
        tiny.go_on()
    _, errors = process.communicate(timeout=15)  # until the child, too, has closed its output
    assert "tiny: error: the `dvc` that started this stage is gone; nothing was published" in errors
    tiny.nothing_is_left()


@pytest.mark.kills
def test_killed_stage_is_cleaned_up_by_the_next_run(tiny: Tiny) -> None:
    process = tiny.start_waiting("dvc", "repro")
    kill_group(process)
    assert (tiny.root / "models/.tmp.first.bin").exists()
    assert not (tiny.root / FIRST).exists()
    assert tiny.run("git", "status", "--porcelain", "models").stdout == ""
    tiny.go_on()
    assert tiny.repro() == ["tiny"]
    assert not (tiny.root / "models/.tmp.first.bin").exists()
