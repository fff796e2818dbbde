"""The same bits on other processors, emulated by Debian's qemu-user, and what makes them the same."""

import json
import os
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.portability import cpu_flags
from tests.e2e.test_operations import KNOWN
from tests.project import REPOSITORY
from tests.support import arm
from tests.support.browser import find_program

import pytest

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif("avx2" not in cpu_flags(), reason="this processor has no AVX2"),
]


def run(*variables: str, processor: str = "", **environment: str) -> dict[str, str]:
    """Digests of small trainings without some of the variables, on this processor or an emulated one."""
    python = str(Path(sys.executable).resolve())  # qemu follows no link of a virtual environment
    emulator = [find_qemu("x86_64"), "-cpu", processor] if processor else []
    path = os.pathsep.join([str(REPOSITORY), *site.getsitepackages()])
    command = [*emulator, python, "-m", "tests.support.portable_run", *variables]
    digests: dict[str, str] = printed(command, {**os.environ, "PYTHONPATH": path, **environment})
    return digests


def printed(command: list[str], environment: dict[str, str]) -> Any:
    """What a program prints in its last line, as JSON."""
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def find_qemu(machine: str) -> str:
    return find_program((f"qemu-{machine}", f"qemu-{machine}-static"), "qemu-user")


@pytest.fixture(scope="module")
def on_arm() -> Callable[[str, str], Any]:
    """Runs a program on an emulated ARM processor."""
    if not arm.SITE.exists():
        pytest.skip("no environment for ARM; make it: python -m tests.support.arm")
    arm.compile_kernels()

    def run(processor: str, module: str) -> Any:
        return printed([*arm.python(find_qemu("aarch64"), processor), "-m", module], arm.environment())

    return run


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return run()


@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_training_prediction_and_export_on_another_processor_give_the_same_bits(
    here: dict[str, str], processor: str
) -> None:
    assert run(processor=processor) == here
    assert len(here) >= 16


@pytest.mark.parametrize("processor", ["neoverse-n1", "max"])  # the latter has SVE
def test_training_prediction_and_export_on_arm_give_the_same_bits(
    here: dict[str, str], on_arm: Callable[[str, str], Any], processor: str
) -> None:
    assert on_arm(processor, "tests.support.portable_run") == here


def test_operations_on_arm_have_the_known_digests(on_arm: Callable[[str, str], Any]) -> None:
    found = on_arm("neoverse-n1", "tests.support.operations")["digests"]
    everywhere = json.loads(KNOWN.read_text())["everywhere"]
    assert {name: found[name] for name in everywhere} == everywhere


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="only a processor with AVX-512 has other instructions to take")
@pytest.mark.parametrize("variable", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_without_a_variable_the_bits_are_those_of_this_processor(here: dict[str, str], variable: str) -> None:
    assert run(variable, CLASSIFIER_KERNELS="none") != here  # own kernels depend on no variable
