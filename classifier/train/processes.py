"""Starting and connecting the processes that train one model together, with PyTorch's DistributedDataParallel.

Every process runs the same stage. The batch, its order and its augmentation are computed whole on each of them,
exactly as one process does it; each then takes its shard of the images, and the gradients are averaged. Rank 0 is the
run that a person sees: it holds the lock, writes, saves, logs and publishes. The others compute, stop when it stops,
and exit when it exits.

There are two ways in. ``python -m stages.train`` with ``train.world_size: 2`` starts the other processes itself, on
this machine. PyTorch's launcher, ``torchrun --nproc-per-node 2 -m stages.train``, starts all of them, on several
machines too. Both tell each process its place in the environment (RANK, WORLD_SIZE, ...).

What the connected processes then say to each other is in ``distributed.py``.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from classifier.errors import StageError
from classifier.runner import stage
from classifier.runner.context import StageContext
from classifier.runner.signals import StopSignals

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=5)  # for a process that lives but does not answer; one that dies is noticed at once
REPORT_SECONDS = 10  # that rank 0 has to report an error which all ranks share
PARENT_PID = "STAGE_PARENT_PID"  # in the environment of the processes that rank 0 started: its process id
LOCALHOST = "127.0.0.1"


def run_stage(name: str, work: Callable[[StageContext], None], doc: str | None) -> int:
    """Run a stage as ``runner.stage.run_stage`` does, as the rank that the environment says."""
    if not _was_launched() or os.environ["RANK"] == "0":
        return stage.run_stage(name, work, doc)
    signals = StopSignals()
    signals.defer_for_good()  # rank 0 says when to stop

    def make_context(name: str, overrides: Mapping[str, Any], folder: Path) -> StageContext:
        signals.install_signal_handlers()
        signals.watch_parent(int(os.environ.get(PARENT_PID, os.getppid())), "launcher", signal.SIGKILL)
        return WorkerContext(name, signals, overrides, folder)

    def log(record: logging.LogRecord) -> bool:
        """Errors only, and late: rank 0 most likely has the same one, and it is to be printed once.

        Whoever started the ranks ends all of them as soon as one has ended: without the pause, rank 0 before it speaks.
        """
        end = time.monotonic() + REPORT_SECONDS
        while record.levelno >= logging.ERROR and not signals.stop_requested():
            if time.monotonic() > end:
                return True
            time.sleep(0.1)
        return False

    return stage.run_stage(name, work, doc, None, make_context, log)


def _was_launched() -> bool:
    return dist.is_torchelastic_launched() or PARENT_PID in os.environ


class WorkerContext(StageContext):
    """The context of a rank other than 0: it reads the same inputs, and leaves lock and files to rank 0."""

    is_rank_zero = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Remember what the inputs are; rank 0 does everything else."""
        self._inputs = self._hash_inputs()
        yield

    def publish_preview(self, path: str) -> None:
        """Nothing: rank 0 publishes."""


@dataclass
class ProcessGroup:
    """The processes of a run, as this one sees them.

    Attributes:
        context: of this process.
        world_size: how many there are.
        rank: of this process.
        store: through which they find each other; None if there is only one.
        children: ranks 1, 2, ..., if this process started them.
    """

    context: StageContext
    world_size: int
    rank: int = 0
    store: Any = None
    children: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start_children(self) -> None:
        """Start ranks 1, 2, ... on this machine."""
        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            LOCALHOST, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT
        )
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:  # no other machine is to be heard
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        common = {
            "WORLD_SIZE": self.world_size, "LOCAL_WORLD_SIZE": self.world_size, "MASTER_ADDR": LOCALHOST,
            "MASTER_PORT": self.store.port, PARENT_PID: os.getpid(), "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        for rank in range(1, self.world_size):
            own = {**common, "RANK": rank, "LOCAL_RANK": rank}
            self.children.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"stages.{self.context.name}", *self.context.arguments()],
                    env={**os.environ, **{key: str(value) for key, value in own.items()}},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                )
            )  # fmt: skip

    def describe_ended(self) -> str:
        """One line on a child that ended before its time; empty if there is none."""
        for rank, child in enumerate(self.children, start=1):
            status = child.poll()
            if status is not None:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"rank {rank} of {self.world_size} {how}; {self.context.resume_hint}"
        return ""

    def explain(self, error: Exception) -> Exception:
        """The error to report: if another process is gone, that is the cause of this one."""
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            return error
        end = time.monotonic() + 5  # the connection breaks before the system says that the process is gone
        while self.children and not self.describe_ended() and time.monotonic() < end:
            time.sleep(0.05)
        return StageError(self.describe_ended() or f"another process is gone; {self.context.resume_hint}")


@contextlib.contextmanager
def launch(context: StageContext, world_size: int) -> Iterator[ProcessGroup]:
    """The processes of a run; the others are started here unless a launcher did it.

    Raises:
        StageError: the launcher started another number of processes, or one of them is gone.
    """
    group = ProcessGroup(context, world_size)
    if world_size > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would advise against what `setup_module` needs
    launched = int(os.environ["WORLD_SIZE"]) if _was_launched() else 0
    if launched not in (0, world_size):
        raise StageError(
            f"train.world_size: is {world_size}, but the launcher started {launched} processes; they must be equal"
        )
    try:
        if launched:
            group.store, group.rank, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
            if context.is_rank_zero:
                context.signals.watch_parent(os.getppid(), "launcher")
        elif world_size > 1:
            group.start_children()
        yield group
    except Exception as error:
        raise group.explain(error) from None
    finally:
        for child in group.children:  # there is nothing left for them to do
            child.kill()
            child.wait()
        if dist.is_initialized():  # another training may follow in this process
            dist.destroy_process_group()


def init_process_group(group: ProcessGroup, device: torch.device, fingerprint: str) -> None:
    """Wait for the other processes, make sure that they have the same fingerprint of all that decides, and connect.

    Raises:
        StageError: a process ended or did not come, or has another fingerprint.
    """
    if group.world_size == 1:
        return
    store, world_size = group.store, group.world_size
    store.set(f"fingerprint/{group.rank}", fingerprint)
    end = time.monotonic() + TIMEOUT.total_seconds()
    for rank in range(world_size):  # looks instead of one long wait, so that signals and deaths are noticed
        while not store.check([f"fingerprint/{rank}"]):
            if ended := group.describe_ended():
                raise StageError(ended)
            if time.monotonic() > end:
                raise StageError(f"rank {rank} of {world_size} did not come within {TIMEOUT}")
            time.sleep(0.05)
        if store.get(f"fingerprint/{rank}") != store.get("fingerprint/0"):
            raise StageError(
                f"rank {rank} has other params, inputs, code, versions or processor than rank 0; every node"
                " needs the same commit, `dvc pull`, the locked environment and the same kind of machine"
            )
    on_this_node = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    has_own_gpu = device.type == "cuda" and on_this_node <= torch.cuda.device_count()
    dist.init_process_group(
        "nccl" if has_own_gpu else "gloo", store=store, rank=group.rank, world_size=world_size, timeout=TIMEOUT
    )
