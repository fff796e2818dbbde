"""Starting and connecting the processes that train one model together, with PyTorch's DistributedDataParallel.

Every process runs the same stage. The batch, its order and its augmentation are computed whole on each of them,
exactly as one process does it; each then takes its shard of the images, and the gradients are averaged. Rank 0 is the
run that a person sees: it holds the lock, writes, saves, logs and publishes. The others compute, stop when it stops,
and exit when it exits.

There are two ways in. ``python -m stages.train`` with ``train.world_size: 2`` starts the other processes itself, on
this machine. PyTorch's launcher, ``torchrun --nproc-per-node 2 -m stages.train``, starts all of them, on several
machines too, and tells each its place in the environment (RANK, WORLD_SIZE, ...).

What the connected processes then say to each other is in ``distributed.py``.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from classifier.errors import StageError
from classifier.runner import stage
from classifier.runner.context import StageContext
from classifier.runner.lock import SCRATCH
from classifier.runner.logs import configure_logging
from classifier.runner.signals import StopSignals

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=5)  # for a process that lives but does not answer; one that dies is noticed at once
POLL_SECONDS = 0.5  # between two looks at the parent process
REPORT_SECONDS = 10  # that rank 0 has to report an error which all ranks share
PARENT_PID = "STAGE_PARENT_PID"  # in the environment of the processes that rank 0 started: its process id
LOCALHOST = "127.0.0.1"


# --- a stage in several processes -----------------------------------------------------------------------------------


def run_stage(
    name: str, work: Callable[[StageContext], None], doc: str | None, argv: Sequence[str] | None = None
) -> int:
    """Run a stage as ``runner.stage.run_stage`` does, as the rank that the environment says."""
    rank = _rank()
    if rank == 0:
        return stage.run_stage(name, work, doc, argv)
    return stage.run_stage(name, work, doc, argv, rank, WorkerContext.create, lambda: _let_rank_zero_report(name))


def _rank() -> int:
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() and "WORLD_SIZE" in os.environ else 0


def _let_rank_zero_report(name: str) -> None:
    """Wait before this rank reports an error: rank 0 most likely has the same one, and it is to be printed once.

    The launcher ends all ranks as soon as one has ended. Without this pause it could end rank 0 before it has spoken.
    """
    if PARENT_PID not in os.environ:  # else rank 0 reads what this process prints
        # The launcher sends SIGTERM once rank 0 has reported and ended; it may have done so already.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if WorkerContext.got_sigterm:
            os._exit(1)
        time.sleep(REPORT_SECONDS)
    configure_logging(name)


class WorkerContext(StageContext):
    """The context of a rank other than 0: it reads the same inputs, and leaves lock, files and signals to rank 0."""

    is_rank_zero = False
    got_sigterm = False

    @classmethod
    def create(cls, name: str, overrides: Mapping[str, Any], folder: Path) -> "WorkerContext":
        """A context whose process goes on despite signals, and exits when its parent process has exited."""
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, cls._note_sigterm)
        when_parent_exits(lambda: os._exit(1))
        return cls(name, StopSignals(), overrides, folder)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Remember what the inputs are; rank 0 does everything else."""
        self._inputs = self._hash_inputs()
        yield

    @classmethod
    def _note_sigterm(cls, signum: int, frame: FrameType | None) -> None:
        cls.got_sigterm = True

    def publish_preview(self, path: str) -> None:
        """Nothing: rank 0 publishes."""


