"""Programs that tests run, and the processes that these leave."""

import subprocess
from pathlib import Path
from typing import Any

import psutil

SECONDS = 300  # that a command may take


def execute(
    *command: str | Path, status: int = 0, timeout: float = SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program and expect an exit status."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def ended(process: subprocess.Popen[str], status: int, seconds: float = 60) -> str:
    """Wait until a process and all that share its output have ended, expect its exit status, and return its errors."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == status, errors
    return errors


def processes_in(folder: Path, word: str = "") -> list[psutil.Process]:
    """The processes that work in a folder, whoever their parent is, oldest first.

    The word, if any, is among the first of their command line: behind ``python -u -m``.
    """
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "create_time"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and (not word or word in words[:4]):
            found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])
