"""Device, threads and determinism, and a description of the machine on which the last bits depend."""

import ctypes
import logging
import platform
from dataclasses import dataclass

from classifier import portability
from classifier.config.schema import Compute, Params, Train
from classifier.errors import StageError
from classifier.kernels import calls, library
from classifier.model import zoo
from classifier.threads import count_cores

import torch

MAX_AUTO_THREADS = 8  # more gain nothing: a batch is cut into a few parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """Where and how a model computes.

    Attributes:
        device: of the model.
        threads: of this process.
        in_parts: each operation runs on one thread, and the threads share the batches, or the parts of a batch. So the
            result does not depend on how many threads there are. Otherwise the threads share each operation.
        is_same_everywhere: whether the result is the same on every processor that the promise is for.
    """

    device: torch.device
    threads: int
    in_parts: bool
    is_same_everywhere: bool = False

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device. CUDA is asked not to wait for what was queued before; others have to."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")


def prepare(compute: Compute, threads: int | str, train: Train | None = None) -> Backend:
    """Set threads and deterministic algorithms, choose the device, and log why results may differ elsewhere.

    Args:
        compute: the section ``compute`` of params.yaml.
        threads: ``runtime.threads``: a number, or auto.
        train: the section ``train``, for a training.

    Raises:
        StageError: the requested device is not available.
    """
    name = _choose_device(compute)
    number = min(count_cores(), MAX_AUTO_THREADS) if threads == "auto" else int(threads)
    world_size = train.world_size if train else 1
    in_parts = compute.portable and name == "cpu" and world_size == 1
    reasons = _unmet_conditions(train)
    backend = Backend(torch.device(name), number, in_parts, in_parts and not reasons)
    if compute.portable:
        pinned = portability.TORCH["ATEN_CPU_CAPABILITY"].upper()
        if backend.in_parts and not reasons and torch.backends.cpu.get_cpu_capability() != pinned:
            reasons.append("PyTorch had computed something before its instructions were pinned, so results may differ")
        if name != "cpu":
            reasons.append(f"compute.portable holds on CPUs only, so results on {name} may differ between machines")
        if world_size > 1:
            reasons.append("compute.portable holds for train.world_size 1, so results may differ between machines")
        for reason in reasons:
            logger.warning(reason)
    calls.use(backend.in_parts)
    _keep_memory()
    torch.set_num_threads(1 if backend.in_parts else number)
    # On other devices some operations have no deterministic version: PyTorch runs them and names them in a warning.
    # (use_deterministic_algorithms also imports the compiler: 1 s)
    torch.set_deterministic_debug_mode("error" if name == "cpu" else "warn")
    # Filling every new tensor, to reveal reads of uninitialized memory, costs a quarter of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False  # it selects kernels by timing, so not always the same ones
    return backend


def is_same_everywhere(params: Params) -> bool:
    """Whether a training gives the same bytes on every processor that the promise is for."""
    in_parts = params.compute.portable and _choose_device(params.compute) == "cpu" and params.train.world_size == 1
    return in_parts and not _unmet_conditions(params.train)


def _choose_device(compute: Compute) -> str:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = (
        compute.device if compute.device != "auto" else next(device for device, usable in available.items() if usable)
    )
    if not available[name]:
        raise StageError(f"compute.device: this machine has no usable {name}; auto takes what is available")
    return name


def _unmet_conditions(train: Train | None) -> list[str]:
    """Why results on this machine may differ from those of other machines; one line each, none if all is well."""
    reasons = portability.unmet_conditions()
    if library.load()[0] == "none":
        reasons.append("no compiled kernels, so results may differ between machines; `make setup` compiles them")
    if train and portability.IS_ARM:
        by_pytorch = {
            f"train.model: {train.model}": train.model not in zoo.ARCHITECTURES,
            "train.optimizer: adagrad": train.optimizer == "adagrad",
            "train.augment.rotate_degrees": train.augment.rotate_degrees,
            "train.freeze": train.freeze,
        }
        if keys := [key for key, is_used in by_pytorch.items() if is_used]:
            reasons.append(f"{', '.join(keys)}: PyTorch computes it, so on ARM the bytes may differ from x86-64")
    return reasons


def use_one_thread() -> None:
    """Let the operations that this thread calls run on it alone: for the initializer of a pool of threads.

    PyTorch and MKL count per thread that calls them, and a new one begins with all cores.
    """
    torch.set_num_threads(1)


def start_training_thread() -> None:
    """As ``use_one_thread``, and numbers below 1e-38 are taken for 0.

    The gradients of filters that have died become so small, and an operation on such numbers takes a hundred times as
    long. NumPy, on other threads, expects them to exist.
    """
    use_one_thread()
    torch.set_flush_denormal(True)


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


def environment(backend: Backend) -> dict[str, str | int | bool]:
    """The parts of the machine and software that a result may depend on, beyond params and inputs."""
    cpu = portability.cpu_info()
    is_gpu = backend.device.type == "cuda"
    return {
        "same_everywhere": backend.is_same_everywhere,
        "device": torch.cuda.get_device_name() if is_gpu else backend.device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_vendor": cpu.get("vendor_id", "unknown"),
        "cpu_model": cpu.get("model name", platform.processor() or "unknown"),
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": backend.threads,
        "kernels": calls.in_use(),
        "variables": portability.variables(),
    }


def deciding(environment: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """The part of an environment that decides the last bits of a result: all of it, unless the result is portable."""
    return {"same_everywhere": True} if environment["same_everywhere"] else environment
