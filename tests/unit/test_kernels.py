"""The kernels in C: the bits of oneDNN pinned to AVX2, the same on all instruction sets, and how they are compiled."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from classifier import portability
from classifier.kernels import build, calls, convolution, library
from tests.project import REPOSITORY
from tests.support.browser import cannot_run, find_program

import pytest
import torch

MAIN = REPOSITORY / "tests/support/kernels_main.c"
UNSUPPORTED = 77  # its exit status
STRICT = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
NO_COMPILER = shlex.join([sys.executable, "-no-such-option"])
SETS = {"scalar": ["-mfma"], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f"]}

x86 = pytest.mark.skipif("avx2" not in portability.cpu_flags(), reason="this processor has no AVX2")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries of this commit's source."""
    find_program(build.COMPILERS, "gcc")
    folder = tmp_path_factory.mktemp("compiled")
    for name, options in library.instruction_sets().items():
        assert build.build(folder / library.file_name(name), options) is None
    return folder


def run(*words: str, **options: Any) -> Any:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode in (0, UNSUPPORTED), done.stderr
    return done


@x86
@pytest.mark.parametrize("instructions", ["avx2", "avx512"])
def test_kernels_have_the_bits_of_pytorch_pinned_to_avx2(compiled: Path, instructions: str) -> None:
    environment = {**os.environ, library.VARIABLE: instructions, "PYTHONPATH": str(compiled)}
    found = json.loads(run(sys.executable, "-m", "tests.support.kernels", cwd=REPOSITORY, env=environment).stdout)
    if found.pop("kernels") != instructions:
        cannot_run(f"this processor has no {instructions}")
    assert found.pop("taken") > 100
    assert len(found) == 12
    assert not {name: cases for name, cases in found.items() if cases}


def digests(folder: Path, compiler: str, *options: str, emulator: str = "") -> str:
    """What the program prints that is made of the kernels and kernels_main.c."""
    program = str(folder / "main")
    run(compiler, *STRICT, *options, *map(str, library.SOURCES), str(MAIN), "-lm", "-o", program)
    done = run(*emulator.split(), program)
    if done.returncode == UNSUPPORTED:
        pytest.skip(f"this processor cannot run {options}")
    assert done.stdout.count("\n") > 10
    return str(done.stdout)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digests(tmp_path_factory.mktemp("scalar"), find_program(("gcc",), "gcc"), "-O2", *SETS["scalar"])


@x86
@pytest.mark.parametrize(
    ("compiler", "options"),
    [("gcc", ["-O3"]), ("clang", ["-O3"]), ("gcc", ["-O1", "-g", *SANITIZERS])],
    ids=["gcc", "clang", "no access beyond an array and nothing undefined"],
)
@pytest.mark.parametrize("instructions", SETS)
def test_every_instruction_set_and_compiler_gives_the_same_digests(
    compiler: str, options: list[str], instructions: str, expected: str, tmp_path: Path
) -> None:
    assert digests(tmp_path, find_program((compiler,), compiler), *options, *SETS[instructions]) == expected


@pytest.mark.emulated
@x86
@pytest.mark.parametrize("options", [(), ("-DSCALAR",)])
def test_arm_gives_the_same_digests(options: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    compiler = find_program(("aarch64-linux-gnu-gcc",), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    emulator = find_program(("qemu-aarch64", "qemu-aarch64-static"), "qemu-user")
    assert digests(tmp_path, compiler, "-O3", "-static", *options, emulator=emulator) == expected


# --- compiled or not ----------------------------------------------------------------------------------------------


def setup_prints(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> str:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    build.main()
    out, err = capfd.readouterr()
    assert not out
    return err


@x86
def test_setup_compiles_what_is_missing_and_is_then_silent(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in compiled.iterdir()}
    first, *_ = before
    first.unlink()
    assert setup_prints(monkeypatch, capfd, compiled) == ""
    after = {path: path.stat().st_mtime_ns for path in compiled.iterdir()}
    assert after.keys() == before.keys()
    assert [path for path in before if before[path] != after[path]] == [first]


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("", "no C compiler was found;"),
        ("no-such-compiler", "no C compiler no-such-compiler was found;"),
        (NO_COMPILER, f"{NO_COMPILER} cannot compile the kernels ("),
    ],
    ids=["none", "missing", "failing"],
)
def test_setup_without_a_working_compiler_prints_a_line(
    compiler: str, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    printed = setup_prints(monkeypatch, capfd, tmp_path)
    assert printed.startswith(f"setup: {says}")
    assert printed.endswith("; results may differ between machines\n")
    assert printed.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@x86
def test_library_of_another_source_or_of_other_options_is_not_found(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(compiled)])
    assert library.find("avx2")
    changed = tmp_path / "convolution.c"
    changed.write_bytes(library.SOURCES[0].read_bytes() + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(library, "SOURCES", [changed, *library.SOURCES[1:]])
        assert library.find("avx2") is None
    monkeypatch.setattr(library, "OPTIONS", ["-O1"])
    assert library.find("avx2") is None


def test_layer_without_channels_or_with_too_wide_padding_is_refused() -> None:
    for words in ((0, 4, 3), (4, 0, 3), (4, 4, 2, 2)):
        with pytest.raises(ValueError, match="no convolution from"):
            convolution.Conv2d(*words)


def test_layer_refuses_images_as_pytorch_does(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(compiled))
    layer, own = torch.nn.Conv2d(3, 4, 3), convolution.Conv2d(3, 4, 3)
    own.load_state_dict(layer.state_dict())
    for shape, kind in (((2, 4, 9, 9), torch.float32), ((2, 3, 2, 9), torch.float32), ((2, 3, 9, 9), torch.float64)):
        messages = []
        for portable, module in ((False, layer), (True, own)):
            monkeypatch.setattr(calls, "_enabled", portable)
            with pytest.raises(RuntimeError) as error:
                module(torch.zeros(shape, dtype=kind))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_kernels_are_not_used_unless_the_run_is_portable() -> None:
    assert calls.in_use() == "none"
    assert type(convolution.Conv2d(3, 4, 3)(torch.zeros(2, 3, 9, 9)).grad_fn).__name__ == "ConvolutionBackward0"
