"""An environment of 64-bit ARM for the emulator, in scratch/arm: 6 GB. As root, on Debian, with uv, before a release:

    python -m tests.support.arm && pytest -m emulated tests/e2e/test_emulated.py

The packages are those of requirements.lock, Python and its libraries Debian's. The kernels are compiled anew.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from unittest.mock import patch

from classifier.export.model_card import PROJECT
from classifier.kernels import library
from tests.project import REPOSITORY

FOLDER = REPOSITORY / "scratch/arm"
ROOT, SITE = FOLDER / "root", FOLDER / "site"
DEBIAN = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1 zlib1g libexpat1"
    " libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1"
)
CPUINFO = """processor\t: {0}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""  # a Neoverse N1; PyTorch reads it, and the emulator would show it the machine's own


def make() -> None:
    """Fetch Debian's packages and the wheels, and write what the emulated system says of its processor."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    debs = FOLDER / "debs"
    debs.mkdir(parents=True)
    run("dpkg", "--add-architecture", "arm64")
    try:
        run("apt-get", "-qq", "update")
        run("apt-get", "-qq", "download", *(f"{name}:arm64" for name in DEBIAN.split()), cwd=debs)
    finally:
        run("dpkg", "--remove-architecture", "arm64")
    for deb in debs.iterdir():
        run("dpkg", "-x", deb, ROOT)
    (ROOT / "proc").mkdir()
    (ROOT / "proc/cpuinfo").write_text("".join(CPUINFO.format(number) for number in range(2)))
    for number in range(2):
        identification = ROOT / f"sys/devices/system/cpu/cpu{number}/regs/identification"
        identification.mkdir(parents=True)
        (identification / "midr_el1").write_text("0x00000000413fd0c1\n")
    for name in ("online", "possible", "present"):
        (ROOT / "sys/devices/system/cpu" / name).write_text("0-1\n")
    lines = (REPOSITORY / "requirements.lock").read_text().replace(" \\\n", " ").splitlines()
    wanted = [line for line in lines if not line.startswith("openvino")]
    (FOLDER / "requirements.txt").write_text("\n".join(wanted) + "\n")
    run(
        "uv", "pip", "install", "--python", sys.executable, "--python-platform", "aarch64-manylinux_2_35",
        "--target", SITE, "--no-deps", "--requirement", FOLDER / "requirements.txt",
    )  # fmt: skip
    own = distribution(PROJECT).read_text("METADATA")
    assert own
    (SITE / f"{PROJECT.replace('-', '_')}.dist-info").mkdir()
    (SITE / f"{PROJECT.replace('-', '_')}.dist-info/METADATA").write_text(own)


def run(*words: str | Path, cwd: Path | None = None) -> None:
    """Run a command, or fail with it."""
    subprocess.run([*map(str, words)], check=True, cwd=cwd)


def compile_kernels() -> None:
    """Compile the kernels of this commit for ARM."""
    with patch("platform.machine", lambda: "aarch64"):
        for name, options in library.instruction_sets().items():
            path = SITE / library.file_name(name)
            if not path.exists():
                run("aarch64-linux-gnu-gcc", *library.OPTIONS, *options, *library.SOURCES, "-o", path)


def environment(clone: Path = REPOSITORY) -> dict[str, str]:
    """The variables with which the emulated Python finds its libraries and a clone."""
    return {**os.environ, "PYTHONPATH": f"{clone}{os.pathsep}{SITE}", "PYTHONHOME": str(ROOT / "usr")}


def python(emulator: str, processor: str) -> list[str]:
    """The command that is Python on ARM."""
    return [emulator, "-L", str(ROOT), "-cpu", processor, str(ROOT / "usr/bin/python3.11")]


if __name__ == "__main__":
    assert platform.machine() == "x86_64", "on ARM nothing has to be emulated"
    make()
