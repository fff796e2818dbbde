"""Everything that decides the result of a training: params, inputs, packages, and the processor where it matters."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from classifier import portability
from classifier.config import params_file
from classifier.errors import StageError
from classifier.experiments.settings import SEARCHED
from classifier.runner import files, packages
from classifier.runner.cli import ROOT
from classifier.runner.declaration import read_declaration
from classifier.yaml_file import flatten


def everything(params: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result of ``train`` with these params: by dotted key, path, or name."""
    chosen = {section: params[section] for section in ("compute", *SEARCHED)}
    return flatten(chosen) | beyond_params(["train"], params)


def beyond_params(stages: Sequence[str], params: dict[str, Any]) -> dict[str, str]:
    """The digests of the stages' inputs, the versions of packages, and the processor unless results are portable.

    Raises:
        StageError: an input is missing.
    """
    found = [file for path in inputs(stages, params) for file in files.iter_files(ROOT / path)]
    return {
        **{file.relative_to(ROOT).as_posix(): files.digest(file) for file in found},
        **packages.installed([*read_declaration("train", params, ROOT / "dvc.yaml").packages, "optuna"]),
        "processor": processor(params),
    }


def processor(params: dict[str, Any]) -> str:
    """The processor, or "any" if results do not depend on it."""
    from classifier.model import compute  # PyTorch takes seconds, and most comparisons need none

    is_alike = compute.is_same_everywhere(params_file.validate(params))
    return "any" if is_alike else portability.cpu_info().get("model name", "unknown")


def inputs(stages: Sequence[str], params: dict[str, Any]) -> list[str]:
    """The files and folders that the stages read and none of them writes.

    Raises:
        StageError: one is missing.
    """
    declared = [read_declaration(stage, params, ROOT / "dvc.yaml") for stage in stages]
    written = {path for stage in declared for path in stage.outs}
    found = sorted({path for stage in declared for path in stage.deps} - written)
    for path in found:
        if not (ROOT / path).exists():
            raise StageError(f"{path} is missing; `dvc repro {stages[0]}` makes what is needed")
    return found


def digest(content: dict[str, Any]) -> str:
    """Digits that stand for all of it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys whose values are not the same."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]
