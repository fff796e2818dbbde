"""Runs a stage script as a program.

A script hands its ``work`` function to ``run_stage``. What happens around it:

1. validate the whole of params.yaml, before any work (exit status 2 if it is wrong);
2. take the stage's lock, remove the outputs of an earlier run (as DVC does) and hash every declared input;
3. run ``work``, which writes each output to a temporary file that ``StageContext.out`` names;
4. hash the inputs again: DVC records the hashes that they have *after* the run, so a file edited meanwhile would be
   recorded with a result that did not come from it;
5. publish: give all outputs their names. If anything fails, or a signal comes, none of them exists.
"""

import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError
from classifier.runner.cli import ROOT, make_parser, report_error
from classifier.runner.context import StageContext
from classifier.runner.logs import configure_logging
from classifier.runner.signals import Interrupted, StopSignals


def make_context(name: str, overrides: Mapping[str, Any], folder: Path) -> StageContext:
    """The context of a stage that runs in one process, obeying signals from here on."""
    signals = StopSignals()
    signals.install_signal_handlers()
    signals.watch_dvc()
    return StageContext(name, signals, overrides, folder)


def run_stage(
    name: str,
    work: Callable[[StageContext], None],
    doc: str | None,
    argv: Sequence[str] | None = None,
    make_context: Callable[[str, Mapping[str, Any], Path], StageContext] = make_context,
    log: Callable[[logging.LogRecord], bool] = lambda record: True,
) -> int:
    """Run one stage as a program; ``--help`` prints the script's docstring.

    A process that is not the only one has another kind of context, and says which messages it logs.

    Returns:
        The exit status: 0, 1 for data and files, 2 for params, 3 for a training that diverged, 75 for one that was told
        to stop after an epoch, 129 after SIGHUP, 130 after SIGINT, 143 after SIGTERM.
    """
    parser = make_parser(f"stages.{name}", doc)
    parser.add_argument(
        "-S", "--set-param", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="another value than that of params.yaml; needs --out",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write below this folder; what is there already is read from there"
    )
    arguments = parser.parse_args(argv)
    out = Path(os.path.abspath(arguments.out)) if arguments.out else Path()
    configure_logging(name, arguments.quiet, log)
    logger = logging.getLogger(f"stages.{name}")
    os.chdir(ROOT)  # the paths in dvc.yaml are relative to it
    # Imports make half a million objects that stay. Python's collector would walk over them again and again, and once
    # more at the end: the better part of a second.
    gc.set_threshold(100_000)
    atexit.register(_skip_last_collection)
    context = None
    try:
        if out == ROOT or (arguments.changes and not arguments.out):
            raise ParamsError("-S, --out: the results need a folder of their own, such as --out scratch/mine")
        context = make_context(name, params_file.parse_overrides(arguments.changes), out)
        with context.running():
            work(context)
    except Interrupted as stop:
        hint = context.resume_hint if context else "nothing was done"
        if stop.gone:
            logger.error(f"the `{stop.gone}` that started this stage is gone; {hint}")
        else:
            logger.warning(f"stopped by {signal.Signals(stop.signum).name}; {hint}")
        return 128 + stop.signum
    except Exception as error:
        return report_error(logger, error, arguments.debug)
    return 0


def _skip_last_collection() -> None:
    if "triton" not in sys.modules:  # its library would list on the terminal whatever was not collected
        gc.freeze()
