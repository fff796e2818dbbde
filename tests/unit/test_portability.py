"""Which variables are set, what is overruled and said, and when the promise is off."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.runner import portability
from tests.project import REPOSITORY

VARIABLES = (*portability.TORCH, *portability.NUMPY, *portability.OTHERS, *portability.UNSET)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Variables that are set here are gone afterwards; this process may have imported the libraries already."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    for name in ("torch", "numpy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    caplog.set_level(logging.INFO, logger=portability.logger.name)
    monkeypatch.setattr(logging.getLogger("classifier"), "propagate", True)


def test_portable_pins_torch_and_numpy_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert portability.pin_instruction_set(portable=True) == []
    assert {name: os.environ[name] for name in (*portability.TORCH, *portability.NUMPY)} == {
        **portability.TORCH,
        **portability.NUMPY,
    }
    assert not caplog.messages


def test_not_portable_leaves_the_libraries_alone() -> None:
    portability.pin_instruction_set(portable=False)
    assert not any(name in os.environ for name in (*portability.TORCH, *portability.NUMPY))


def test_a_value_of_the_users_is_overruled_and_said() -> None:
    os.environ |= {"MKL_CBWR": "AVX2", "OMP_THREAD_LIMIT": "1", "NPY_ENABLE_CPU_FEATURES": "AVX2"}
    overruled, of_numpy, ignored = portability.pin_instruction_set(portable=True)
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"
    assert not {"OMP_THREAD_LIMIT", "NPY_ENABLE_CPU_FEATURES"} & {*os.environ}
    assert of_numpy == "NPY_ENABLE_CPU_FEATURES in the environment is ignored: compute.portable is true"
    assert overruled.startswith("MKL_CBWR=AVX2 in the environment is overruled by COMPATIBLE")
    assert ignored.startswith("OMP_THREAD_LIMIT in the environment is ignored")


def test_a_library_that_was_imported_before_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    portability.pin_instruction_set(portable=True)
    assert len(caplog.messages) == len(portability.TORCH)
    assert all(message.startswith("torch was imported before ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("machine", "flags", "locked", "says"),
    [
        ("aarch64", {"asimd"}, "", "on x86-64 processors only; this one is aarch64"),
        ("x86_64", {"sse4_2"}, "", "this processor has no AVX2"),
        ("x86_64", {"avx2"}, "torch==1.0.0 \\\n", "is installed, not 1.0.0 of"),
        ("x86_64", {"avx2"}, "", None),
        ("AMD64", set(), "", None),  # a system that does not tell
    ],
)
def test_conditions_that_are_not_met_are_one_line_each(
    machine: str, flags: set[str], locked: str, says: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(portability, "cpu_flags", lambda: flags)
    (tmp_path / "lock").write_text(locked)
    reasons = portability.unmet_conditions(tmp_path / "lock")
    assert len(reasons) == (says is not None)
    assert all(str(says) in reason for reason in reasons)


def test_the_locked_torch_is_the_installed_one() -> None:
    assert not [
        reason for reason in portability.unmet_conditions(REPOSITORY / "requirements.lock") if "torch" in reason
    ]


def test_stages_import_no_library_before_the_variables_are_set() -> None:
    """All that runs before ``pin_instruction_set``: the script's own imports and those of its context."""
    code = (
        "import sys\n"
        "from stages import annotate, download, evaluate, export, report, train\n"
        "import classifier.runner.context\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
