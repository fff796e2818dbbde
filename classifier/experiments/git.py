"""Calls of git, the references that DVC keeps experiments under, and what dvc.lock records of a run."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.errors import StageError
from classifier.yaml_file import flatten

WORKSPACE = "workspace"  # instead of a revision


def git(folder: Path, *words: str, **variables: str) -> str:
    """The output of a git command, without the last newline.

    Args:
        folder: where it runs.
        words: of the command.
        variables: of its environment, beside those of this process.

    Raises:
        StageError: git is missing, or it failed; then the message is its own.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=os.environ | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise StageError("git is not installed") from None
    if done.returncode:
        command = next(word for word in words if not word.startswith("-") and "=" not in word)
        lines = done.stderr.strip().splitlines() or ["failed"]
        reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        if "not a git repository" in reason:
            raise StageError("this needs a git repository with a commit: `git init`, `git add`, `git commit`")
        raise StageError(f"git {command}: {reason.partition(': ')[2] or reason}")
    return done.stdout.rstrip("\n")


def resolve(folder: Path, revision: str) -> str:
    """The git reference of the experiment of that name, or else the revision itself."""
    references = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").splitlines()
    return next((each for each in references if each.rpartition("/")[2] == revision), revision)


def commit_folder(folder: Path, parent: str, reference: str, message: str) -> None:
    """Commit all that a folder has, as if it were the working tree; branch, index and working tree stay.

    Args:
        folder: below the working tree, but ignored there.
        parent: the commit that it is a change of.
        reference: that names the new commit.
        message: of the commit.

    Raises:
        StageError: git failed.
    """
    index = {"GIT_INDEX_FILE": f"{folder}.index"}
    git(folder, "read-tree", parent, **index)
    git(folder, "--work-tree=.", "add", "--all", **index)
    tree = git(folder, "write-tree", **index)
    Path(index["GIT_INDEX_FILE"]).unlink()
    someone = {"EMAIL": os.environ.get("EMAIL", "unknown")}  # if git knows no address
    commit = git(folder, "commit-tree", tree, "-p", parent, "-m", message, **someone)
    # Nobody else writes the reference, so a lock on it is of a git that was killed.
    (folder / git(folder, "rev-parse", "--git-path", f"{reference}.lock")).unlink(missing_ok=True)
    git(folder, "update-ref", reference, commit)


def read_file(folder: Path, revision: str, path: str) -> str:
    """A file of a revision, or of the workspace.

    Raises:
        StageError: there is none.
    """
    try:
        if revision == WORKSPACE:
            return (folder / path).read_text(encoding="utf-8")
        return git(folder, "show", f"{revision}:./{path}") + "\n"
    except FileNotFoundError:
        raise StageError(f"{revision}: {path} is missing") from None


def recorded_run(folder: Path, revision: str, stages: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that decided a result, and the metrics of the last of the stages that made it.

    What decided it is in dvc.lock, params by dotted key and hashes of inputs by path; params.yaml may have been edited
    since.

    Raises:
        StageError: dvc.lock does not record the stages, or other inputs of one than an earlier one made, or other
            metrics.
    """
    name = revision.rpartition("/")[2] if revision.startswith("refs/exps/") else revision
    metrics = f"metrics/{stages[-1]}.json"
    decided: dict[str, Any] = {}
    made: dict[str, str] = {}
    try:
        content = read_file(folder, revision, metrics)
        locked = yaml_file.load(read_file(folder, revision, "dvc.lock"))["stages"]
        for stage in stages:
            decided |= flatten(locked[stage]["params"]["params.yaml"])
            versions = locked[stage]["params"].get("environment.toml", {})
            decided |= {f"environment.toml/{key}": value for key, value in versions.items()}
            inputs = {dep["path"]: dep["md5"] for dep in locked[stage]["deps"]}
            if changed := [path for path, digest in inputs.items() if made.get(path, digest) != digest]:
                raise StageError(f"{name}: {stage} has not run with this {changed[0]}")
            decided |= inputs
            made |= {out["path"]: out["md5"] for out in locked[stage]["outs"]}
        if hashlib.md5(content.encode()).hexdigest() != made[metrics]:
            raise StageError(f"{name}: {metrics} is not what dvc.lock records")
        return decided, json.loads(content)
    except (yaml_file.YAMLFileError, KeyError, TypeError):
        raise StageError(f"{name}: dvc.lock has no readable {stages[-1]}") from None
