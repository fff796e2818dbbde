"""At a terminal: who draws progress bars, what Ctrl-C prints while a program still starts, whose code a script runs."""

import signal
import subprocess
import time

from classifier import progress
from tests.project import REPOSITORY, Project
from tests.support.tiny import Tiny

import pytest
from tqdm import tqdm

# Runs the command behind it in a terminal of its own.
SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

# train, whose bars have no delay and name their rank
WITH_BARS = """
import os, runpy
from classifier import progress
from tqdm import tqdm

def bar(*items, desc, delay, **options):
    return tqdm(*items, desc=f"{desc} by rank {os.environ.get('RANK', '0')}", **options)

progress.tqdm = bar
runpy.run_module("stages.train", run_name="__main__")
"""


@pytest.mark.distributed
def test_only_rank_zero_draws_progress_bars(finished: Project) -> None:
    (finished.root / "with_bars.py").write_text(WITH_BARS)
    finished.set_all({"compute.portable": False, "train.world_size": 2, "train.epochs": 1})
    launch = "stty rows 24 cols 120; exec torchrun --nproc-per-node 2 with_bars.py"
    printed = finished.run("python", "-c", SPAWN, "sh", "-ec", launch, stdin=subprocess.DEVNULL).stdout
    assert " by rank 0" in printed
    assert " by rank 1" not in printed


def test_no_bar_where_there_is_no_terminal(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "tqdm", lambda *items, delay, **options: tqdm(*items, **options))
    finished.set(train__epochs=1)
    done = finished.stage("train")
    assert "%|" not in done.stderr + done.stdout


@pytest.mark.kills
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.5])
def test_early_ctrl_c_shows_no_traceback(finished: Project, seconds: float) -> None:
    process = finished.start("python", "-m", "stages.train")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # While Python itself is starting, none of this project's code has run; on a busy machine that takes a while.
    if "Fatal Python error: init" not in errors:
        assert "Traceback" not in errors
        assert "KeyboardInterrupt" not in errors
    assert process.returncode in (-signal.SIGINT, 130)


def test_script_that_would_run_the_code_of_another_clone_is_refused(tiny: Tiny) -> None:
    """The environment is that of another clone, whose package a script imports."""
    tiny.environment["PYTHONPATH"] = str(REPOSITORY)
    script = str(tiny.root / "stages/tiny.py")
    done = tiny.run("python", script, cwd=tiny.root.parent, status=1)
    assert done.stdout == ""
    assert done.stderr == (
        f"{script}: error: this Python has the code of {REPOSITORY}; run `python -m stages.tiny` in {tiny.root},"
        " or `make setup` there\n"
    )


def test_module_runs_the_code_of_its_own_clone(tiny: Tiny) -> None:
    (tiny.root / "classifier/runner/only_here.py").write_text("print('the code of', __file__)\n")
    tiny.edit("stages/tiny.py", "import sys", "import sys\nimport classifier.runner.only_here")
    done = tiny.stage("tiny")
    assert f"the code of {tiny.root / 'classifier/runner/only_here.py'}\n" in done.stdout
