"""Stages, tools and DVC in the process of the test: debuggers stop in their code, coverage sees it, patches reach it.

A program changes its process: working directory, environment, signal handlers, loggers, random generators, threads.
All of that is as before when it has ended. What it prints, and what programs print that it starts, is captured.
"""

import contextlib
import gc
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from classifier import portability
from classifier.kernels import calls
from classifier.prepare.registry import DATASETS
from classifier.runner import cli, stage
from classifier.runner.cli import ROOT as REPOSITORY
from classifier.runner.logs import OUR_LOGGERS
from classifier.runner.signals import STOP_SIGNALS

import dvc.cli
import dvc.stage.run
import torch
from dvc.stage.exceptions import StageCmdFailedError
from dvc.ui import ui


class Programs:
    """Runs programs on a project's folder, in this process.

    Attributes:
        root: the folder of the project; the code is that of this repository.
        environment: of the programs.
        fashion_mnist: the entry of the registry that has the digests of the small data set.
    """

    def __init__(self, root: Path, environment: Mapping[str, str], fashion_mnist: Any):
        self.root, self.environment, self.fashion_mnist = root, environment, fashion_mnist
        self._errors: list[Exception] = []  # that a program reported in one line

    def run(self, words: Sequence[str], status: int, cwd: Path) -> "subprocess.CompletedProcess[str]":
        """Run ``dvc ...`` or a module, ``stages.train ...``, and expect an exit status.

        Raises:
            Exception: the status is another one: the error that the program reported, so that a debugger is where it
                was raised.
        """
        program, *arguments = words
        with _captured() as printed, self._settings():
            found = self._dvc(arguments, cwd) if program == "dvc" else self._module(program, arguments, cwd)
        done = subprocess.CompletedProcess(words, found, *printed)
        if found == status:
            return done
        message = f"{' '.join(words)}: {found}\n{done.stdout}\n{done.stderr}"
        if found == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if self._errors:
            self._errors[-1].add_note(message)
            raise self._errors[-1]
        raise AssertionError(message)

    def _module(self, name: str, arguments: Sequence[str], cwd: Path, environment: Any = None) -> int:
        """As ``python -m name``."""
        script = self.root / f"{name.replace('.', '/')}.py"
        with _process([str(script), *arguments], cwd, environment or self.environment):
            try:
                runpy.run_module(name, run_name="__main__")
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def _dvc(self, arguments: Sequence[str], cwd: Path) -> int:
        """As ``dvc``; the stages of this repository run here, too."""
        ui.__dict__.pop("rich_console", None)  # it has the width of an earlier call
        start = dvc.stage.run._run

        def run_command(executable: str, command: str, **options: Any) -> None:
            module = re.fullmatch(r"python -m (stages\.\w+)", command)
            if not module or not (REPOSITORY / f"{module[1].replace('.', '/')}.py").exists():
                start(executable, command, **options)
                return
            options["env"].pop("DVC_STAGE")  # a stage would look for the DVC that is its parent
            if status := self._module(module[1], [], options["cwd"], options["env"]):
                raise StageCmdFailedError(command, status)

        with contextlib.ExitStack() as stack:
            for handler in logging.getLogger("dvc").handlers:
                stream = sys.stderr if handler.level >= logging.WARNING else sys.stdout
                stack.enter_context(patch.object(handler, "stream", stream))
            stack.enter_context(patch("dvc.stage.run._run", run_command))
            stack.enter_context(patch("dvc.ui.disable_colorama", contextlib.nullcontext))  # it has streams of before
            stack.enter_context(_process(["dvc", *arguments], cwd, self.environment))
            return int(dvc.cli.main([*arguments]))

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """What the code takes for its own folder, for the published files, and for its way to report an error."""

        def report(logger: logging.Logger, error: Exception, debug: bool) -> int:
            self._errors.append(error)
            return told(logger, error, debug)

        told = cli.report_error
        with (
            patch.object(cli, "report_error", report), patch.object(stage, "report_error", report),
            patch.object(portability, "_overruled", []), patch.dict(DATASETS, {"fashion-mnist": self.fashion_mnist}),
        ):  # fmt: skip
            _move(REPOSITORY, self.root)
            try:
                yield
            finally:
                _move(self.root, REPOSITORY)


def _move(old: Path, new: Path) -> None:
    """Change the folder that the modules of the product have for their clone's."""
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] == "classifier" and (root := getattr(module, "ROOT", None)) in (old, str(old)):
            module.ROOT = type(root)(new)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _process(argv: list[str], cwd: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Command line, folder and environment of a program; what it changes in the process is taken back."""
    handlers = {signum: signal.getsignal(signum) for signum in (*STOP_SIGNALS, signal.SIGPIPE)}
    loggers = [logging.getLogger(name) for name in OUR_LOGGERS]
    settings = [(each, [*each.handlers], each.level, each.propagate) for each in loggers]
    threads, mode, thresholds = torch.get_num_threads(), torch.get_deterministic_debug_mode(), gc.get_threshold()
    try:
        with (
            patch.object(sys, "argv", argv), patch.dict(os.environ, environment, clear=True), contextlib.chdir(cwd),
            torch.random.fork_rng(devices=[]), warnings.catch_warnings(),
            patch.object(urllib.request, "_opener", None),  # it keeps the proxies of its first use
            patch.object(calls, "_enabled", False),
        ):  # fmt: skip
            _show_warnings()
            yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for logger, logger_handlers, level, propagate in settings:
            logger.handlers[:], logger.propagate = logger_handlers, propagate
            logger.setLevel(level)
        gc.set_threshold(*thresholds)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)


def _show_warnings() -> None:
    """On standard error, those that Python shows unless told otherwise; pytest would collect all."""

    def show(message: Warning | str, category: type[Warning], file: str, line: int, *_: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, file, line))

    warnings.simplefilter("default")
    for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)
    warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # a test may have imported a program
    warnings.showwarning = show  # type: ignore[assignment]


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Standard output and error, of programs too that are started meanwhile; filled in at the end."""
    printed: list[str] = []
    with contextlib.ExitStack() as stack:
        files = []
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            file = stack.enter_context(tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8", newline=""))
            stack.callback(os.close, kept := os.dup(descriptor))
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(file.fileno(), descriptor)
            stack.enter_context(patch.object(sys, name, file))
            files.append(file)
        try:
            yield printed
        finally:
            for file in files:
                file.seek(0)
                printed.append(file.read())
