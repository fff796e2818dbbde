"""The same bits on other processors, emulated by Debian's qemu-user, and what makes them the same."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

from classifier.portability import cpu_flags
from tests.project import REPOSITORY

import pytest

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif("avx2" not in cpu_flags(), reason="this processor has no AVX2"),
]


def run(*variables: str, processor: str = "", **environment: str) -> dict[str, str]:
    """Digests of small trainings without some of the variables, on this processor or an emulated one."""
    python = str(Path(sys.executable).resolve())  # qemu follows no link of a virtual environment
    emulator = [find_qemu(), "-cpu", processor] if processor else []
    path = os.pathsep.join([str(REPOSITORY), *site.getsitepackages()])
    done = subprocess.run(
        [*emulator, python, "-m", "tests.support.portable_run", *variables], cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digests: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return digests


def find_qemu() -> str:
    from tests.support.browser import find_program

    return find_program(("qemu-x86_64", "qemu-x86_64-static"), "qemu-user")


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return run()


@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_training_prediction_and_export_on_another_processor_give_the_same_bits(
    here: dict[str, str], processor: str
) -> None:
    assert run(processor=processor) == here
    assert len(here) >= 16


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="only a processor with AVX-512 has other instructions to take")
@pytest.mark.parametrize("variable", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_without_a_variable_the_bits_are_those_of_this_processor(here: dict[str, str], variable: str) -> None:
    assert run(variable, CLASSIFIER_KERNELS="none") != here  # own kernels depend on no variable
