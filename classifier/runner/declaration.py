"""The declaration of a stage in dvc.yaml: the only place where inputs and outputs are listed.

A stage can read and write nothing else (see ``context.py``), so dvc.yaml cannot fall behind the code.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.errors import StageError

ENVIRONMENT = Path("environment.toml")  # versions of packages, which stages list as params


@dataclass(frozen=True)
class Declaration:
    """One stage of dvc.yaml, with the ``${...}`` of its params filled in."""

    deps: tuple[str, ...]
    params: tuple[str, ...]
    packages: tuple[str, ...]  # whose versions are listed, from environment.toml
    outs: tuple[str, ...]  # metrics and plots included


def get_by_key(params: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, such as ``train.epochs``.

    Raises:
        KeyError: no such key.
    """
    value: Any = params
    for part in key.split("."):
        value = value[part]
    return value


def stages_from(stage: str, path: Path = Path("dvc.yaml")) -> list[str]:
    """A stage and those after it."""
    every = [*yaml_file.load(path.read_text(encoding="utf-8"))["stages"]]
    return every[every.index(stage) :]


def read_declaration(stage: str, params: dict[str, Any], path: Path = Path("dvc.yaml")) -> Declaration:
    """Read a stage's declaration.

    Raises:
        StageError: dvc.yaml is missing or has no such stage.
    """
    try:
        entry = yaml_file.load(path.read_text(encoding="utf-8"))["stages"][stage]
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `git checkout {path}` brings it back") from None
    except (yaml_file.YAMLFileError, KeyError, TypeError):
        raise StageError(f"{path}: has no readable stage {stage!r}; `git diff {path}` shows what was changed") from None

    def fill(text: str) -> str:
        return re.sub(r"\$\{([\w.-]+)\}", lambda match: str(get_by_key(params, match[1])), text)

    def paths(*groups: str) -> Iterator[str]:
        for group in groups:
            for item in entry.get(group, []):
                yield fill(item if isinstance(item, str) else next(iter(item)))

    listed = [keys for item in entry["params"] if isinstance(item, dict) for keys in item.values()]
    return Declaration(
        deps=tuple(paths("deps")),
        params=tuple(path for path in paths("params") if path != str(ENVIRONMENT)),
        packages=tuple(key.removeprefix("packages.") for keys in listed for key in keys),
        outs=tuple(paths("outs", "metrics", "plots")),
    )
