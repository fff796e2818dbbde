"""Standard logging for stages and tools: ``train: message`` on stdout, warnings and errors on stderr."""

import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

OUR_LOGGERS = ("classifier", "stages", "tools", "demo")


class _Handler(logging.StreamHandler):
    """Begins each line with the program's name, since a person knows ``train``, not the module that logs.

    Goes on without a reader (`| head`) and on a full disk, with one line.
    """

    def __init__(self, program: str, stream: TextIO):
        super().__init__(stream)
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self._program}: {level}{record.getMessage()}"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        discard(self.stream.fileno())
        logging.getLogger(record.name).warning(f"standard output: {error.strerror}; nothing more is printed there")


def discard(descriptor: int) -> None:
    """Drop what is written to an open file from here on, with what is still in its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def configure_logging(
    program: str, quiet: bool = False, keep: Callable[[logging.LogRecord], bool] = lambda record: True
) -> None:
    """Log the messages of this project from here on, after the program's name; quiet: warnings and errors only."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed (`>&-`), and the next file that is opened would take its place
            discard(descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w"))
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() != "utf-8":  # a locale without ± and class names: they are printed as \xb1
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    out, err = _Handler(program, sys.stdout), _Handler(program, sys.stderr)
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err.setLevel(logging.WARNING)
    for handler in (out, err):
        handler.addFilter(keep)
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [out, err]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.propagate = False