def when_parent_exits(action: Callable[[], None]) -> None:
    """Do something, on a thread, once the process that started this one has exited."""
    parent = int(os.environ.get(PARENT_PID, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        action()

    threading.Thread(target=watch, daemon=True).start()


# --- starting and connecting the processes --------------------------------------------------------------------------


@dataclass
class ProcessGroup:
    """The processes of a run, as this one sees them.

    Attributes:
        context: of this process.
        world_size: how many there are.
        rank: of this process.
        store: through which they find each other; None if there is only one.
        children: the processes that this one started, by rank.
    """

    context: StageContext
    world_size: int = 1
    rank: int = 0
    store: Any = None
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_children(self, port: int) -> None:
        """Start ranks 1, 2, ... on this machine."""
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:  # no other machine is to be heard
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        common = {
            "WORLD_SIZE": self.world_size, "LOCAL_WORLD_SIZE": self.world_size, "MASTER_ADDR": LOCALHOST,
            "MASTER_PORT": port, PARENT_PID: os.getpid(),
        }  # fmt: skip
        for rank in range(1, self.world_size):
            own = {**common, "RANK": rank, "LOCAL_RANK": rank}
            with self.log_path(rank).open("wb") as log:
                self.children[rank] = subprocess.Popen(
                    [sys.executable, "-m", f"stages.{self.context.name}", *self.context.arguments()],
                    env={**os.environ, **{key: str(value) for key, value in own.items()}},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                )  # fmt: skip

    def log_path(self, rank: int) -> Path:
        """The file that takes what a child prints."""
        return SCRATCH / f"{self.context.name}.rank{rank}.log"

    def describe_ended(self) -> str:
        """One line on a child that ended before its time; empty if there is none."""
        for rank, child in self.children.items():
            status = child.poll()
            if status is not None:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                last = self.log_path(rank).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
                why = f" ({last})" if status > 0 and last else ""
                return f"rank {rank} of {self.world_size} {how}{why}; {self.context.resume_hint}"
        return ""

    def explain(self, error: Exception) -> Exception:
        """The error to report: if another process is gone, that is the cause of this one."""
        end = time.monotonic() + 5  # the connection breaks before the system says that the process is gone
        broken = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        while broken and self.children and not self.describe_ended() and time.monotonic() < end:
            time.sleep(0.05)
        if broken:
            return StageError(self.describe_ended() or f"another process is gone; {self.context.resume_hint}")
        return error

    def kill_children(self) -> None:
        """End the children: there is nothing left for them to do."""
        for rank, child in self.children.items():
            child.kill()
            child.wait()
            self.log_path(rank).unlink(missing_ok=True)


@contextlib.contextmanager
def launch(context: StageContext, world_size: int) -> Iterator[ProcessGroup]:
    """The processes of a run; the others are started here unless a launcher did it.

    Args:
        context: of this process.
        world_size: ``train.world_size``.

    Raises:
        StageError: the launcher started another number of processes, or one of them is gone.
    """
    launched = _world_size_of_launcher() if "RANK" in os.environ else world_size
    if launched != world_size:
        raise StageError(
            f"train.world_size: is {world_size}, but the launcher started {launched} processes; they must be equal"
        )
    group = ProcessGroup(context, world_size)
    if world_size == 1:
        yield group
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would advise against what `setup_module` needs

    if "RANK" in os.environ:
        group.store, group.rank, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
        if context.is_rank_zero:
            when_parent_exits(lambda: os.kill(os.getpid(), signal.SIGTERM))
    else:
        group.store = dist.TCPStore(  # type: ignore[attr-defined]
            LOCALHOST, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT
        )
        group.start_children(group.store.port)
    try:
        yield group
    except StageError:
        raise
    except Exception as error:
        raise group.explain(error) from None
    finally:
        group.kill_children()


def _world_size_of_launcher() -> int:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            problem = "empty" if name in os.environ else "missing"
            raise StageError(
                f"RANK is set, but not by a launcher: {name} is {problem} in the environment; `unset RANK`,"
                " or start with torchrun"
            )
    return int(os.environ["WORLD_SIZE"])


def init_process_group(group: ProcessGroup, device: torch.device, fingerprint: str) -> None:
    """Wait for the other processes, make sure that they are about to do the same, and connect.

    Args:
        group: of this run.
        device: of this process.
        fingerprint: of params, inputs, code and environment, as this process sees them.

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
