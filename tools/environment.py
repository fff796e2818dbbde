"""Write environment.toml: the versions of the packages that decide bytes, as requirements.lock pins them.

reads   requirements.lock, dvc.yaml
writes  environment.toml, on which each stage in dvc.yaml depends, package by package
run     make lock, or: python -m tools.environment
expect  a line for each package; after a change `dvc status` names the stages that run again
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.declaration import ENVIRONMENT

HEAD = """\
# Versions of the packages that decide bytes of an output; `make lock` writes them from requirements.lock. Each stage in
# dvc.yaml depends on those that it uses. Another version on purpose: write it here, and what depends on it runs again.
# Where there are two, the lock has one for older Pythons; results are the same.
[packages]
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file."""
    return run_tool("environment", make_parser("tools.environment", __doc__), write, argv)


def write(arguments: argparse.Namespace) -> int:
    """Write the file, and print the versions."""
    os.chdir(ROOT)
    content = text()
    files.atomic_write(ENVIRONMENT, content.encode())
    print(content.removeprefix(HEAD), end="")
    return 0


def text() -> str:
    """The content of environment.toml."""
    stages = yaml_file.load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    lists = (item[str(ENVIRONMENT)] for stage in stages for item in stage["params"] if isinstance(item, dict))
    names = sorted({key.removeprefix("packages.") for keys in lists for key in keys})
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    pins = {name: re.findall(rf"^{name}==([\w.]+)", lock, re.MULTILINE) for name in names}
    return HEAD + "".join(f"{name} = {json.dumps(versions)}\n" for name, versions in pins.items())


if __name__ == "__main__":
    sys.exit(main())
