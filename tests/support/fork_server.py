"""Processes that have imported the libraries and fork one child a command: a program starts in 20 ms instead of 4 s.

run     python tests/support/fork_server.py SOCKET                    (tests/conftest.py does it, once a test session)

Each request brings a command line, a working directory, an environment and three open files. The child takes them,
leads a process group of its own, and runs the module or script as ``__main__``; no code of this project is imported
before that. It must not differ from a program that was just started: signal handlers, warning filters and generators
of random numbers are those of a fresh process, and no thread runs at the fork. What cannot be the same is the seed of
``hash`` and the list of imported modules; what is left out at the end takes libraries apart or looks for leaks.
``tests/stages/test_runner.py`` compares the results with real ones.

There are two such processes. One has no PyTorch: a fork of it costs a third, and most programs need none.

The messages: a request is a length and a marshaled dictionary, with three files; the answer is the process id, then
the exit status, as lines. Bytes that a client sends later are signals for the child; a client that hangs up kills it.
"""

import array
import atexit
import contextlib
import gc
import importlib
import marshal
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
import weakref
from typing import Any, NoReturn

WITHOUT_TORCH = "-without-torch"  # end of the socket's name
DEFAULT_FILTERS = list(warnings.filters)

# What the stages and tools import, and what those modules import when they are first used. Not onnxruntime: its import
# starts a thread, which no child would have. OpenBLAS ends its own before a fork and starts them again.
LIBRARIES = [
    "numpy",
    "pandas",
    "scipy.stats",
    "scipy.special",
    "PIL.Image",
    "PIL.ImageOps",
    "PIL.PngImagePlugin",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "pydantic.fields",
    "pydantic.main",
    "pydantic.types",
    "pydantic.functional_validators",
    "ruamel.yaml",
    "yaml",
    "filelock",
    "psutil",
    "tqdm",
    "jinja2",
    "fsspec",
    "aiohttp",
    "fsspec.implementations.http",
    "fsspec.implementations.local",
    "safetensors.numpy",
    "matplotlib",
    "matplotlib.figure",
    "matplotlib.ticker",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "dvc.cli",
    "dvc.repo",
    "dvc.repo.reproduce",
    "dvc.repo.experiments",
    "dvc.repo.experiments.run",
    "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery",
    "dvc.repo.experiments.queue.tasks",
    "dvc.repo.experiments.queue.tempdir",
    "dvc.repo.experiments.queue.workspace",
    "dvc.repo.graph",
    "dvc.repo.index",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.open_repo",
    "dvc.repo.plots",
    "dvc.repo.metrics.show",
    "dvc.repo.metrics.diff",
    "dvc.repo.params.diff",
    "dvc.render.match",
    "dvc.stage.run",
    "dvc.stage.cache",
    "dvc.api",
    "dvc.commands.repro",
    "dvc.cli.parser",
    "dvc.dependency.param",
    "dvc.output",
    "dvc.compare",
    "dvc.cachemgr",
    "dvc.data_cloud",
    "dvc.repo.stage",
    "dvc.utils.hydra",
    "dvc.utils.strictyaml",
    "dvc.utils.studio",
    "dvc.utils.table",
    "dvc.ui.table",
    "dvc.ui.pager",
    "dvc_data.index.checkout",
    "dvc_data.hashfile.db.local",
    "dvc_task.app",
    "dvc_task.proc.manager",
    "hydra._internal.config_loader_impl",
    "networkx",
    "rich.console",
    "rich.table",
    "tabulate",
    "tzlocal",
    "celery.app.amqp",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.state",
    "dulwich.ignore",
    "dulwich.porcelain",
    "dulwich.stash",
    "platformdirs.unix",
    "scmrepo.git",
    "scmrepo.git.backend.pygit2.filter",
]
WITH_TORCH = [
    "safetensors.torch",
    "torch",
    "torch.utils.data",
    "torch.nn.utils.fusion",
    "torch.distributed",
    "torch.nn.parallel",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "torch.onnx._internal.exporter._compat",
    "torch.export._trace",
    "torch._functorch.aot_autograd",
    "torch._inductor.codecache",
    "torch._functorch._aot_autograd.subclass_parametrization",
    "torch._inductor.compiler_bisector",
    "torch._inductor.custom_graph_pass",
    "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode",
    "torch._export.passes.replace_autocast_with_hop_pass",
    "torch._export.passes.replace_set_grad_with_hop_pass",
    "torch.export._patches",
    "torch.fx.experimental.validator",
    "sympy.tensor.tensor",
    "torch.optim",
    "torchvision",
    "onnx",
    "onnx.checker",
    "onnx.shape_inference",
    "onnx.numpy_helper",
    "onnxscript",
    "onnxscript.optimizer",
    "onnxscript.rewriter.onnx_fusions",
]


OPSET = 18  # export.opset of the tests


def import_libraries(names: list[str]) -> None:
    """Import them; one that is missing costs time in every child, and nothing else."""
    register = atexit.register
    atexit.register = lambda function, *words, **named: (  # type: ignore[assignment]
        function if is_leak_check(function) else register(function, *words, **named)
    )
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    atexit.register = register


