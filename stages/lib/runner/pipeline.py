"""What dvc.yaml declares for a stage: it is the only place where inputs and outputs are listed.

A stage can read and write nothing else (see ``stage.py``), so dvc.yaml cannot fall behind the code.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.lib.runner import yaml12
from stages.lib.runner.errors import StageError


@dataclass(frozen=True)
class Declaration:
    """One stage of dvc.yaml, with the ``${...}`` of its params filled in."""

    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


def lookup(params: dict[str, Any], key: str) -> Any:
    """The value at a dotted key: ``train.epochs``.

    Raises:
        KeyError: no such key.
    """
    value: Any = params
    for part in key.split("."):
        value = value[part]
    return value


def declaration(stage: str, params: dict[str, Any], path: Path = Path("dvc.yaml")) -> Declaration:
    """Read a stage's declaration.

    Raises:
        StageError: dvc.yaml is missing or has no such stage.
    """
    try:
        stages = yaml12.load(path.read_text(encoding="utf-8"))["stages"]
        entry = stages[stage]
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `git checkout {path}` brings it back") from None
    except (yaml.YAMLError, KeyError, TypeError):
        raise StageError(f"{path}: has no readable stage {stage!r}; `git diff {path}` shows what was changed") from None

    def filled(text: str) -> str:
        return re.sub(r"\$\{([\w.-]+)\}", lambda match: str(lookup(params, match[1])), text)

    def paths(*groups: str) -> Iterable[str]:
        for group in groups:
            for item in entry.get(group, []):
                yield item if isinstance(item, str) else next(iter(item))

    return Declaration(
        deps=tuple(map(filled, paths("deps"))),
        params=tuple(filled(key) for key in entry.get("params", [])),
        outs=tuple(paths("outs", "metrics", "plots")),
    )
