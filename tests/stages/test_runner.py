"""The runner: stages by hand, declared inputs and outputs only, inputs that change, signals, locks, help."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from classifier import portability
from tests.project import BIN, REPOSITORY, STAGES, Project
from tests.support.tiny import METRICS, Tiny

import pytest


@pytest.mark.parametrize("name", STAGES)
def test_stage_by_hand_writes_the_same_bytes(finished: Project, name: str) -> None:
    """As a script, from elsewhere, in an interpreter of its own, which must pin the instructions itself."""
    for variable in {**portability.NUMPY, **portability.TORCH}:
        finished.environment.pop(variable)
    finished.environment["PYTHONPATH"] = str(finished.root)  # as in an environment of its own
    script = str(finished.root / "stages" / f"{name}.py")
    done = finished.run("python", script, cwd=finished.root.parent)
    assert "leaked" not in done.stderr  # by Triton: see the end of run_stage
    assert finished.dvc("status").stdout.strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize("module", ["stages.train", "tools.compare"])
def test_python_without_the_libraries_is_one_line(module: str) -> None:
    """`.venv/bin/dvc repro` in an environment that is not activated runs whatever `python` is on PATH."""
    command = [sys.executable, "-S", "-m", module]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    says = "lacks the project's libraries; activate the environment: . .venv/bin/activate"
    assert done.stderr == f"error: {sys.executable} {says}\n"


def test_undeclared_input_output_or_param_is_refused(finished: Project) -> None:
    for stage, declared, other in [
        ("export", "      - export\n", "      - train\n"),
        ("evaluate", "- data/test_images\n", "- data/images\n"),
        ("evaluate", "- metrics/predictions.csv:", "- metrics/other.csv:"),
    ]:
        finished.edit("dvc.yaml", declared, other)
        assert "dvc.yaml does not list" in finished.stage(stage, status=1).stderr
        finished.run("git", "checkout", "dvc.yaml")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("params.yaml", "params.yaml (evaluate)"),
        ("data/input.csv", "data/input.csv"),
        ("stages/tiny.py", "stages/tiny.py"),
        ("classifier/runner/lock.py", "classifier/runner/lock.py"),  # dvc.yaml lists its folder
    ],
)
def test_input_edited_meanwhile_fails_the_stage(tiny: Tiny, file: str, named: str) -> None:
    process = tiny.start_waiting("dvc", "repro")
    before = tiny.read(file)
    path = tiny.root / file
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(before.replace(b"batch_size: 99", b"batch_size: 98") if file == "params.yaml" else before + b"\n")
    assert path.read_bytes() != before
    tiny.go_on()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"tiny: error: {named} changed while the stage ran" in errors
    tiny.nothing_is_left()
    path.write_bytes(before)
    assert tiny.repro() == ["tiny"]


def test_editor_files_are_not_inputs(tiny: Tiny) -> None:
    process = tiny.start_waiting("dvc", "repro")
    for name in (".lock.py.swp", "lock.py~", ".DS_Store"):
        (tiny.root / "classifier/runner" / name).write_text("open")
    tiny.go_on()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "up to date" in tiny.dvc("status").stdout
    (tiny.root / "classifier/runner/new.py").write_text("")
    assert "classifier/runner" in tiny.dvc("status").stdout


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_stage_with_its_status(tiny: Tiny, signum: int, status: int) -> None:
    process = tiny.start_waiting("python", "-m", "stages.tiny")
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    name = signal.Signals(signum).name
    assert errors == f"tiny: warning: stopped by {name}; nothing was published; the same command starts it again\n"
    tiny.nothing_is_left()


def test_nohup_lets_a_stage_go_on(tiny: Tiny) -> None:
    process = tiny.start_waiting("nohup", "python", "-m", "stages.tiny")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    tiny.go_on()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_second_run_is_refused_and_names_the_first(tiny: Tiny) -> None:
    first = tiny.start_waiting("python", "-m", "stages.tiny")
    done = tiny.stage("tiny", status=1)
    message = f"tiny: error: another tiny is running here (process {first.pid}); wait for it or stop it\n"
    assert done.stderr == message
    assert message in tiny.run("dvc", "repro", status=255).stderr
    tiny.go_on()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert tiny.read(METRICS)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (">&-", ""),
        (">&- 2>&-", ""),
        ("| true", "tiny: warning: standard output: Broken pipe; nothing more is printed there\n"),
        (">/dev/full", "tiny: warning: standard output: No space left on device; nothing more is printed there\n"),
    ],
)
def test_output_that_nobody_takes_stops_no_stage(tiny: Tiny, output: str, says: str) -> None:
    tiny.edit("stages/tiny.py", "import sys\n", "import logging\nimport sys\n")
    for word in ("one", "two", "three"):
        line = f"    logging.getLogger('stages.tiny').info('{word}')\n"
        tiny.edit("stages/tiny.py", "def main(context):\n", f"def main(context):\n{line}")
    done = tiny.run("sh", "-c", f"(python -m stages.tiny; echo $? >status) {output}")
    assert done.stderr == says
    assert tiny.read("status") == b"0\n"
    assert tiny.read(METRICS)


@pytest.mark.parametrize(
    ("output", "status", "says"),
    [
        (">&-", 0, ""),
        ("| true", 141, ""),
        (">/dev/full", 1, "checkpoints: error: No space left on device; fix that and run it again\n"),
    ],
)
def test_output_of_a_tool_that_nobody_takes_is_one_line_at_most(
    tiny: Tiny, output: str, status: int, says: str
) -> None:
    done = tiny.run("sh", "-c", f"(python -m tools.checkpoints; echo $? >status) {output}")
    assert done.stderr == says
    assert tiny.read("status") == f"{status}\n".encode()


@pytest.mark.parametrize("stage", STAGES)
def test_help_prints_the_docstring(fresh_template: Project, stage: str) -> None:
    shown = fresh_template.stage(stage, "--help").stdout
    assert shown.startswith("usage: python -m stages." + stage)
    for word in ("reads", "writes", "run", "expect"):
        assert f"\n{word} " in shown


def test_relative_path_of_the_interpreter_is_made_absolute(tmp_path: Path) -> None:
    """As after `PATH=.venv/bin:$PATH`: processes are started in other folders."""
    (tmp_path / "bin").symlink_to(BIN)
    environment = {**os.environ, "PATH": f"bin{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    code = "import classifier, sys; print(sys.executable)"
    done = subprocess.run(
        ["python", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}/bin/python\n"
