"""Which variables are set, what is overruled and said, and when the promise is off."""

import logging
import os
import subprocess
import sys

from classifier import portability
from tests.project import REPOSITORY, STAGES

import pytest

VARIABLES = (*portability.TORCH, *portability.NUMPY, *portability.OTHERS, *portability.AT_IMPORT)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Variables that are set here are gone afterwards; this process may have imported the libraries already."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(portability, "_overruled", [])
    caplog.set_level(logging.INFO, logger=portability.logger.name)
    monkeypatch.setattr(logging.getLogger("classifier"), "propagate", True)


def test_portable_pins_torch_and_numpy_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    os.environ |= portability.NUMPY
    for _ in range(2):
        portability.pin_imports()
        assert portability.pin_instruction_set(portable=True) == []
    assert portability.TORCH.items() | portability.NUMPY.items() <= os.environ.items()
    assert not caplog.messages


def test_not_portable_leaves_pytorch_alone() -> None:
    portability.pin_instruction_set(portable=False)
    assert not any(name in os.environ for name in portability.TORCH)


def test_a_value_of_the_users_is_overruled_and_said() -> None:
    os.environ |= {"MKL_CBWR": "AVX2", "OMP_THREAD_LIMIT": "1", "NPY_ENABLE_CPU_FEATURES": "AVX2"}
    portability.pin_imports()
    assert portability.pin_instruction_set(portable=True) == [
        "NPY_ENABLE_CPU_FEATURES in the environment is ignored",
        "OMP_THREAD_LIMIT in the environment is ignored",
        "MKL_CBWR=AVX2 in the environment is overruled by COMPATIBLE",
    ]
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"
    assert not {"OMP_THREAD_LIMIT", "NPY_ENABLE_CPU_FEATURES"} & {*os.environ}


def test_numpy_that_was_imported_before_is_named(caplog: pytest.LogCaptureFixture) -> None:
    portability.pin_imports()
    (message,) = caplog.messages
    assert message.startswith("numpy was imported before classifier")


def test_importing_the_package_pins_numpy_and_no_import_computes_before_pytorch_is_pinned() -> None:
    """As in a notebook, and as in a stage, whose imports come before its params."""
    code = (
        "import classifier, numpy; print(numpy._core._multiarray_umath.__cpu_features__['AVX512_SKX'])\n"
        f"from stages import {', '.join(STAGES)}\n"
        "classifier.portability.pin_instruction_set(True)\n"
        "import torch; print(torch.backends.cpu.get_cpu_capability())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout == "False\nAVX2\n", done.stderr


OTHER_MACHINE = "results are the same on x86-64 and 64-bit ARM only; this processor is riscv64"
NO_AVX2 = "this processor has no AVX2, so its results differ from those of other processors"


@pytest.mark.parametrize(
    ("machine", "flags", "says"),
    [
        ("riscv64", set(), [OTHER_MACHINE]),
        ("x86_64", {"sse4_2"}, [NO_AVX2]),
        ("x86_64", {"avx2"}, []),
        ("AMD64", set(), []),  # a system that does not tell
    ],
)
def test_conditions_that_are_not_met_are_one_line_each(
    machine: str, flags: set[str], says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(portability, "cpu_flags", lambda: flags)
    assert portability.unmet_conditions() == says
