"""A project with one stage that takes a third of a second: what the runner promises is the same for every stage."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from classifier.runner import files
from tests.project import PARAMS, REPOSITORY, Project, copy_repository, wait_for

INPUT, FIRST, SECOND, METRICS = "data/input.csv", "models/first.bin", "models/second.bin", "metrics/tiny.json"
OUTS = (FIRST, SECOND, METRICS)
NEEDED = ("classifier/", "stages/__init__.py", "tools/", ".dvc", ".gitattributes", ".gitignore", "environment.toml")

STAGE = '''"""Copy the input.

reads   data/input.csv; params.yaml: evaluate
writes  models/first.bin, models/second.bin, metrics/tiny.json
run     python -m stages.tiny
expect  nothing, but if the file "wait" exists it waits for "go on" before it ends
"""

import sys
import time
from pathlib import Path

from classifier.runner.stage import run_stage


def main(context):
    content = context.dep("data/input.csv").read_bytes()
    for name in ("models/first.bin", "models/second.bin"):
        context.out(name).write_bytes(content * 1000)
    context.write_json("metrics/tiny.json", {"batch_size": context.params.evaluate.batch_size})
    if Path("wait").exists():
        Path("waiting").touch()
        end = time.monotonic() + 30
        while not Path("go on").exists() and time.monotonic() < end:
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(run_stage("tiny", main, __doc__))
'''

DECLARATION = """stages:
  tiny:
    cmd: python -m stages.tiny
    deps: [classifier/runner, data/input.csv, stages/tiny.py]
    params: [evaluate]
    outs: [models/first.bin, models/second.bin]
    metrics:
      - metrics/tiny.json:
          cache: false
"""


class Tiny(Project):
    """A clone of that project."""

    def start_waiting(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command whose stage waits before it publishes, and wait until it does."""
        for name in ("waiting", "go on"):
            (self.root / name).unlink(missing_ok=True)
        (self.root / "wait").touch()
        self.set(evaluate__batch_size=99)  # so that DVC has a reason to run it
        process = self.start(*command)
        wait_for((self.root / "waiting").exists, amid=process)
        return process

    def go_on(self) -> None:
        """Let the stage end, and every later run."""
        (self.root / "go on").touch()

    def nothing_is_left(self) -> None:
        for out in OUTS:
            assert not (self.root / out).exists(), out
            assert not files.temporary_path(self.root / out).exists(), out

    def stage(self, name: str, *words: str, status: int = 0, **options: Any) -> "subprocess.CompletedProcess[str]":
        """A process: its only stage is not of this repository."""
        return self.run("python", "-m", f"stages.{name}", *words, status=status, **options)

    def copy(self, root: Path) -> "Tiny":
        super().copy(root)
        return Tiny(root, self.raw)


def make_tiny(root: Path) -> Tiny:
    """The project after one ``dvc repro``, committed."""
    copy_repository(root, lambda name: name.startswith(NEEDED))
    shutil.copy(PARAMS, root / "params.yaml")
    project = Tiny(root, REPOSITORY)
    for path, content in (("stages/tiny.py", STAGE), ("dvc.yaml", DECLARATION), (INPUT, "a,b\n1,2\n")):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(content)
    project.begin_history()
    assert project.repro() == ["tiny"]
    project.commit("results")
    return project
