"""The compiled kernels: where they are, and which of them this processor takes.

``build`` compiles the sources once for each instruction set into the environment's site-packages, so all clones that
use the environment find them. Their names have a digest of the sources: one that was compiled from others is not found.
"""

import ctypes
import functools
import hashlib
import os
import platform
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = [FOLDER / f"{name}.c" for name in ("convolution", "pooled_convolution", "batch_norm", "softmax", "adam")]
HEADER = FOLDER / "kernels.h"
OPTIONS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"]
# By machine, the fastest first, with the compiler's options for them. They give the same bits.
INSTRUCTION_SETS: dict[str, dict[str, list[str]]] = {
    "x86_64": {"avx512": ["-mavx512f"], "avx2": ["-mavx2", "-mfma"]},
    "aarch64": {"neon": []},
    "arm64": {"neon": []},
}
VARIABLE = "CLASSIFIER_KERNELS"  # for tests: one of these, or none


def instruction_sets() -> dict[str, list[str]]:
    """Those of this kind of machine."""
    return INSTRUCTION_SETS.get(platform.machine().lower(), {})


def file_name(instructions: str) -> str:
    """The name of the library for an instruction set."""
    options = repr((OPTIONS, instruction_sets()[instructions]))
    digest = hashlib.sha256(
        b"".join(source.read_bytes() for source in (*SOURCES, HEADER)) + options.encode()
    ).hexdigest()
    return f"classifier_kernels_{instructions}_{digest[:16]}.so"


def find(instructions: str) -> Path | None:
    """The library for an instruction set, wherever Python looks for modules."""
    paths = (Path(folder, file_name(instructions)) for folder in sys.path)
    return next((path for path in paths if path.is_file()), None)


@functools.cache
def load() -> tuple[str, ctypes.CDLL | None]:
    """The fastest instruction set that is compiled and that this processor has, and its library; or ("none", None)."""
    for instructions in instruction_sets():
        path = find(instructions) if os.environ.get(VARIABLE, instructions) == instructions else None
        if path and (library := ctypes.CDLL(str(path))).supported():
            return instructions, library
    return "none", None
