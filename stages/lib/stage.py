"""What every stage script needs, once: arguments, validated params, checked inputs, whole outputs, signals.

A script hands its ``work`` function to ``run_stage``. What happens around it:

1. validate the whole of params.yaml, before any work (exit status 2 if it is wrong);
2. take the stage's lock, remove the outs of an earlier run (as DVC does) and hash every declared input;
3. run ``work``, which writes each out to a temporary file that ``Run.out`` names;
4. hash the inputs again: DVC records the hashes that they have *after* the run, so a file edited meanwhile would be
   recorded with a result that did not come from it;
5. give all outs their names. If anything fails, or a signal comes, none of them is there.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from stages.lib import files, params, pipeline
from stages.lib.errors import ParamsError, StageError

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = Path("scratch")  # unknown to git and DVC: locks and checkpoints
LOCK_WAIT_SECONDS = 5  # an orphaned run notices within a training step that its DVC is gone


class Interrupted(BaseException):
    """A signal, raised where it is safe to stop. No ``Exception``, so that no handler swallows it."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Run:
    """What a stage may read and write: all that dvc.yaml declares for it, and nothing else."""

    def __init__(self, name: str):
        self.name = name
        self.note_on_stop = "nothing was published; the same command starts it again"
        self._params, self._plain = params.read()
        self._declared = pipeline.declaration(name, self._plain)
        self._inputs: dict[str, str] = {}
        self._pending = 0  # the signal that came while it had to wait
        self._deferred = 0
        self._after_success: list[Callable[[], None]] = []
        self._guardians = _guardians()
        self._orphaned = False  # once true, it stays true
        self._looked_after_them = time.monotonic()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)

    # --- what the stage's work calls ---------------------------------------------------------------------------

    def param(self, key: str) -> Any:
        """A params section (or value) by its dotted key, which dvc.yaml must list for this stage word for word."""
        if key not in self._declared.params:
            raise AssertionError(f"dvc.yaml does not list the param {key!r} of stage {self.name}")
        return self._get(key)

    def setting(self, key: str) -> Any:
        """A value of params.yaml that cannot change a byte of any out, so that dvc.yaml leaves it out."""
        if key in self._declared.params:
            raise AssertionError(f"{key!r} is a declared param of stage {self.name}")
        return self._get(key)

    def dep(self, path: str) -> Path:
        """The path of a declared input."""
        if path not in self._declared.deps:
            raise AssertionError(f"dvc.yaml does not list {path!r} as a dep of stage {self.name}")
        return Path(path)

    def out(self, path: str) -> Path:
        """Where to write a declared out: a temporary name, until the whole stage has succeeded."""
        if path not in self._declared.outs:
            raise AssertionError(f"dvc.yaml does not list {path!r} as an out of stage {self.name}")
        return files.temporary_name(Path(path))

    def show(self, path: str) -> None:
        """Let people look at an out while the stage runs; it is written again at the end, and removed on failure."""
        files.publish(self.out(path), Path(path))

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a JSON out: sorted keys, finite numbers, one line end at the end."""
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        self.out(path).write_text(text, encoding="utf-8")

    def say(self, text: str) -> None:
        """Tell the person what happened."""
        print(f"{self.name}: {text}", flush=True)

    def fingerprint(self, **beyond: Any) -> str:
        """A name for everything that decides the result: declared params, hashes of inputs and code, and more."""
        import hashlib

        decided_by = {"inputs": self._inputs, "params": self._values(), **beyond}
        return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:16]

    def on_success(self, action: Callable[[], None]) -> None:
        """Do something once every out has its name: until then a checkpoint may still be needed."""
        self._after_success.append(action)

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Hold signals back, so that a change of several files or tensors is never left half done."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self.stop_if_asked()

    def must_stop(self) -> bool:
        """Whether a signal waits, or the DVC that started this stage is gone: nobody would record its result."""
        return bool(self._pending) or self._is_orphan()

    def stop_if_asked(self) -> None:
        """Stop here if a signal waits.

        Raises:
            Interrupted: a signal came.
            StageError: the DVC that started this stage is gone.
        """
        if self._deferred:
            return
        if self._pending:
            raise Interrupted(self._pending)
        if self._is_orphan():
            raise StageError(f"the `dvc` that started this stage is gone; {self.note_on_stop}")

    # --- what run_stage calls ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Clear the way for new outs and remember what the inputs are."""
        for path in self._declared.outs:
            files.remove(Path(path))
            files.remove(files.temporary_name(Path(path)))
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._inputs = self._hash_inputs()

    def publish(self) -> None:
        """Give every out its name, or raise and leave none."""
        for path in self._declared.outs:
            if not files.temporary_name(Path(path)).exists():
                raise AssertionError(f"stage {self.name} did not write {path}")
        changed = [path for path, was in self._hash_inputs().items() if was != self._inputs[path]]
        changed += self._changed_params()
        self._looked_after_them = 0.0
        self.stop_if_asked()
        if changed:
            raise StageError(f"{', '.join(changed)} changed while the stage ran; nothing was published; run it again")
        with self.uninterrupted():
            for path in self._declared.outs:
                files.publish(files.temporary_name(Path(path)), Path(path))
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # the work is done and whole: too late to stop it
        for action in self._after_success:
            action()

    def retract(self) -> None:
        """Leave no out behind that looks finished, and let no second signal come between."""
        self._deferred += 1
        with contextlib.suppress(OSError):  # a read-only folder: then nothing was written there either
            for path in self._declared.outs:
                files.remove(files.temporary_name(Path(path)))
                files.remove(Path(path))

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._pending = signum
        if not self._deferred:
            raise Interrupted(signum)

    def _get(self, key: str) -> Any:
        value: Any = self._params
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def _values(self) -> dict[str, Any]:
        return {key: pipeline.lookup(self._plain, key) for key in self._declared.params}

    def _changed_params(self) -> list[str]:
        try:
            _, now = params.read()
            return [f"params.yaml ({key})" for key, was in self._values().items() if pipeline.lookup(now, key) != was]
        except (ParamsError, KeyError, TypeError):
            return ["params.yaml"]

    def _hash_inputs(self) -> dict[str, str]:
        hashes = {}
        for path in self._declared.deps:
            try:
                hashes[path] = files.digest(Path(path))
            except FileNotFoundError:
                raise StageError(f"{path} is missing; `dvc repro {self.name}` makes what this stage needs") from None
        return hashes

    def _is_orphan(self) -> bool:
        if self._orphaned or not self._guardians or time.monotonic() < self._looked_after_them + 1:
            return self._orphaned  # a look costs 0.1 ms, so there is one a second
        import psutil

        self._looked_after_them = time.monotonic()
        self._orphaned = any(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in self._guardians)
        return self._orphaned


