"""Kill a writer before each of its system calls in turn, as often as it has some: a power switch with a counter.

The kernel stops a traced process before and after each call (ptrace(2), PTRACE_SYSCALL; Linux), so nothing has to be
guessed about which calls a writer makes. Run as a program in the root of the small project of ``tiny.py``:
syscalls.py CASE. It prints JSON, one entry a kill: the state found, and the state and the files after the same writer
ran again.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from classifier.runner import files, stage
from classifier.runner.cli import ROOT
from classifier.runner.context import StageContext

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SYSCALL = 0, 7, 24
OUTS = ("models/first.bin", "models/second.bin", "metrics/tiny.json")  # of the stage
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int) -> None:
    if libc.ptrace(request, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def killed_before_call(number: int, write: Callable[[Callable[[], None]], None]) -> bool:
    """Run a writer in a forked process and kill it before its system call of that number, from 1.

    The writer calls its argument where the counting starts.

    Returns:
        False if it has fewer calls and has ended by itself.
    """
    pid = os.fork()
    if not pid:
        try:
            _ptrace(PTRACE_TRACEME, 0)
            write(lambda: os.kill(os.getpid(), signal.SIGSTOP))
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), f"the writer ended with {status} before it began"
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    for _ in range(2 * number - 1):  # it stops before and after each call, first before the first
        _ptrace(PTRACE_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the writer failed"
            return False
        assert os.WSTOPSIG(status) == signal.SIGTRAP
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


OLD, NEW = b"old" * 50_000, b"new" * 50_000


class OneFile:
    """``files.atomic_write`` over a file that is there."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "out"

    def prepare(self) -> None:
        self.path.write_bytes(OLD)

    def write(self, begin: Callable[[], None]) -> None:
        begin()
        files.atomic_write(self.path, NEW)

    def state(self) -> str:
        try:
            return {OLD: "old", NEW: "new"}.get(self.path.read_bytes(), "a part")
        except FileNotFoundError:
            return "none"


class Folder(OneFile):
    """``files.publish`` of a folder of two files, where none is: a stage has removed its outs when it starts."""

    def prepare(self) -> None:
        pass

    def write(self, begin: Callable[[], None]) -> None:
        begin()
        temporary = files.temporary_path(self.path)
        files.remove(temporary)
        temporary.mkdir()
        for name in ("a", "b"):
            (temporary / name).write_bytes(NEW)
        files.publish(temporary, self.path)

    def state(self) -> str:
        if not self.path.exists():
            return "none"
        found = {part.name: part.read_bytes() for part in self.path.iterdir()}
        return "new" if found == {"a": NEW, "b": NEW} else "a part"


class State(OneFile):
    """``Checkpoint.save`` of a third state, after two."""

    def __init__(self, folder: Path):
        from classifier.train.checkpoint import Checkpoint

        import torch

        super().__init__(folder)
        self.weights = torch.arange(1000.0)
        self.checkpoint = Checkpoint(folder / "run")

    def prepare(self) -> None:
        for step in (1, 2):
            self.checkpoint.save({"step": step, "weights": self.weights})

    def write(self, begin: Callable[[], None]) -> None:
        begin()
        self.checkpoint.save({"step": 3, "weights": self.weights})

    def state(self) -> str:
        saved = self.checkpoint.load()
        return {2: "old", 3: "new"}.get(saved["step"], "too old") if saved else "none"


class Stage(OneFile):
    """A whole stage with several outs, from the first that gets its name to the end of the process."""

    def prepare(self) -> None:
        for out in OUTS:
            (ROOT / out).unlink(missing_ok=True)

    def write(self, begin: Callable[[], None]) -> None:
        publish = files.publish

        def work(context: StageContext) -> None:
            for out in OUTS:
                context.out(out).write_bytes(NEW)

        def first(temporary: Path, path: Path) -> None:
            files.publish = publish
            begin()  # hashing the inputs takes hundreds of calls
            publish(temporary, path)

        files.publish = first
        assert stage.run_stage("tiny", work, None, []) == 0

    def state(self) -> str:
        paths = [ROOT / out for out in OUTS]
        there = [path.read_bytes() == NEW for path in paths if path.exists()]
        return f"{len(there)} of {len(paths)} outs" if all(there) else "a part"


def main(case: str) -> list[dict[str, Any]]:
    """Kill before the first call, the second, and so on until the writer has no more."""
    kind = {"file": OneFile, "folder": Folder, "state": State, "stage": Stage}[case]
    under_test = kind(ROOT / "scratch/written")
    found = []
    for number in count(1):
        shutil.rmtree(under_test.folder, ignore_errors=True)
        under_test.folder.mkdir(parents=True)
        under_test.prepare()
        if not killed_before_call(number, under_test.write):
            break
        entry = {"found": under_test.state()}
        again = os.fork()  # as the next run would: a new process, not one that remembers
        if not again:
            under_test.write(lambda: None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(again, 0)[1]) == 0
        entry["again"] = under_test.state()
        temporary = [path for path in ROOT.rglob(".tmp.*") if ".dvc" not in path.parts]
        found.append({**entry, "temporary": [str(path) for path in temporary]})
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
