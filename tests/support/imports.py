"""What the modules of this repository import of each other, read from their source."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("classifier", "stages", "tools", "tests", "demo", "benchmarks")


def path_of(name: str) -> str | None:
    """The file of a module of this repository by its dotted name: a module, or the ``__init__.py`` of a package."""
    place = name.replace(".", "/")
    if name.split(".")[0] in PACKAGES:
        for path in (f"{place}.py", f"{place}/__init__.py"):
            if (ROOT / path).exists():
                return path
    return None


@cache
def direct(path: str) -> frozenset[str]:
    """The files that a file imports itself, anywhere in it, with the packages that Python imports on the way."""
    found = set()
    for name in _names(path):
        parts = name.split(".")
        found |= {path_of(".".join(parts[:length])) for length in range(1, len(parts) + 1)}
    return frozenset(filter(None, found)) - {path}


def _names(path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import, which this module does not follow"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def all_of(path: str) -> set[str]:
    """The files that a file imports itself or through others."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        new = direct(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def packages_of(path: str) -> set[str]:
    """The packages of others that a file imports itself or through others, as they are called on the index."""
    names = {name.split(".")[0] for file in {path, *all_of(path)} for name in _names(file)}
    known = packages_distributions()
    return {min(known[name], key=len).lower() for name in names - set(PACKAGES) - sys.stdlib_module_names}


def modules(*packages: str) -> list[str]:
    """The files of packages."""
    return sorted(file.relative_to(ROOT).as_posix() for name in packages for file in (ROOT / name).rglob("*.py"))
