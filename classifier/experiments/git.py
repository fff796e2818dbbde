"""Calls of git, and the references that DVC keeps experiments under."""

import os
import subprocess
from pathlib import Path

from classifier.errors import StageError


def git(folder: Path, *words: str, index: Path | None = None) -> str:
    """What a git command prints, without the last newline.

    Args:
        folder: where it runs.
        words: of the command.
        index: another file than git's own index.

    Raises:
        StageError: git failed; the message is its own.
    """
    environment = {**os.environ, "GIT_INDEX_FILE": str(index.resolve())} if index else None
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        command = next(word for word in words if not word.startswith("-") and "=" not in word)
        lines = done.stderr.strip().splitlines() or ["failed"]
        reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        raise StageError(f"git {command}: {reason.partition(': ')[2] or reason}")
    return done.stdout.rstrip("\n")


def experiment_references(folder: Path, name: str) -> list[str]:
    """The git references of the experiments of that name."""
    return [
        line for line in git(folder, "for-each-ref", "--format=%(refname)", "refs/exps/").splitlines()
        if line.rpartition("/")[2] == name and line.count("/") == 4
    ]  # fmt: skip
