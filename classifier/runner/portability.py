"""The same bits on every x86-64 processor with AVX2: which instructions the numerical libraries may use.

Each library picks its kernels by the processor that it runs on, and kernels for other instructions add in another
order. Environment variables pin them, if they are set before the library is imported. docs/reproducibility.md lists
what each of them changes. Source of the idea: github.com/Deep-MI/FastSurfer, pull request 892.
"""

import logging
import os
import platform
import re
import sys
from pathlib import Path

TORCH = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_CBWR": "COMPATIBLE",  # matrix products, exp, log
}
NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}  # exp and log; nothing here uses its BLAS
# What else a user may have set that changes the last bits.
OTHERS = (
    *("DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "MKL_ENABLE_INSTRUCTIONS"),
    *("NPY_ENABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "KMP_DETERMINISTIC_REDUCTION"),
)
OF_GPU = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")  # only recorded
# With these, OpenMP may start fewer threads than it was asked for, and then waits for the missing ones for ever.
UNSET = ("OMP_DYNAMIC", "OMP_THREAD_LIMIT")

logger = logging.getLogger(__name__)


def pin_instruction_set(portable: bool) -> list[str]:
    """Set the variables for this process and its children, and return a line for each of the user's that is overruled.

    Args:
        portable: ``compute.portable``; without it the libraries may use all instructions.
    """
    overruled = []
    wanted = {**NUMPY, **TORCH} if portable else {}
    for name, value in wanted.items():
        found = os.environ.get(name, value)
        if found != value:
            overruled.append(f"{name}={found} in the environment is overruled by {value}: compute.portable is true")
        late = "torch" if name in TORCH else "numpy"
        if late in sys.modules and os.environ.get(name) != value:
            logger.warning(f"{late} was imported before {name} could be set: results may differ from other processors'")
        os.environ[name] = value
    for name in OTHERS if portable else ():
        if os.environ.pop(name, None) is not None:
            overruled.append(f"{name} in the environment is ignored: compute.portable is true")
    for name in UNSET:
        if os.environ.pop(name, None) is not None:
            overruled.append(f"{name} in the environment is ignored: it changes how many threads there are")
    return overruled


def unmet_conditions(lock: Path = Path("requirements.lock")) -> list[str]:
    """Why results on this machine may differ from those of other machines; one line each, none if all is well.

    Args:
        lock: with the line ``torch==...`` that the promise holds for.
    """
    reasons = []
    if platform.machine().lower() not in ("x86_64", "amd64"):
        reasons.append(f"results are the same on x86-64 processors only; this one is {platform.machine()}")
    elif (flags := cpu_flags()) and "avx2" not in flags:
        reasons.append("this processor has no AVX2, so its results differ from those of other processors")
    from importlib.metadata import version

    locked = re.search(r"^torch==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE) if lock.exists() else None
    installed = version("torch").partition("+")[0]
    if locked and locked[1] != installed:
        reasons.append(f"torch {installed} is installed, not {locked[1]} of {lock}, so results may differ")
    return reasons


def variables() -> str:
    """What of the environment changes the last bits of a result, as ``NAME=value NAME=value``."""
    names = sorted({*TORCH, *NUMPY, *OTHERS, *OF_GPU})
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
