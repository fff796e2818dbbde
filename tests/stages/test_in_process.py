"""Programs in the process of the tests: errors are raised where they were, and nothing is left of a program."""

import logging
import os
import signal
import sys
from typing import Any

from classifier.errors import StageError
from classifier.prepare.registry import DATASETS
from classifier.runner import cli
from classifier.runner.logs import OUR_LOGGERS
from classifier.runner.signals import STOP_SIGNALS
from tests.project import Project

import pytest
import torch


def state() -> list[Any]:
    """What a program may change of the process that it runs in."""
    return [
        os.getcwd(),
        dict(os.environ),
        sys.argv,
        sys.stdout,
        cli.ROOT,
        DATASETS["fashion-mnist"],
        [signal.getsignal(signum) for signum in (*STOP_SIGNALS, signal.SIGPIPE)],
        [(logger.handlers[:], logger.level) for logger in map(logging.getLogger, (*OUR_LOGGERS, "dvc"))],
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.get_rng_state().tolist(),
    ]


def test_error_of_a_stage_is_raised_where_it_was_with_all_that_was_printed(fresh: Project) -> None:
    with pytest.raises(StageError, match="data/raw is missing") as caught:
        fresh.stage("annotate")
    assert caught.traceback[-1].name == "_hash_inputs"
    assert "annotate: error: data/raw is missing" in caught.value.__notes__[0]


def test_process_is_as_before_after_stages_tools_and_dvc(finished: Project) -> None:
    before = state()
    finished.set(evaluate__batch_size=7)
    assert "evaluate: wrote" in finished.stage("evaluate").stdout
    finished.tool("predict", "data/own", status=1)  # it changes what a closed pipe does
    assert finished.repro("evaluate") == ["evaluate"]
    assert state() == before
