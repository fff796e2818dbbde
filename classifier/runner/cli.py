"""The command line of stages and tools: one parser, one line for every error, the exit status."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from classifier.errors import StageError
from classifier.runner.logs import configure_logging

ROOT = Path(__file__).resolve().parents[2]


def make_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command has; the help is the script's docstring.

    Args:
        command: as it is typed after ``python -m``: ``stages.train``.
        doc: the script's docstring.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    return parser


def run_own_code() -> None:
    """Start again with the code beside the script, if Python has imported that of another clone.

    ``python stages/train.py`` finds this package through the environment, and one environment may serve several clones
    or git worktrees. The code of the script's own clone must run.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    root = Path(script).resolve().parents[1] if script else ROOT
    if root != ROOT and (root / "classifier" / "runner").is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_tool(
    name: str, parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Run a tool as a program and return its exit status: that of ``work``, or of its error, told in one line."""
    run_own_code()
    arguments = parser.parse_args(argv)
    configure_logging(name, arguments.quiet)
    try:
        return work(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report_error(logging.getLogger(f"tools.{name}"), error, arguments.debug)


def report_error(logger: logging.Logger, error: Exception, debug: bool) -> int:
    """Log an error in one line, with its traceback if asked, and return the exit status that belongs to it."""
    if debug:
        traceback.print_exception(error)
    logger.error(one_line(error))
    return error.exit_status if isinstance(error, StageError) else 1


def one_line(error: Exception) -> str:
    """An error as a line for a person."""
    match error:
        case StageError():
            return str(error)
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}; free space or permissions are needed there, then run it again"
        case OSError() if error.strerror:
            return f"{error.strerror}; nothing was published; fix that and run it again"
        case _:
            first_line = str(error).strip().partition("\n")[0]
            return f"{type(error).__name__}: {first_line} (unexpected; --debug shows where)"
