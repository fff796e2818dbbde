"""The command line of stages and tools: one parser, one line for every error, the exit status."""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import classifier
from classifier.errors import StageError
from classifier.runner.logs import configure_logging, discard

ROOT = Path(classifier.ROOT)  # of the clone
# The libraries' words where they raise no MemoryError.
OUT_OF_MEMORY = re.compile(r".*(?:allocate memory|bad.alloc|out of memory|failed to map segment|start new thread).*")
# What names a repository. git sets it for hooks and aliases, and every git and DVC that a tool starts in another folder
# would work on that repository.
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


def make_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command, such as ``stages.train``, has; the help is the docstring."""
    refuse_other_clone(Path(os.path.realpath(sys.argv[0])), command)
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", help="print no messages but warnings and errors")
    return parser


def refuse_other_clone(script: Path, command: str) -> None:
    """End the program if its script is of one clone and the code of another, whose environment it uses."""
    clone = script.parents[1] if script.name == f"{command.rpartition('.')[2]}.py" else ROOT
    if clone != ROOT and (clone / "classifier" / "runner").is_dir():
        sys.exit(
            f"{sys.argv[0]}: error: this Python has the code of {ROOT}; run `python -m {command}` in {clone},"
            " or `make setup` there"
        )


def run_tool(
    name: str, parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Run a tool as a program and return its exit status: that of ``work``, or of its error, told in one line."""
    arguments = parser.parse_args(argv)
    configure_logging(name, arguments.quiet)
    for variable in GIT_VARIABLES:  # the repository is the one that this file is in
        os.environ.pop(variable, None)
    try:
        status = work(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError) and not error.filename:  # of standard output, which the interpreter flushes
            discard(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever reads the output has enough: `... | head`
            return 128 + signal.SIGPIPE
        return report_error(logging.getLogger(f"tools.{name}"), error, arguments.debug)


def report_error(logger: logging.Logger, error: Exception, debug: bool) -> int:
    """Log an error in one line, with its traceback if asked, and return the exit status that belongs to it."""
    if debug:
        traceback.print_exception(error)
    logger.error(one_line(error))
    return error.exit_status if isinstance(error, StageError) else 1


def distrust(error: Exception) -> str | None:
    """The line for a repository that git, or the library by which DVC reads it, refuses as another user's."""
    found = re.search(r"(?:dubious ownership in repository at|repository path) '([^']+)'", str(error))
    return found and f"{found[1]} is another user's; `git config --global --add safe.directory {found[1]}` trusts it"


def one_line(error: Exception) -> str:
    """An error as a line for a person."""
    words = OUT_OF_MEMORY.search(str(error))
    if line := distrust(error):
        return line
    match error:
        case StageError():
            return str(error)
        case Exception() if words or isinstance(error, MemoryError):
            reason = words[0] if words else str(error) or "MemoryError"
            return (
                f"memory ran out ({reason}); allow more of it, or lower train.batch_size, runtime.image_memory_mb or"
                " runtime.threads in params.yaml"
            )
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}; free space or permissions are needed there, then run it again"
        case OSError() if error.strerror:
            return f"{error.strerror}; fix that and run it again"
        case _:
            first_line = str(error).strip().partition("\n")[0]
            if type(error).__name__ in ("SCMError", "NoSCMError"):
                return "this needs a git repository with a commit: `git init`, `git add`, `git commit`"
            if type(error).__module__.startswith(("dvc.", "scmrepo.")):  # they write for people
                return first_line
            return f"{type(error).__name__}: {first_line} (unexpected; --debug shows where)"
