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
import atexit
import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from stages.lib import params
from stages.lib.runner import files, pipeline
from stages.lib.runner.errors import ParamsError, StageError

ROOT = Path(__file__).resolve().parents[3]
SCRATCH = Path("scratch")  # unknown to git and DVC: locks and checkpoints
ABOUT = "about.json"  # in a state's folder: what decided its name
WATCH_SECONDS = 0.5  # between two looks at the parent; a look costs 0.1 ms
LOCK_WAIT_SECONDS = 5  # an orphaned run notices and stops well within them


class Interrupted(BaseException):
    """A signal, raised where it is safe to stop. No ``Exception``, so that no handler swallows it."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Run:
    """What a stage may read and write: all that dvc.yaml declares for it, and nothing else."""

    leads = True  # False in the further processes of a run, see processes.py

    def __init__(self, name: str):
        self.name = name
        self.note_on_stop = "nothing was published; the same command starts it again"
        self._params, self._plain = params.read()
        self._declared = pipeline.declaration(name, self._plain)
        self._inputs: dict[str, str] = {}
        self._pending = 0  # the signal that came while it had to wait
        self._deferred = 0
        self._after_success: list[Callable[[], None]] = []
        self._guardians: list[Any] | None = None
        self.orphaned = False  # whether it is for this that the stage stops

    # --- what the stage's work calls ---------------------------------------------------------------------------

    def param(self, key: str) -> Any:
        """A params section (or value) by its dotted key, which dvc.yaml must list for this stage word for word."""
        if key not in self._declared.params:
            raise AssertionError(f"dvc.yaml does not list the param {key!r} of stage {self.name}")
        return self._get(key)

    def params(self) -> dict[str, Any]:
        """Everything that dvc.yaml lists for this stage, by its dotted key, as it stands in params.yaml."""
        return {key: pipeline.lookup(self._plain, key) for key in self._declared.params}

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
        """A name for everything that decides the result: declared params, hashes of inputs and code, and more.

        What it stands for is noted in the scratch folder of that name, for `python -m stages.leftovers`.
        """
        import hashlib

        decided_by = {"inputs": self._inputs, "params": self.params(), **beyond}
        name = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:16]
        if self.leads:
            about = json.dumps(decided_by, sort_keys=True, indent=1).encode()
            files.write_whole(SCRATCH / f"{self.name}-{name}" / ABOUT, about)
        return name

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
        """Whether a signal waits; one comes as well when the DVC is gone that would have recorded the result."""
        return bool(self._pending)

    def stop_if_asked(self) -> None:
        """Stop here if a signal waits.

        Raises:
            Interrupted: a signal came, or the DVC that started this stage is gone.
        """
        if self._pending and not self._deferred:
            raise Interrupted(self._pending)

    # --- what run_stage calls ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """From here on obey signals, and stop when the DVC that started this stage is gone."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)
        self._guardians = _guardians()
        self._stop_if_orphaned()
        if self._guardians is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep a second run of the stage out."""
        return lock(self.name)

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
        now = self._hash_inputs()
        changed = [path for path in sorted({**self._inputs, **now}) if self._inputs.get(path) != now.get(path)]
        changed += self._changed_params()
        self._stop_if_orphaned()
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
        self._pending = self._pending or signum
        self.stop_if_asked()

    def _get(self, key: str) -> Any:
        value: Any = self._params
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def _changed_params(self) -> list[str]:
        try:
            _, now = params.read()
            return [f"params.yaml ({key})" for key, was in self.params().items() if pipeline.lookup(now, key) != was]
        except (ParamsError, KeyError, TypeError):
            return ["params.yaml"]

    def _hash_inputs(self) -> dict[str, str]:
        for path in self._declared.deps:
            if not Path(path).exists():
                raise StageError(f"{path} is missing; `dvc repro {self.name}` makes what this stage needs")
        return files.digests(self._declared.deps)

    def _watch(self) -> None:
        """Send this process a SIGTERM once its DVC is gone, wherever the work is."""
        while not self._is_orphan():
            time.sleep(WATCH_SECONDS)
        self.orphaned = not self._pending
        os.kill(os.getpid(), signal.SIGTERM)

    def _stop_if_orphaned(self) -> None:
        if not self._pending and self._is_orphan():
            self._pending, self.orphaned = signal.SIGTERM, True
        self.stop_if_asked()

    def _is_orphan(self) -> bool:
        if self._guardians is None:
            return False
        import psutil

        try:
            alive = [p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self._guardians]
        except psutil.NoSuchProcess:
            return True
        return not alive or not all(alive)


def _guardians() -> list[Any] | None:
    """The processes whose end orphans this stage: the ``dvc`` that started it and what stands between, a shell for one.

    Returns:
        None for a run by hand, which may outlive its shell, under nohup for one; an empty list if DVC is gone already.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    import psutil

    guardians: list[Any] = []
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        below = psutil.Process()
        for parent in below.parents():
            guardians.append(parent)
            if not _is_below_dvc(parent):
                # DVC starts stages in its own process group. Whoever inherited this one from a dead DVC has another.
                alone = os.name == "posix" and os.getpgid(parent.pid) != os.getpgid(below.pid)
                return [] if alone else guardians
            below = parent
    return []


def _is_below_dvc(process: Any) -> bool:
    """Whether DVC started a process, or an ancestor of it, as a stage."""
    import psutil

    try:
        return "DVC_STAGE" in process.environ()
    except psutil.AccessDenied:
        return False  # another user's: the machine's first process, for one


@contextlib.contextmanager
def lock(name: str, wait_seconds: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
    """Keep a second run of the same stage out.

    Raises:
        StageError: another process holds the lock; the line names it.
    """
    import filelock

    SCRATCH.mkdir(exist_ok=True)
    holder = SCRATCH / f"{name}.pid"
    try:
        with filelock.FileLock(SCRATCH / f"{name}.lock", timeout=wait_seconds):
            holder.write_text(str(os.getpid()))
            yield
    except filelock.Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise StageError(f"another {name} is running here (process {pid}); wait for it or stop it") from None


def run_stage(
    name: str,
    work: Callable[[Run], None],
    doc: str | None,
    argv: Sequence[str] | None = None,
    kind: type[Run] = Run,
) -> int:
    """Run one stage as a program and return its exit status: 0, 1 data, 2 params, 130 SIGINT, 143 SIGTERM."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    debug = parser.parse_args(argv).debug
    os.chdir(ROOT)  # the paths in dvc.yaml are relative to it
    # Imports make half a million objects that stay. Python's collector would walk over them again and again, and once
    # more at the end: the better part of a second.
    gc.set_threshold(100_000)
    atexit.register(_spare_the_last_collection)
    try:
        run = kind(name)
        run.listen()
        with run.alone():
            try:
                run.start()
                work(run)
                run.publish()
            except BaseException:
                run.retract()
                raise
    except Interrupted as stop:
        if run.orphaned:
            print(f"{name}: error: the `dvc` that started this stage is gone; {run.note_on_stop}", file=sys.stderr)
            return 128 + stop.signum
        print(f"{name}: stopped by {signal.Signals(stop.signum).name}; {run.note_on_stop}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_status if isinstance(error, StageError) else 1
    return 0


def _spare_the_last_collection() -> None:
    if "triton" not in sys.modules:  # its library would list on the terminal whatever was not collected
        gc.freeze()


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
