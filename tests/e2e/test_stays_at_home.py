"""Nothing sends or writes outside the project: what the libraries look up, connect to and leave behind."""

import resource
from functools import partial
from pathlib import Path

from tests.project import REPOSITORY, Project
from tests.support.browser import find_program
from tests.support.processes import execute

import pytest


@pytest.fixture
def watched(finished: Project, tmp_path: Path) -> Project:
    """A project whose programs are watched, with an empty HOME and folder for temporary files."""
    library = tmp_path / "witness.so"
    source = REPOSITORY / "tests/support/witness.c"
    execute(find_program(("gcc",), "gcc"), "-shared", "-fPIC", "-o", library, source, "-ldl")
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    finished.environment |= {
        "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), "LD_PRELOAD": str(library),
        "WITNESS_LOG": str(tmp_path / "log"),
    }  # fmt: skip
    folders = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    for name in (*folders, "ORT_DISABLE_TELEMETRY", "PYTHONDONTWRITEBYTECODE"):
        finished.environment.pop(name, None)
    return finished


@pytest.mark.browser
def test_stages_and_tools_send_and_write_nothing_outside_the_project(watched: Project, tmp_path: Path) -> None:
    stages = ("annotate", "train", "evaluate", "export", "report")
    commands = [*(["-m", f"stages.{name}"] for name in stages), ["-m", "tools.predict", "metrics/report/samples.png"]]
    commands += [["-m", "tools.compare", "models", "HEAD", "workspace"]]
    commands += [["examples/classify.py", "models/classifier.onnx", "metrics/report/samples.png"]]
    # What else may be odd about a machine, in one go: a locale without ±, warnings as errors, no asserts, few files.
    watched.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONWARNINGS": "error"}
    with_torch = ("stages.train", "stages.evaluate", "stages.export")
    # With -O the libraries have no bytecode yet: one process writes it, and the others read it.
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    ordinary, few_files = watched.environment, partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64))
    for command in commands:
        optimized = command[1] not in with_torch  # PyTorch would take long to compile
        watched.environment = {**ordinary, **bytecode} if optimized else ordinary
        watched.run("python", *["-O"] * optimized, *command, preexec_fn=few_files)
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()
    assert [*(tmp_path / "home").rglob("*")] == []
    assert [*(tmp_path / "temporary").rglob("*")] == []


@pytest.mark.browser
def test_witness_sees_a_program_that_looks_a_host_up(watched: Project, tmp_path: Path) -> None:
    watched.run("python", "-c", "import socket; socket.getaddrinfo('127.0.0.1', 80)")
    assert "looked up 127.0.0.1" in (tmp_path / "log").read_text()
