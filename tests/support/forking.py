"""The client of ``fork_server.py``: run a command in a child that has the libraries already, or for real if it must be.

A folder with programs called ``python`` and ``dvc``, first on PATH, lets what DVC or a shell starts take the same way.
They pass everything else on to the real ones: other modules, ``-c``, and environments that a library reads when it is
imported.
"""

import array
import marshal
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from classifier import portability
from tests.support.fork_server import WITHOUT_TORCH

SERVER = "TEST_FORK_SERVER"  # in the environment: the folder of socket and programs
REAL = Path(sys.executable).absolute().parent
FORKED_MODULES = ("stages.", "tools.", "demo.")
WITH_TORCH = ("stages.train", "stages.evaluate", "stages.export")
# Read at the import of a library, or they make a process one of several.
READ_AT_IMPORT = (
    *("ATEN_", "GLOO_", "KMP_", "LOCAL_RANK", "MASTER_", "MKL_", "MPL", "NPY_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTHON", "RANK", "TORCH", "WORLD_SIZE"),
)
HARMLESS = ("MPLCONFIGDIR", "PYTHONDONTWRITEBYTECODE", "TORCHINDUCTOR_CACHE_DIR")
# Before anything is imported: torch adds variables to its own, which stages would get. The libraries of the server are
# those of a portable run; a test of what a stage sets by itself takes PINS out of its project's environment.
PINS = {**portability.NUMPY, **portability.TORCH}
ENVIRONMENT = {**os.environ, **PINS}

PROGRAM = """#!{base} -IS
import _signal, _socket, marshal, os, sys
name, arguments, environment = os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)
special = {{k: v for k, v in environment.items() if k.startswith({read_at_import}) and k not in {harmless}}}
forked = arguments if special == {special} else []
if name == "dvc":
    forked = forked and [{real!r} + "/dvc", *arguments]
elif forked[:2] == ["-m", "dvc"]:
    forked = [{real!r} + "/dvc", *forked[2:]]
elif forked[:1] == ["-m"] and forked[1:]:
    forked = forked if forked[1].startswith({modules}) else []
elif not (forked and forked[0].endswith(".py")):
    forked = []
if not forked:
    os.execv({real!r} + "/" + name, [{real!r} + "/" + name, *arguments])
# The parent of the child is the server: it cannot look after the DVC that started it, as a stage does if it sees this.
environment.pop("DVC_STAGE", None)
content = marshal.dumps({{"arguments": forked, "cwd": os.getcwd(), "environment": environment}})
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
with_torch = forked[0].endswith(".py") or (forked[0] == "-m" and forked[1] in {with_torch})
server.connect({socket!r} + ("" if with_torch else {without_torch!r}))
files = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
server.sendmsg([len(content).to_bytes(8, "little")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
for signum in (1, 2, 3, 15):
    if _signal.getsignal(signum) is not _signal.SIG_IGN:
        _signal.signal(signum, lambda signum, frame: server.send(bytes([signum])))
while content:
    content = content[server.send(content):]
told = b""
while told.count(b"\\n") < 2:
    part = server.recv(64)
    if not part:
        os._exit(255)
    told += part
status = int(told.split()[1])
if status < 0:
    _signal.signal(-status, _signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def start_server(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Start the server of a test session and tell its workers; None where the system has no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    programs = folder / "bin"
    programs.mkdir()
    text = PROGRAM.format(
        base=Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}",
        real=str(REAL), socket=str(folder / "socket"), modules=FORKED_MODULES, read_at_import=READ_AT_IMPORT,
        harmless=HARMLESS, with_torch=WITH_TORCH, without_torch=WITHOUT_TORCH, special=_special(ENVIRONMENT),
    )  # fmt: skip
    for name in ("python", "dvc"):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    os.environ[SERVER] = str(folder)
    script = Path(__file__).with_name("fork_server.py")
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [REAL / "python", script, folder / "socket"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}, start_new_session=True,
        )  # fmt: skip


def _special(environment: Mapping[str, str]) -> dict[str, str]:
    """What the server cannot take over from an environment, since its libraries have read their own."""
    return {key: environment[key] for key in environment if key.startswith(READ_AT_IMPORT) and key not in HARMLESS}


def programs() -> Path | None:
    """The folder to put first on PATH, if a server runs."""
    return Path(os.environ[SERVER]) / "bin" if SERVER in os.environ else None


def forked_arguments(command: Sequence[str], environment: dict[str, str]) -> list[str]:
    """The arguments for the server, or nothing if the command must run for real."""
    if _special(environment) != _special(ENVIRONMENT):
        return []
    match [*command]:
        case ["dvc", *words]:
            return [str(REAL / "dvc"), *words]
        case ["python", "-m", module, *_] if module.startswith(FORKED_MODULES):
            return [*command[1:]]
        case ["python", script, *_] if script.endswith(".py"):
            return [*command[1:]]
    return []


def run_forked(
    arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    """As ``subprocess.run`` with its output captured.

    Raises:
        TimeoutExpired: the child, which was killed, took longer.
    """
    content = marshal.dumps({"arguments": arguments, "cwd": str(cwd), "environment": environment})
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        _connect(server, arguments)
        with open(os.devnull, "rb") as nothing:
            files = array.array("i", [nothing.fileno(), out.fileno(), err.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
            server.sendmsg([len(content).to_bytes(8, "little")], rights)
            server.sendall(content)
        server.settimeout(timeout)
        told = b""
        try:
            while told.count(b"\n") < 2:
                part = server.recv(64)
                assert part, "the fork server is gone"
                told += part
        except TimeoutError:
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess(arguments, int(told.split()[1]), out.read().decode(), err.read().decode())


def _connect(server: socket.socket, arguments: list[str], seconds: float = 120) -> None:
    folder, end = Path(os.environ[SERVER]), time.monotonic() + seconds
    # Both must be there, whichever it is: what this program starts in its turn does not wait.
    paths = [folder / f"socket{WITHOUT_TORCH}", folder / "socket"]
    while not all(path.exists() for path in paths):  # still importing
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.05)
    server.connect(str(paths[needs_torch(arguments)]))


def needs_torch(arguments: Sequence[str]) -> bool:
    """Whether a command, as the server gets it, uses PyTorch; the same expression stands in ``PROGRAM``."""
    return arguments[0].endswith(".py") or (arguments[0] == "-m" and arguments[1] in WITH_TORCH)
