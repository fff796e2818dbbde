"""The runner: stages by hand, declared inputs and outputs only, inputs that change, signals, locks, help."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from classifier import portability, yaml_file
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from tests.project import BIN, REPOSITORY, STAGES, Project, one_line
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


RAW, ANNOTATIONS, MODEL = "data/raw/train-images-idx3-ubyte", "data/annotations.csv", "models/classifier.safetensors"


@pytest.mark.parametrize(
    ("name", "path", "change", "says"),
    [
        ("annotate", "data/raw", None, "data/raw is missing; `dvc repro annotate` makes what this stage needs"),
        ("annotate", RAW, lambda old: old[:-1], "data/raw, 'train-images-idx3-ubyte': .*download"),
        ("annotate", RAW, lambda old: old + b"\0", "data/raw, 'train-images-idx3-ubyte': .*download"),
        ("annotate", RAW, lambda old: old[:10], "data/raw, 'train-images-idx3-ubyte': .*download"),
        ("annotate", RAW, lambda old: b"\x1f\x8b" + old[2:], "data/raw, 'train-images-idx3-ubyte': .*download"),
        ("train", ANNOTATIONS, lambda old: old.replace(b"Coat,train", b"Coat,val"), ".*no training .* the class Coat"),
        ("evaluate", MODEL, None, f"{MODEL} is missing; `dvc repro evaluate` makes what this stage needs"),
        ("evaluate", MODEL, lambda _: b"pickle? no", f"{MODEL}: not a safetensors file \\(Error while"),
        (
            "evaluate",
            ANNOTATIONS,
            lambda old: old.replace(b",test\n", b",val\n"),
            f"{ANNOTATIONS}: has no row with the",
        ),
        (
            "report",
            "metrics/predictions.csv",
            lambda _: b"image,label\nx,y\n",
            "metrics/predictions.csv: not the predictions of this pipeline; `dvc repro evaluate` makes them\n",
        ),
    ],
)
def test_unsuitable_input_is_one_line_and_nothing_is_written(
    finished: Project, name: str, path: str, change: Callable[[bytes], bytes] | None, says: str
) -> None:
    content = change(finished.read(path)) if change else None
    files.remove(finished.root / path)
    if content is not None:
        finished.write(path, content)
    assert re.match(f"{name}: error: {says}", one_line(finished.stage(name, status=1)))
    params = yaml_file.load(finished.read("params.yaml").decode())
    for out in read_declaration(name, params, finished.root / "dvc.yaml").outs:
        assert not (finished.root / out).exists(), out
        assert not files.temporary_path(finished.root / out).exists(), out


def test_undeclared_input_output_or_param_is_refused(finished: Project) -> None:
    for stage, declared, other in [
        ("export", "      - export\n", "      - train\n"),
        ("evaluate", "- data/test_images\n", "- data/images\n"),
        ("evaluate", "- metrics/predictions.csv:", "- metrics/other.csv:"),
    ]:
        finished.edit("dvc.yaml", declared, other)
        assert "dvc.yaml does not list" in finished.stage(stage, status=1).stderr
        finished.run("git", "checkout", "dvc.yaml")


def ended(process: "subprocess.Popen[str]", status: int = 0) -> str:
    """The errors that a process printed until it ended with this status."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    return errors


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
    changed = before.replace(b"batch_size: 99", b"batch_size: 98") if file == "params.yaml" else before + b"\n"
    assert changed != before
    tiny.write(file, changed)
    tiny.go_on()
    assert f"tiny: error: {named} changed while the stage ran" in ended(process, status=255)
    tiny.nothing_is_left()
    tiny.write(file, before)
    assert tiny.repro() == ["tiny"]


def test_editor_files_are_not_inputs(tiny: Tiny) -> None:
    process = tiny.start_waiting("dvc", "repro")
    for name in (".lock.py.swp", "lock.py~", ".DS_Store"):
        (tiny.root / "classifier/runner" / name).write_text("open")
    tiny.go_on()
    ended(process)
    assert "up to date" in tiny.dvc("status").stdout
    (tiny.root / "classifier/runner/new.py").write_text("")
    assert "classifier/runner" in tiny.dvc("status").stdout


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_stage_with_its_status(tiny: Tiny, signum: signal.Signals, status: int) -> None:
    process = tiny.start_waiting("python", "-m", "stages.tiny")
    process.send_signal(signum)
    says = f"stopped by {signum.name}; nothing was published; the same command starts it again"
    assert ended(process, status) == f"tiny: warning: {says}\n"
    tiny.nothing_is_left()


def test_nohup_lets_a_stage_go_on(tiny: Tiny) -> None:
    process = tiny.start_waiting("nohup", "python", "-m", "stages.tiny")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    tiny.go_on()
    assert ended(process) == ""


def test_second_run_is_refused_and_names_the_first(tiny: Tiny) -> None:
    first = tiny.start_waiting("python", "-m", "stages.tiny")
    done = tiny.stage("tiny", status=1)
    message = f"tiny: error: another tiny is running here (process {first.pid}); wait for it or stop it\n"
    assert done.stderr == message
    assert message in tiny.run("dvc", "repro", status=255).stderr
    tiny.go_on()
    ended(first)
    assert tiny.read(METRICS)


FULL, BROKEN, GONE = "No space left on device", "Broken pipe", "nothing more is printed there"


@pytest.mark.parametrize(
    ("program", "output", "status", "says"),
    [
        ("stages.tiny", ">&-", 0, ""),
        ("stages.tiny", ">&- 2>&-", 0, ""),
        ("stages.tiny", "| true", 0, f"tiny: warning: standard output: {BROKEN}; {GONE}\n"),
        ("stages.tiny", ">/dev/full", 0, f"tiny: warning: standard output: {FULL}; {GONE}\n"),
        ("tools.checkpoints", ">&-", 0, ""),
        ("tools.checkpoints", "| true", 141, ""),
        ("tools.checkpoints", ">/dev/full", 1, f"checkpoints: error: {FULL}; fix that and run it again\n"),
    ],
)
def test_output_that_nobody_takes_stops_no_stage_and_is_one_line_of_a_tool(
    tiny: Tiny, program: str, output: str, status: int, says: str
) -> None:
    tiny.edit("stages/tiny.py", "import sys\n", "import logging\nimport sys\n")
    lines = "    logging.getLogger('stages.tiny').info('a line')\n" * 3
    tiny.edit("stages/tiny.py", "def main(context):\n", f"def main(context):\n{lines}")
    done = tiny.run("sh", "-c", f"(python -m {program}; echo $? >status) {output}")
    assert done.stderr == says
    assert tiny.read("status") == f"{status}\n".encode()
    assert tiny.read(METRICS)


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
    command = ["python", "-c", "import classifier, sys; print(sys.executable)"]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == f"{tmp_path}/bin/python\n"
