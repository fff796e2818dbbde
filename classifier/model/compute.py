"""Device, threads and determinism, and a description of the machine on which the last bits depend."""

import ctypes
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from classifier.errors import StageError

if TYPE_CHECKING:
    from classifier.config import Compute


def prepare(compute: "Compute") -> torch.device:
    """Set threads and deterministic algorithms, and choose the device.

    Raises:
        StageError: the requested device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = (
        compute.device if compute.device != "auto" else next(device for device, usable in available.items() if usable)
    )
    if not available[name]:
        raise StageError(f"compute.device: this machine has no usable {name}; auto takes what is available")
    _keep_memory()
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms also imports the compiler: 1 s
    # Filling every new tensor, to reveal reads of uninitialized memory, costs a quarter of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False  # it selects kernels by timing, so not always the same ones
    return torch.device(name)


def _keep_memory() -> None:
    """Let glibc keep freed memory: each step allocates its activations, and fresh pages cost a sixth of its time.

    Option numbers and limits: mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-3, 32 << 20), (-2, 64 << 20), (-1, 2**31 - 1)):  # mmap threshold, top pad, trim
            mallopt(option, value)


def seed_generators(seed: int) -> None:
    """Seed PyTorch's generators, the only source of initial weights, dropout and augmentation.

    ``torch.manual_seed`` takes 1 ms, as it also records the seed, with a formatted stack, for devices added later.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def environment(device: torch.device) -> dict[str, str | int]:
    """The parts of the machine and software that, beyond params and inputs, decide the last bits of a result."""
    vendor, model = _processor()
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_vendor": vendor,
        "cpu_model": model,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> tuple[str, str]:
    """Vendor and model of the processor, from Linux; on other systems from Python's ``platform``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown", platform.processor() or "unknown"
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("vendor_id", "unknown"), fields.get("model name", platform.processor() or "unknown")