def _guardians() -> list[Any]:
    """The processes whose end orphans this stage: the ``dvc`` that started it and the shell between, if any."""
    if "DVC_STAGE" not in os.environ:
        return []  # run by hand: it may outlive its shell, under nohup for one
    import psutil

    parents = psutil.Process().parents()[:2]
    is_shell = parents and parents[0].name() in {"sh", "bash", "dash", "zsh", "fish"}
    return parents if is_shell else parents[:1]


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Keep a second run of the same stage out.

    Raises:
        StageError: another process holds the lock; the line names it.
    """
    import filelock

    SCRATCH.mkdir(exist_ok=True)
    holder = SCRATCH / f"{name}.pid"
    try:
        with filelock.FileLock(SCRATCH / f"{name}.lock", timeout=LOCK_WAIT_SECONDS):
            holder.write_text(str(os.getpid()))
            yield
    except filelock.Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise StageError(f"another {name} is running here (process {pid}); wait for it or stop it") from None


def run_stage(name: str, work: Callable[[Run], None], doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Run one stage as a program and return its exit status: 0, 1 data, 2 params, 130 SIGINT, 143 SIGTERM."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    debug = parser.parse_args(argv).debug
    os.chdir(ROOT)  # the paths in dvc.yaml are relative to it
    try:
        run = Run(name)
        with _lock(name):
            try:
                run.start()
                work(run)
                run.publish()
            except BaseException:
                run.retract()
                raise
    except Interrupted as stop:
        print(f"{name}: stopped by {signal.Signals(stop.signum).name}; {run.note_on_stop}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_status if isinstance(error, StageError) else 1
    return 0


def _one_line(error: Exception) -> str:
    match error:
        case StageError():
            return str(error)
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}; free space or rights are needed there, then run it again"
        case OSError() if error.strerror:
            return f"{error.strerror}; nothing was published; mend that and run it again"
        case _:
            first_line = str(error).strip().partition("\n")[0]
            return f"{type(error).__name__}: {first_line} (unexpected; --debug shows where)"
