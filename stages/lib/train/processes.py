"""Several processes that train one model together, through PyTorch's DistributedDataParallel.

Every process runs the same stage over the same plan. The batch, its order and its augmentation are computed whole on
each of them, exactly as one process does it; each then takes its share of the images, and the gradients are averaged.
The first process (rank 0) is the run that a person sees: it holds the lock, writes, saves, prints and publishes. The
others compute, follow it when it stops, and die with it.

There are two ways in. ``python -m stages.train`` with ``train.processes: 2`` starts the others itself, as children on
this machine. PyTorch's launcher, ``torchrun --nproc-per-node 2 -m stages.train``, starts all of them, on several
machines too, and says in the environment who is who (RANK, WORLD_SIZE, ...).
"""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import SCRATCH, Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PATIENCE = timedelta(minutes=5)  # with a process that lives and is silent; one that dies is noticed at once
LOOK_SECONDS = 0.5  # between two looks at the parent
LEADER = "STAGE_LEADER"  # the process id of the first process, for the children that it started
HERE = "127.0.0.1"


class Follower(Run):
    """A further process of a run: it reads what the run reads, and leaves locks, files, words and signals to it."""

    leads = False

    def listen(self) -> None:
        """Stop when the first process does, and die with the process that started this one."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        when_parent_ends(lambda: os._exit(1))

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """The first process holds the lock."""
        return contextlib.nullcontext()

    def start(self) -> None:
        """Remember what the inputs are."""
        self._inputs = self._hash_inputs()

    def show(self, path: str) -> None:
        """Nothing to look at."""

    def say(self, text: str) -> None:
        """Nothing to say."""

    def publish(self) -> None:
        """Nothing was written."""

    def retract(self) -> None:
        """Likewise."""


def kind_of_run() -> type[Run]:
    """What this process is to the run, by the environment."""
    return Follower if int(os.environ.get("RANK", "0")) else Run


def when_parent_ends(act: Callable[[], None]) -> None:
    """Do something, on a thread, once the process that started this one is gone."""
    parent = int(os.environ.get(LEADER, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        act()

    threading.Thread(target=watch, daemon=True).start()


class Team:
    """The processes of a run. This is a team of one, which changes nothing; see ``Several``."""

    rank, size = 0, 1

    def place(self, device: "torch.device") -> "torch.device":
        """The device of this process."""
        return device

    def synchronised(self, model: "nn.Module") -> "nn.Module":
        """The model with batch normalisation over the whole batch, where PyTorch can."""
        return model

    def meet(self, fingerprint: str) -> None:
        """Wait for the others, and make sure that they are about to do the same."""

    def from_first(self, load: Callable[[], Any]) -> Any:
        """What the first process loads, on every one: tensors, numbers, text, and lists and dictionaries of them."""
        return load()

    def wrapped(self, model: "nn.Module") -> "nn.Module":
        """The model whose backward pass averages the gradients; its weights are those of the first process."""
        return model

    def share(self, batch: "Tensor") -> "Tensor":
        """This process's part of ``(N, ...)``."""
        return batch

    def part_ways(self, *key: int | str) -> None:
        """From here on, random draws differ between the processes: dropout, for one."""

    def weighted(self, mean: "Tensor", count: int, total: int) -> "Tensor":
        """A mean over ``count`` images, such that its mean over the processes is that over all ``total``."""
        return mean

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over the processes."""
        return numbers

    def agree(self, answer: bool) -> bool:
        """The first process's answer, on every one."""
        return answer