def import_torch() -> None:
    """Import what uses PyTorch, and do what its first use in a process does."""
    import_libraries(WITH_TORCH)
    # PyTorch would unregister its operators one by one at the end of each child, which costs more than a short program.
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    with contextlib.suppress(ImportError):
        export_once()
    with contextlib.suppress(ImportError, AttributeError):
        read_onnx_operators()


def is_leak_check(function: Any) -> bool:
    """Whether a function for the end of a process is nanobind's, which walks over all objects to look for leaks."""
    return getattr(getattr(function, "__code__", None), "co_filename", "") == "<internal>"


def read_onnx_operators() -> None:
    """Let a child's first export have the translations of PyTorch's operators, the same for every model, from here."""
    registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    read = registry.from_torchlib
    kept: dict[Any, Any] = {OPSET: read(opset_version=OPSET)}
    registry.from_torchlib = staticmethod(
        lambda **options: kept.pop(options.get("opset_version"), None) or read(**options)
    )


def export_once() -> None:
    """Fill the tables of operators that PyTorch's exporter makes for its first model, whatever it is."""
    import logging

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.onnx.export(torch.nn.Identity(), (torch.zeros(1, 1),), dynamo=True, verbose=False)


# --- the child ------------------------------------------------------------------------------------------------------


def become(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run the command of a request in this process, as Python does with a command line, and exit."""
    os.setpgid(0, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filters[:] = DEFAULT_FILTERS  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    sys.modules["numpy"].random.seed()  # a fresh process draws from the system
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    leave(execute(request["arguments"], main))


def execute(arguments: list[str], main: types.ModuleType) -> int:
    """``-m module ...`` or ``script ...``; returns the exit status, negative for a signal."""
    try:
        if arguments[0] == "-m":
            sys.argv[:] = ["-m", *arguments[2:]]
            sys.path.insert(0, os.getcwd())
            runpy._run_module_as_main(arguments[1])  # type: ignore[attr-defined]
        else:
            sys.argv[:] = arguments
            script = os.path.abspath(arguments[0])
            sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
            with open(script, "rb") as stream:
                code = compile(stream.read(), script, "exec")
            main.__dict__.update(__file__=script, __cached__=None)
            exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """What the interpreter does at its end, except to take its modules and PyTorch's operators apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# --- the server -----------------------------------------------------------------------------------------------------


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and its files."""
    content, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    if len(content) < 8:
        raise EOFError
    length, content = int.from_bytes(content, "little"), b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise EOFError
        content += part
    return marshal.loads(content), list(files)


def serve(listener: socket.socket, parent: int) -> None:
    """Fork a child for each request, and tell its status to whoever asked for it, until the test session is over."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    children: dict[int, tuple[int, socket.socket]] = {}  # by the file of each: its process id, who asked
    connections: dict[int, tuple[int, socket.socket]] = {}  # by the file of each: the process id and file of its child
    while os.getppid() == parent:  # a test session that was killed stops nothing
        for file, _ in poll.poll(5000):
            if file == listener.fileno():
                connection, _ = listener.accept()
                try:
                    request, files = receive(connection)
                except (EOFError, OSError):
                    connection.close()
                    continue
                pid = os.fork()
                if not pid:
                    for inherited in (listener, connection, *(asked for _, asked in children.values())):
                        inherited.close()
                    for inherited_file in children:
                        os.close(inherited_file)
                    become(request, files)
                for received in files:
                    os.close(received)
                child = os.pidfd_open(pid)
                children[child] = pid, connection
                connections[connection.fileno()] = child, connection
                poll.register(child, select.POLLIN)
                poll.register(connection, select.POLLIN)
                with contextlib.suppress(OSError):
                    connection.sendall(f"{pid}\n".encode())
            elif file in children:
                pid, connection = children.pop(file)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                poll.unregister(file)
                os.close(file)
                if connections.pop(connection.fileno(), None):
                    poll.unregister(connection)
                    with contextlib.suppress(OSError):
                        connection.sendall(f"{status}\n".encode())
                connection.close()
            elif file in connections:
                child, connection = connections[file]
                pid, _ = children[child]
                try:
                    signals = connection.recv(64)
                except OSError:
                    signals = b""
                with contextlib.suppress(ProcessLookupError):
                    for signum in signals:
                        os.kill(pid, signum)
                    if not signals:
                        os.killpg(pid, signal.SIGKILL)
                if not signals:
                    poll.unregister(file)
                    del connections[file]


def main() -> None:
    """Import, listen, serve: without PyTorch in a child, with it here."""
    path, parent = sys.argv[1], os.getppid()
    del sys.path[0]  # this folder
    import_libraries(LIBRARIES)
    own = os.getpid()
    if os.fork():
        import_torch()
    else:
        path, parent = path + WITHOUT_TORCH, own
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)
        serve(listener, parent)


if __name__ == "__main__":
    main()
