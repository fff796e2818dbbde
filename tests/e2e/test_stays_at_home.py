"""Nothing sends or writes outside the project: what the libraries look up, connect to and leave behind."""

import resource
import subprocess
from pathlib import Path

from tests.project import Project
from tests.support.browser import find_program

import pytest

# Loaded before the C library: it notes every host that is looked up and every address that is connected to.
WITNESS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void note(const char *what, const char *which) {
  FILE *log = fopen(getenv("WITNESS_LOG"), "a");
  if (log) { fprintf(log, "%s %s\n", what, which); fclose(log); }
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  note("looked up", host ? host : "");
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(host, service, hints, found);
}
int connect(int file, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  if (address->sa_family == AF_INET || address->sa_family == AF_INET6) note("connected to", "an address");
  return real(file, address, size);
}
"""


@pytest.fixture
def watched(finished: Project, tmp_path: Path) -> Project:
    """A project whose programs are watched, with an empty HOME and folder for temporary files."""
    source, library = tmp_path / "witness.c", tmp_path / "witness.so"
    source.write_text(WITNESS)
    compiler = find_program(("g++",), "g++").replace("g++", "gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    finished.environment |= {
        "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), "LD_PRELOAD": str(library),
        "WITNESS_LOG": str(tmp_path / "log"),
    }  # fmt: skip
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        finished.environment.pop(name, None)
    for name in ("ORT_DISABLE_TELEMETRY", "PYTHONDONTWRITEBYTECODE"):
        finished.environment.pop(name, None)
    return finished


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.mark.browser
def test_stages_and_tools_send_and_write_nothing_outside_the_project(watched: Project, tmp_path: Path) -> None:
    stages = ("annotate", "train", "evaluate", "export", "report")
    commands = [*(["-m", f"stages.{name}"] for name in stages), ["-m", "tools.predict", "metrics/report/samples.png"]]
    commands += [["-m", "tools.compare", "models", "HEAD", "workspace"]]
    commands += [["examples/classify.py", "models/classifier.onnx", "metrics/report/samples.png"]]
    # What else may be odd about a machine, in one go: a locale without ±, warnings as errors, no asserts, few files.
    watched.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONWARNINGS": "error"}
    with_torch = ("stages.train", "stages.evaluate", "stages.export")
    # With -O the libraries have no bytecode yet: one process writes it, and the others read it.
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    ordinary = watched.environment
    for command in commands:
        optimized = command[1] not in with_torch  # PyTorch would take long to compile
        watched.environment = {**ordinary, **bytecode} if optimized else ordinary
        watched.run("python", *["-O"] * optimized, *command, preexec_fn=few_files)
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()
    assert [*(tmp_path / "home").rglob("*")] == []
    assert [*(tmp_path / "temporary").rglob("*")] == []


@pytest.mark.browser
def test_witness_sees_a_program_that_looks_a_host_up(watched: Project, tmp_path: Path) -> None:
    watched.run("python", "-c", "import socket; socket.getaddrinfo('127.0.0.1', 80)")
    assert "looked up 127.0.0.1" in (tmp_path / "log").read_text()
