"""A Slurm cluster of two nodes on loopback: controller, nodes and their authentication, all of a test's own."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.project import wait_for
from tests.support.browser import cannot_run

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = Path(__file__).with_suffix(".conf").read_text()


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start a cluster with the partitions low and high, and yield the variable that its commands need."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # where the daemons are
    if not all(shutil.which(name, path=path) for name in PROGRAMS):
        cannot_run("slurmctld is missing (on Debian: apt install slurm-wlm)")
    if os.geteuid():
        cannot_run("Slurm needs root here")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o700)
    (folder / "munge/key-file").touch(0o400)
    (folder / "munge/key-file").write_bytes(secrets.token_bytes(1024))
    configuration, host = folder / "slurm.conf", socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(), cores=os.cpu_count()))
    environment = {"SLURM_CONF": str(configuration)}
    variables = {**os.environ, "PATH": path, **environment}
    munge = {name: folder / "munge" / name for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")}
    commands: list[list[str]] = [
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in munge.items())],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "log").open("ab") as log:
            for command in commands:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=variables, start_new_session=True))
                wait_for(munge["socket"].exists)
        shown = ["sinfo", "--noheader", "--format=%T", "--partition=low"]
        ask = partial(subprocess.run, shown, env=variables, capture_output=True, text=True, check=False)
        wait_for(lambda: ask().stdout.strip() == "idle", pause=0.3)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
