"""The context of a stage: its inputs, its outputs, and how those are published."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from classifier import portability
from classifier.config import params_file
from classifier.config.schema import Params
from classifier.errors import ParamsError, StageError
from classifier.portability import pin_instruction_set
from classifier.runner import files, packages
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH, exclusive
from classifier.runner.signals import StopSignals
from classifier.runner.stat_cache import StatCache

# What a person puts there, no stage makes: the folder, what it is, the param that names it.
USERS_FILES = (("data/own/", "images", "dataset"), ("models/pretrained/", "file", "train.initial_checkpoint"))
UNTRACKED = ("download", "runtime")  # sections that cannot change a byte of any output
FINGERPRINT_FILE = "fingerprint.json"  # in the folder of an interrupted run's state: what decided its name

logger = logging.getLogger(__name__)


class _DeclaredParams:
    """A section of the params that refuses what dvc.yaml does not list; ``[...]`` is a variant by its name."""

    def __init__(self, section: Any, declared: set[str], prefix: str = ""):
        self._section, self._declared, self._prefix = section, declared, prefix

    def __getattr__(self, name: str) -> Any:
        key, value = f"{self._prefix}{name}", getattr(self._section, name)
        if key in self._declared:
            return value
        if not any(each.startswith(f"{key}.") for each in self._declared):
            raise AssertionError(f"dvc.yaml does not list the param {key!r} for this stage")
        return _DeclaredParams(value, self._declared, f"{key}.")

    __getitem__ = __getattr__


class StageContext:
    """The inputs, params and outputs that dvc.yaml declares for a stage, which can use nothing else.

    Attributes:
        name: of the stage.
        signals: where the stage asks whether to stop.
        overrides: other values for params, by dotted key.
        folder: below which the outputs go; the workspace, unless ``--out`` names another.
        packages: the versions of those that dvc.yaml lists for this stage.
        state: the scratch folder of what an interrupted run goes on from, once ``fingerprint`` was called.
        resume_hint: what a person is told when the stage was stopped.
    """

    is_rank_zero = True  # False in the other processes of a distributed run, see train/processes.py

    def __init__(
        self, name: str, signals: StopSignals, overrides: Mapping[str, Any] | None = None, folder: Path = Path()
    ):
        self.name = name
        self.signals = signals
        self.overrides, self.folder = overrides or {}, folder
        self.resume_hint = "nothing was published; the same command starts it again"
        self._params, self._plain = params_file.read(overrides=self.overrides)
        self._declared = read_declaration(name, self._plain)
        overruled = pin_instruction_set(self._params.compute.portable)  # before PyTorch and NumPy are imported
        if name == "train":  # one warning a `dvc repro` is enough, and this is the stage that people look at
            for line in overruled:
                logger.warning(line)
        self.state = SCRATCH
        self.packages = packages.installed(self._declared.packages)
        if others := packages.differences(self._declared.packages):
            if self._params.compute.portable:
                raise ParamsError(f"{others[0]}; `make setup` installs the lock, or write the new version there")
            logger.warning(f"{others[0]}, so dvc.lock would name another version")
        self._inputs: dict[str, str] = {}
        self._cache = folder / SCRATCH / "cache" / name
        self._after_success: list[Callable[[], None]] = []
        self._held = contextlib.ExitStack()  # locks

    # --- what the stage's work calls ---------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """params.yaml, as far as dvc.yaml lists it for this stage, and what cannot change a byte of any output."""
        return cast(Params, _DeclaredParams(self._params, {*self._declared.params, *UNTRACKED}))

    def declared_params(self) -> dict[str, Any]:
        """Everything that dvc.yaml lists for this stage, by its dotted key, as written in params.yaml."""
        return {key: get_by_key(self._plain, key) for key in self._declared.params}

    def dep(self, path: str) -> Path:
        """The path of a declared input."""
        if path not in self._declared.deps:
            raise AssertionError(f"dvc.yaml does not list {path!r} as a dep of stage {self.name}")
        return self._locate(path)

    def _locate(self, path: str) -> Path:
        """Where an input is: an earlier stage may have written it to the folder of ``--out``."""
        return inside if (inside := self.folder / path).exists() else Path(path)

    def out(self, path: str) -> Path:
        """Where to write a declared output: a temporary path, until the whole stage has succeeded."""
        if path not in self._declared.outs:
            raise AssertionError(f"dvc.yaml does not list {path!r} as an out of stage {self.name}")
        return files.temporary_path(self.folder / path)

    def untracked_out(self, path: str) -> Path:
        """Where to write what DVC does not know of."""
        return self.folder / path

    def publish_preview(self, path: str) -> None:
        """Show an output while the stage runs; it is written again at the end, and removed on failure."""
        files.publish(self.out(path), self.folder / path)

    def read_json(self, path: str) -> dict[str, Any]:
        """Read a declared JSON input."""
        content: dict[str, Any] = json.loads(self.dep(path).read_text(encoding="utf-8"))
        return content

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a JSON output: sorted keys, finite numbers, one newline at the end."""
        self.out(path).write_bytes(portability.json_bytes(content))

    def arguments(self) -> list[str]:
        """The command line of another process of this run."""
        overrides = (f"-S{key}={json.dumps(value)}" for key, value in self.overrides.items())
        return [*overrides, f"--out={self.folder}"] if self.folder != Path() else []

    def fingerprint(self, **beyond: Any) -> str:
        """A name for everything that decides the result: declared params, hashes of inputs and code, and more.

        What it stands for is noted in the scratch folder of that name, for `python -m tools.checkpoints`. Until the
        stage ends, no other process may go on with the state there.
        """
        decided_by = {"inputs": self._inputs, "params": self.declared_params(), "packages": self.packages, **beyond}
        name = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:16]
        if self.is_rank_zero:
            self.state = SCRATCH / f"{self.name}-{name}"
            self._held.enter_context(exclusive(self.name, self.state))
            files.atomic_write(self.state / FINGERPRINT_FILE, portability.json_bytes(decided_by))
        return name

    def cache(self) -> Path:
        """The folder for what spares this code work the next time; it may be removed between two runs."""
        code = {path: digest for path, digest in self._inputs.items() if path.startswith(("classifier/", "stages/"))}
        version = hashlib.sha256(json.dumps([code, self.packages], sort_keys=True).encode()).hexdigest()[:16]
        for other in self._cache.glob("code-*"):
            if other.name != f"code-{version}":
                files.remove(other)
        return self._cache / f"code-{version}"

    def on_success(self, action: Callable[[], None]) -> None:
        """Do something once every output is published: until then a checkpoint may still be needed."""
        self._after_success.append(action)

    # --- what run_stage calls ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything around the stage's work: lock, inputs, and at its end the outputs, all of them or none."""
        with self._held:
            self._held.enter_context(exclusive(self.name, self.folder / SCRATCH))
            try:
                self._prepare()
                yield
                self._publish()
            except BaseException:
                self._discard_outputs()
                raise

    def _prepare(self) -> None:
        """Clear the way for new outputs and remember what the inputs are."""
        for path in self._outs():
            files.remove(path)
            files.remove(files.temporary_path(path))
            path.parent.mkdir(parents=True, exist_ok=True)
        self._inputs = self._hash_inputs()

    def _publish(self) -> None:
        """Give every output its name, or raise and leave none."""
        for path in self._outs():
            if not files.temporary_path(path).exists():
                raise AssertionError(f"stage {self.name} did not write {path}")
        now = self._hash_inputs()
        changed = [path for path in sorted({**self._inputs, **now}) if self._inputs.get(path) != now.get(path)]
        changed += self._changed_params()
        self.signals.check_parent()
        if changed:
            raise StageError(f"{', '.join(changed)} changed while the stage ran; nothing was published; run it again")
        with self.signals.deferred():
            for path in self._outs():
                files.publish(files.temporary_path(path), path)
        self.signals.ignore_from_now_on()
        for action in self._after_success:
            action()

    def _discard_outputs(self) -> None:
        """Leave no output behind that looks finished, and let no second signal interrupt that."""
        self.signals.defer_for_good()
        with contextlib.suppress(OSError):  # a read-only folder: then nothing was written there either
            for path in self._outs():
                files.remove(files.temporary_path(path))
                files.remove(path)

    def _outs(self) -> list[Path]:
        return [self.folder / path for path in self._declared.outs]

    def _changed_params(self) -> list[str]:
        try:
            _, now = params_file.read(overrides=self.overrides)
            return [
                f"params.yaml ({key})" for key, was in self.declared_params().items() if get_by_key(now, key) != was
            ]
        except (ParamsError, KeyError, TypeError):
            return ["params.yaml"]

    def _hash_inputs(self) -> dict[str, str]:
        for path in self._declared.deps:
            if self._locate(path).exists():
                continue
            for folder, what, key in USERS_FILES:
                if path.startswith(folder):
                    raise StageError(
                        f"{path} is missing; put your {what} there, or name another `{key}` in params.yaml"
                    )
            raise StageError(f"{path} is missing; `dvc repro {self.name}` makes what this stage needs")
        known = StatCache(self._cache / "inputs")
        deps = map(self._locate, self._declared.deps)
        found = files.digests(deps, lambda path: known.get(path, partial(files.digest, path)))
        if self.is_rank_zero:
            known.save()
        return {path.removeprefix(f"{self.folder.as_posix()}/"): digest for path, digest in found.items()}
