"""The same bits on x86-64 processors with AVX2 and on ARM: which instructions libraries use; the form of JSON files.

Each library picks its kernels by the processor that it runs on, and kernels for other instructions add in another
order. Environment variables pin them, if they are set before the library reads them.

Source of the idea: github.com/Deep-MI/FastSurfer, pull request 892.
"""

import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

IS_ARM = platform.machine().lower() in ("aarch64", "arm64")
TORCH = {
    "ATEN_CPU_CAPABILITY": "default" if IS_ARM else "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "ADVANCED_SIMD" if IS_ARM else "AVX2",  # its convolutions
    "MKL_CBWR": "COMPATIBLE",  # its matrix products, exp, log; there is no MKL for ARM
}
NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}  # exp and log; nothing here uses its BLAS
# What else a user may have set that changes the last bits, and is read at the first operation ...
OTHERS = (
    *("DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "MKL_ENABLE_INSTRUCTIONS"),
)
# ... or when a library is imported. With the last two OpenMP may start fewer threads than it was asked for, and then
# waits for the missing ones for ever.
AT_IMPORT = (
    *("NPY_ENABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "KMP_DETERMINISTIC_REDUCTION"),
    *("OMP_DYNAMIC", "OMP_THREAD_LIMIT"),
)
OF_GPU = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")  # only recorded

logger = logging.getLogger(__name__)
_overruled: list[str] = []  # a line for each variable of the user's, until now


def pin_imports() -> None:
    """Set the variables that libraries read when they are imported; ``import classifier`` calls it."""
    if "numpy" in sys.modules and not NUMPY.items() <= os.environ.items():
        logger.warning("numpy was imported before classifier: its results may differ from other processors'")
    for name, value in NUMPY.items():
        _set(name, value)
    for name in AT_IMPORT:
        _remove(name)


def pin_instruction_set(portable: bool) -> list[str]:
    """Set the variables that PyTorch and its libraries read at their first operation, for child processes too.

    Args:
        portable: ``compute.portable``; without it the libraries may use all instructions.

    Returns:
        A line for each variable of the user's that is overruled.
    """
    for name, value in TORCH.items() if portable else ():
        _set(name, value)
    for name in OTHERS if portable else ():
        _remove(name)
    return _overruled


def _set(name: str, value: str) -> None:
    if os.environ.get(name, value) != value:
        _overruled.append(f"{name}={os.environ[name]} in the environment is overruled by {value}")
    os.environ[name] = value


def _remove(name: str) -> None:
    if os.environ.pop(name, None) is not None:
        _overruled.append(f"{name} in the environment is ignored")


def unmet_conditions() -> list[str]:
    """Why results on this machine may differ from those of other machines; one line each, none if all is well."""
    reasons = []
    if not IS_ARM and platform.machine().lower() not in ("x86_64", "amd64"):
        reasons.append(f"results are the same on x86-64 and 64-bit ARM only; this processor is {platform.machine()}")
    elif not IS_ARM and (flags := cpu_flags()) and "avx2" not in flags:
        reasons.append("this processor has no AVX2, so its results differ from those of other processors")
    return reasons


def variables() -> str:
    """The variables of the environment that change the last bits of a result, as ``NAME=value NAME=value``."""
    names = sorted({*TORCH, *NUMPY, *OTHERS, *AT_IMPORT, *OF_GPU})
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def cpu_info() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def cpu_flags() -> set[str]:
    """The instruction sets of the processor, as Linux names them; empty if they are unknown."""
    return set(cpu_info().get("flags", "").split())


def json_bytes(content: dict[str, Any]) -> bytes:
    """A JSON file: sorted keys, finite numbers, one newline at the end."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
