"""The same bits on other processors, emulated by Debian's qemu-user or as they printed them, and what makes them so."""

import json
import os
import site
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier import portability
from tests.project import REPOSITORY, STAGES, Project
from tests.support import arm
from tests.support.browser import find_program
from tests.support.processes import execute

import pytest
import torch

KNOWN = REPOSITORY / "tests/data/operations.json"

pytestmark = pytest.mark.skipif("avx2" not in portability.cpu_flags(), reason="this processor has no AVX2")


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
    done = execute(*command, cwd=REPOSITORY, env=environment, timeout=600)
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


@pytest.fixture(scope="module")
def pytorch() -> dict[str, str]:
    """Without own kernels, which depend on no variable."""
    return run(CLASSIFIER_KERNELS="none")


@pytest.mark.emulated
@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_training_prediction_and_export_on_another_processor_give_the_same_bits(
    here: dict[str, str], processor: str
) -> None:
    assert run(processor=processor) == here
    assert len(here) >= 16


@pytest.mark.emulated
@pytest.mark.parametrize("processor", ["neoverse-n1", "max"])  # the latter has SVE
def test_training_prediction_and_export_on_arm_give_the_same_bits(
    here: dict[str, str], on_arm: Callable[[str, str], Any], processor: str
) -> None:
    assert on_arm(processor, "tests.support.portable_run") == here


@pytest.mark.emulated
def test_all_stages_on_arm_write_the_same_files(finished: Project, on_arm: Callable[[str, str], Any]) -> None:
    options = ["-Strain.model=cnn", "-Strain.optimizer=muon", "-Strain.epochs=2", "-Strain.pruning.skip=0.5"]
    command, environment = arm.python(find_qemu("aarch64"), "neoverse-n1"), arm.environment(finished.root)
    for stage in STAGES[1:]:
        finished.run("python", "-m", f"stages.{stage}", *options, "--out=scratch/here")
        words = [*command, "-m", f"stages.{stage}", *options, "--out=scratch/arm"]
        execute(*words, cwd=finished.root, env=environment, timeout=600)
    here, there = (outputs(finished.root / "scratch" / name) for name in ("here", "arm"))
    assert here == there
    assert len(here) > 20


def outputs(folder: Path) -> dict[str, bytes]:
    """The content of all files of the stages that DVC tracks."""
    untracked = ("environment.json", "export_differences.json")
    found = (path for part in ("data", "metrics", "models") for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.name not in untracked}


@pytest.mark.emulated
def test_operations_on_arm_have_the_known_digests(on_arm: Callable[[str, str], Any]) -> None:
    found = on_arm("neoverse-n1", "tests.support.operations")["digests"]
    everywhere = json.loads(KNOWN.read_text())["everywhere"]
    assert {name: found[name] for name in everywhere} == everywhere


@pytest.mark.emulated
@pytest.mark.skipif(
    "avx512f" not in portability.cpu_flags(), reason="only a processor with AVX-512 has other instructions to take"
)
@pytest.mark.parametrize("variable", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_without_a_variable_the_bits_are_those_of_this_processor(pytorch: dict[str, str], variable: str) -> None:
    assert run(variable, CLASSIFIER_KERNELS="none") != pytorch


def test_operations_have_the_digests_of_other_processors(fresh: Project) -> None:
    known = json.loads(KNOWN.read_text())
    if torch.__version__.partition("+")[0] != known["torch"]:
        pytest.skip(f"the digests are those of torch {known['torch']}")
    found = json.loads(fresh.run("python", "-m", "tests.support.operations").stdout)
    expected = known["everywhere"] | known["digests"]
    differing = [name for name, digest in expected.items() if found["digests"][name] != digest]
    assert not differing, f"on {found['processor']}, in portable mode"
    assert found["digests"].keys() == expected.keys()


def test_operations_differ_without_the_pins(fresh: Project) -> None:
    """So the digests can tell: in the default mode of this processor, or of an older one that it plays."""
    known = json.loads(KNOWN.read_text())["digests"]
    fresh.edit("tests/support/operations.py", "pin_instruction_set(True)", "pin_instruction_set(False)")
    for name in portability.TORCH:
        fresh.environment.pop(name)
    fresh.environment["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    code = "import json; from tests.support import operations as o; print(json.dumps([*zip(range(50), o.results())]))"
    found = dict(each for _, each in json.loads(fresh.run("python", "-c", code).stdout))
    assert [name for name in found.keys() & known.keys() if found[name] != known[name]]