class Several(Team):
    """More than one process, of which this is one.

    Args:
        run: of this process.
        size: how many processes.
    """

    def __init__(self, run: Run, size: int):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would advise against what ``wrapped`` needs
        import torch.distributed

        self.run, self.size = run, size
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        if "RANK" in os.environ:
            join = torch.distributed.rendezvous  # type: ignore[attr-defined]
            self.store, self.rank, _ = next(join("env://", timeout=PATIENCE))
            if run.leads:
                when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
        else:
            self.store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                HERE, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE
            )
            self._start_children(self.store.port)
        self.device = torch.device("cpu")

    def _start_children(self, port: int) -> None:
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:  # nobody else is to be heard
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        common = {"WORLD_SIZE": self.size, "LOCAL_WORLD_SIZE": self.size, "MASTER_ADDR": HERE, "MASTER_PORT": port}
        for rank in range(1, self.size):
            own = {**common, "RANK": rank, "LOCAL_RANK": rank, LEADER: os.getpid()}
            with self._log(rank).open("wb") as log:
                self.children[rank] = subprocess.Popen(
                    [sys.executable, "-m", f"stages.{self.run.name}"],
                    env={**os.environ, **{key: str(value) for key, value in own.items()}},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                )  # fmt: skip

    def _log(self, rank: int) -> Path:
        return SCRATCH / f"{self.run.name}.process{rank}.log"

    def place(self, device: "torch.device") -> "torch.device":
        """The device of this process: GPUs are dealt out in turn.

        Raises:
            StageError: PyTorch has no communication for such devices.
        """
        import torch

        if device.type not in ("cpu", "cuda"):
            raise StageError(f"train.processes: {self.size} processes need compute.device cpu or cuda, not {device}")
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        self.device = device
        return device

    def synchronised(self, model: "nn.Module") -> "nn.Module":
        """SyncBatchNorm on GPUs. On CPUs each process normalises its share, and the first one's statistics are kept."""
        from torch.nn import SyncBatchNorm

        return SyncBatchNorm.convert_sync_batchnorm(model) if self.device.type == "cuda" else model

    def meet(self, fingerprint: str) -> None:
        """Wait for the others, and make sure that they are about to do the same.

        Raises:
            StageError: one ended or did not come, or has other params, inputs, code, versions or processor.
        """
        import torch
        from torch import distributed

        self.store.set(f"here/{self.rank}", fingerprint)
        end = time.monotonic() + PATIENCE.total_seconds()
        for rank in range(self.size):  # looks instead of one long wait, so that signals and deaths are noticed
            while not self.store.check([f"here/{rank}"]):
                if self._ended():
                    raise StageError(self._ended())
                if time.monotonic() > end:
                    raise StageError(f"rank {rank} of {self.size} did not come within {PATIENCE}")
                time.sleep(0.05)
            if self.store.get(f"here/{rank}").decode() != self.store.get("here/0").decode():
                self.refuse(
                    f"rank {rank} has other params, inputs, code, versions or processor than rank 0; every node"
                    " needs the same commit, `dvc pull`, the locked environment and the same kind of machine"
                )
        own_gpu = self.device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) <= (
            torch.cuda.device_count()
        )
        distributed.init_process_group(
            "nccl" if own_gpu else "gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE
        )

    def refuse(self, reason: str) -> None:
        """End the run for a reason that every process sees; the first one tells it."""
        if self.run.leads:
            raise StageError(reason)
        raise SystemExit(1)

    def from_first(self, load: Callable[[], Any]) -> Any:
        """What the first process loads, on every one: only it need have the file."""
        import torch

        buffer = io.BytesIO()
        if self.rank == 0:
            torch.save(load(), buffer)
        (size,) = self.total(len(buffer.getvalue()))
        content = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == 0:
            content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        content = content.to(self.device)
        torch.distributed.broadcast(content, 0)
        return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), weights_only=True, map_location="cpu")

    def wrapped(self, model: "nn.Module") -> "nn.Module":
        """In DistributedDataParallel."""
        from torch.nn.parallel import DistributedDataParallel

        # With it, PyTorch does not rearrange the gradients after the first step. Where an element lies decides in which
        # order more than two processes add it, and a resumed run must add as the undisturbed one did.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def share(self, batch: "Tensor") -> "Tensor":
        """This process's part of ``(N, ...)``; the first parts are larger by one if N does not divide."""
        return batch.tensor_split(self.size)[self.rank]

    def part_ways(self, *key: int | str) -> None:
        """Seed by the key and the process."""
        from stages.lib.model.compute import seed_generators
        from stages.lib.seeds import derive

        seed_generators(derive(*key, "process", self.rank))

    def weighted(self, mean: "Tensor", count: int, total: int) -> "Tensor":
        """Times the share of this process, against an equal share."""
        return mean * (count * self.size / total)

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over the processes."""
        import torch

        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def agree(self, answer: bool) -> bool:
        """The first process's answer, on every one."""
        import torch

        flag = torch.tensor(answer, dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag)

    def explained(self, error: Exception) -> Exception:
        """What to tell about an error: if another process is gone, that is its cause."""
        import torch

        end = time.monotonic() + 5  # the connection breaks before the system says that the process is gone
        broken = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        while broken and self.children and not self._ended() and time.monotonic() < end:
            time.sleep(0.05)
        if broken:
            return StageError(self._ended() or f"another process is gone; {self.run.note_on_stop}")
        return error

    def _ended(self) -> str:
        """One line on a child that ended before its time; empty if there is none."""
        for rank, child in self.children.items():
            status = child.poll()
            if status is not None:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                last = self._log(rank).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
                why = f" ({last})" if status > 0 and last else ""
                return f"rank {rank} of {self.size} {how}{why}; {self.run.note_on_stop}"
        return ""

    def end(self) -> None:
        """Let no child live on: there is nothing left for it to do."""
        for rank, child in self.children.items():
            child.kill()
            child.wait()
            self._log(rank).unlink(missing_ok=True)


@contextlib.contextmanager
def together(run: Run, size: int) -> Iterator[Team]:
    """The team of ``train.processes``, whose other processes are started here unless a launcher did it.

    Raises:
        StageError: the launcher started another number of processes, or one of them is gone.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else size
    if launched != size:
        if not run.leads:
            raise SystemExit(1)  # the first process says why
        raise StageError(f"train.processes: is {size}, but the launcher started {launched}; they must be the same")
    if size == 1:
        yield Team()
        return
    team = Several(run, size)
    try:
        yield team
    except StageError:
        raise
    except Exception as error:
        raise team.explained(error) from None
    finally:
        team.end()
