"""The runner: whole outs or none, inputs that change, signals, locks, a full disk, a read-only folder."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.runner import files
from tests.project import Project, kill_group, wait_for

OUTS = {
    "download": ["data/raw"],
    "annotate": ["data/images.zip", "data/annotations.csv", "metrics/annotate.json", "metrics/annotate/samples.png"],
    "train": ["models/classifier.safetensors", "metrics/train.json", "metrics/train/curves.csv"],
    "evaluate": ["metrics/evaluate.json", "metrics/predictions.csv", "metrics/evaluate/classes.csv"],
    "export": ["models/classifier.onnx", "metrics/export.json"],
}


def nothing_is_left(project: Project, stage: str) -> None:
    for out in OUTS[stage]:
        path = project.root / out
        assert not path.exists(), out
        assert not files.temporary_path(path).exists(), out


def slow(project: Project, stage: str) -> None:
    """Make a stage wait before it publishes, so that a test can act in the meantime."""
    project.edit(
        "classifier/runner/stage.py",
        "                work(run)\n",
        '                work(run)\n                Path("waiting").touch()\n'
        '                [time.sleep(0.01) for _ in range(3000) if not Path("go on").exists()]\n',
    )
    project.commit("a slow stage")
    project.dvc("commit", "--force", "--quiet")
    project.set(**{f"{stage}__batch_size": 99})


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("params.yaml", "params.yaml (evaluate)"),
        ("data/annotations.csv", "data/annotations.csv"),
        ("stages/evaluate.py", "stages/evaluate.py"),
        ("classifier/model/models.py", "classifier/model/models.py"),  # dvc.yaml lists its folder
    ],
)
def test_an_input_edited_meanwhile_fails_the_stage(finished: Project, file: str, named: str) -> None:
    slow(finished, "evaluate")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    before = finished.read(file)
    path = finished.root / file
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(before.replace(b"batch_size: 99", b"batch_size: 98") if file == "params.yaml" else before + b"\n")
    (finished.root / "go on").touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"evaluate: error: {named} changed while the stage ran" in errors
    nothing_is_left(finished, "evaluate")
    path.write_bytes(before)
    assert finished.repro("evaluate") == ["evaluate"]


def test_what_an_editor_leaves_meanwhile_is_no_input(finished: Project) -> None:
    slow(finished, "evaluate")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    for name in (".models.py.swp", "models.py~", ".DS_Store"):
        (finished.root / "classifier/model" / name).write_text("open")
    (finished.root / "go on").touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "up to date" in finished.dvc("status", "evaluate").stdout
    (finished.root / "classifier/model/new.py").write_text("")
    assert "classifier/model" in finished.dvc("status", "evaluate").stdout


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_stage_with_its_status(finished: Project, signum: int, status: int) -> None:
    slow(finished, "export")
    process = finished.start("python", "-m", "stages.export")
    wait_for((finished.root / "waiting").exists)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    name = signal.Signals(signum).name
    assert errors == f"export: stopped by {name}; nothing was published; the same command starts it again\n"
    nothing_is_left(finished, "export")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_dvc_does_not_record_an_interrupted_stage(finished: Project, signum: int) -> None:
    slow(finished, "evaluate")
    lock = finished.read("dvc.lock")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    os.killpg(process.pid, signum)  # as a terminal does with Ctrl-C: to dvc and to the stage
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert finished.read("dvc.lock") == lock
    nothing_is_left(finished, "evaluate")
    (finished.root / "go on").touch()
    assert finished.repro("evaluate") == ["evaluate"]


def test_a_stage_whose_dvc_was_killed_publishes_nothing(finished: Project) -> None:
    slow(finished, "evaluate")
    process = finished.start("dvc", "repro", "evaluate")
    wait_for((finished.root / "waiting").exists)
    process.kill()  # dvc alone: its child runs on
    process.wait(60)
    (finished.root / "go on").touch()
    _, errors = process.communicate(timeout=60)  # until the child, too, has closed its output
    assert "the `dvc` that started this stage is gone" in errors
    nothing_is_left(finished, "evaluate")


def test_a_second_run_of_a_stage_is_refused_and_names_the_first(finished: Project) -> None:
    slow(finished, "evaluate")
    first = finished.start("python", "-m", "stages.evaluate")
    wait_for((finished.root / "waiting").exists)
    done = finished.stage("evaluate", status=1)
    message = f"evaluate: error: another evaluate is running here (process {first.pid}); wait for it or stop it\n"
    assert done.stderr == message
    (finished.root / "go on").touch()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert finished.read("metrics/evaluate.json")


@pytest.mark.parametrize("stage", OUTS)
def test_a_full_disk_is_one_line_and_leaves_nothing(finished: Project, stage: str) -> None:
    limit = 4096 if stage in ("download", "annotate", "train") else 200  # bytes a file may have
    soft = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    done = finished.stage(stage, status=1, preexec_fn=soft)
    errors = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: error: ")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    nothing_is_left(finished, stage)


def test_a_read_only_folder_is_one_line(finished: Project) -> None:
    if os.geteuid() == 0:  # root may write anywhere but on a file system that is mounted read-only
        mount = "mount --bind models models && mount -o remount,bind,ro models"
        command = ["unshare", "-m", "sh", "-c", f"{mount} && exec python -m stages.export"]
    else:
        (finished.root / "models").chmod(0o555)
        command = ["python", "-m", "stages.export"]
    done = finished.run(*command, status=1)
    (finished.root / "models").chmod(0o755)
    assert done.stderr.startswith("export: error: models/classifier.onnx: ")
    assert "free space or rights are needed there" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_killed_stage_is_cleared_away_by_the_next_run(finished: Project) -> None:
    slow(finished, "export")
    process = finished.start("dvc", "repro", "export")
    wait_for((finished.root / "waiting").exists)
    kill_group(process)
    assert (finished.root / "models/.tmp.classifier.onnx").exists()
    assert not (finished.root / "models/classifier.onnx").exists()
    assert finished.run("git", "status", "--porcelain", "models").stdout == ""
    (finished.root / "go on").touch()
    assert finished.repro("export") == ["export"]
    assert not (finished.root / "models/.tmp.classifier.onnx").exists()


@pytest.mark.parametrize("stage", OUTS)
def test_help_is_the_docstring_and_imports_nothing_heavy(stage: str) -> None:
    code = (
        "import sys, runpy; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module(f'stages.{sys.argv[0]}', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'torchvision', 'onnxruntime', 'dvc', 'sklearn'} & set(sys.modules)))"
    ).replace("{sys.argv[0]}", stage)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m stages." + stage)
    for word in ("reads", "writes", "run", "expect"):
        assert f"\n{word} " in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_publish_replaces_a_link_and_not_what_it_links_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("in DVC's cache")
    out.hardlink_to(cached)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)
    files.atomic_write(out, b"new")
    assert cached.read_text() == "in DVC's cache"
    assert out.read_text() == "new"
    assert out.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    files.atomic_write(out, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk on fire")))
    with pytest.raises(OSError, match="disk on fire"):
        files.atomic_write(out, b"new")
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
