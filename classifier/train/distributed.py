"""Operations over the processes that train one model together; in a single process they change nothing.

Their names are those of ``torch.distributed`` and Lightning Fabric. ``processes.py`` starts and connects the processes.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from classifier.errors import StageError
from classifier.model.compute import seed_generators
from classifier.seeds import derive_seed

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """The number of connected processes."""
    return dist.get_world_size() if _connected() else 1


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def select_device(device: torch.device, world_size: int) -> torch.device:
    """The device of this process: GPUs are dealt out in turn.

    Raises:
        StageError: PyTorch cannot connect several processes on such a device.
    """
    if world_size > 1 and device.type not in ("cpu", "cuda"):
        raise StageError(f"train.world_size: {world_size} processes need compute.device cpu or cuda, not {device}")
    if world_size > 1 and device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def convert_sync_batchnorm(model: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """SyncBatchNorm on GPUs. On CPUs each process normalizes its shard, and the statistics of rank 0 are kept."""
    return SyncBatchNorm.convert_sync_batchnorm(model) if world_size > 1 and device.type == "cuda" else model


def setup_module(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages the gradients; its weights are those of rank 0."""
    # find_unused_parameters: with it, PyTorch does not rearrange the gradients after the first step. Where an element
    # lies decides in which order more than two processes add it, and a resumed run must add as the uninterrupted one.
    return DistributedDataParallel(model, find_unused_parameters=True) if _connected() else model


def shard(seed: int, *tensors: Tensor) -> Sequence[Tensor]:
    """This process's part of each ``(N, ...)``; the first parts are larger by one if N does not divide.

    From here on, random draws such as dropout differ between the processes; they follow from the seed.
    """
    if not _connected():
        return tensors
    seed_generators(derive_seed(seed, "process", dist.get_rank()))
    return [tensor.tensor_split(dist.get_world_size())[dist.get_rank()] for tensor in tensors]


def gather(part: Tensor, total: int) -> Tensor:
    """The whole ``(total,)`` of which each process has the part that ``shard`` gave to it."""
    if not _connected():
        return part
    whole = part.new_zeros(total)
    whole.tensor_split(dist.get_world_size())[dist.get_rank()].copy_(part)
    dist.all_reduce(whole)
    return whole


def all_reduce_sum(device: torch.device, *numbers: float) -> tuple[float, ...]:
    """The sum of each number over the processes."""
    if not _connected():
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return tuple(sums.tolist())


def broadcast_bool(device: torch.device, answer: bool) -> bool:
    """Rank 0's answer, on every process."""
    if not _connected():
        return answer
    flag = torch.tensor(answer, dtype=torch.uint8, device=device)
    dist.broadcast(flag, 0)
    return bool(flag)


def broadcast_object(device: torch.device, load: Callable[[], Any]) -> Any:
    """The object that rank 0 loads, on every process; only rank 0 need have the file."""
    if not _connected():
        return load()
    shared = [load() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, 0, device=device)
    return shared[0]
