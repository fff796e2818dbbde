"""Standard logging for stages and tools: ``train: message`` on stdout, warnings and errors on stderr."""

import logging
import sys

OUR_LOGGERS = ("classifier", "stages", "tools", "demo")


class _Formatter(logging.Formatter):
    """The program's name before each line, since a person knows ``train``, not the module that logs."""

    def __init__(self, program: str):
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self._program}: {level}{record.getMessage()}"


def configure_logging(program: str, quiet: bool = False, rank: int = 0) -> None:
    """Log the messages of this project from here on.

    Args:
        program: the name before each line.
        quiet: warnings and errors only.
        rank: of this process in a distributed run; only rank 0 logs.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() != "utf-8":  # a locale without ± and class names: they are printed as \xb1
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    formatter = _Formatter(program)
    out, err = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err.setLevel(logging.WARNING)
    for handler in (out, err):
        handler.setFormatter(formatter)
        handler.addFilter(lambda record: rank == 0)
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [out, err]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.propagate = False
