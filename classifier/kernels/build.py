"""Compile the kernels if there is a C compiler: ``python -m classifier.kernels.build``; ``make setup`` calls it.

It prints one line if there is none, or if it fails: results may then differ between machines.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from classifier.kernels import library

COMPILERS = ("cc", "gcc", "clang")


def main() -> None:
    """Compile what is missing."""
    folder = Path(sysconfig.get_path("platlib"))
    for instructions, options in library.instruction_sets().items():
        if problem := build(folder / library.file_name(instructions), options):
            print(f"setup: {problem}; results may differ between machines", file=sys.stderr)
            break


def build(path: Path, options: list[str]) -> str | None:
    """Compile a library, unless it is there; what went wrong, in a line."""
    if path.exists():
        return None
    compiler = shlex.split(os.environ.get("CC", "")) or [next(filter(shutil.which, COMPILERS), "")]
    if not shutil.which(compiler[0]):
        return f"no C compiler{f' {compiler[0]}' if compiler[0] else ''} was found"
    making = path.with_suffix(f".{os.getpid()}")  # nobody loads a part of it
    words = [*compiler, *library.OPTIONS, *options, *map(str, library.SOURCES), "-o", str(making)]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        making.unlink(missing_ok=True)
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
        return f"{shlex.join(compiler)} cannot compile the kernels ({reason.strip()})"
    making.replace(path)
    return None


if __name__ == "__main__":
    main()
