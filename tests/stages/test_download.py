"""download against a real HTTP server on 127.0.0.1 that behaves well and badly."""

import contextlib
import gzip
import http.server
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

from classifier.prepare import sources
from classifier.prepare.registry import RAW_FILES
from tests.project import Project, wait_for

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves the raw files as .gz below paths that name the way they are served."""

    daemon_threads = True

    def __init__(self, raw: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.raw = raw
        self.requests: list[str] = []
        self.stopping = threading.Event()

    def url(self, way: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{way}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        *_, way, name = self.path.split("/")  # the whole URL where this is a proxy
        self.server.requests.append(f"{way} {name}")
        content = (self.server.raw / name.removesuffix(".gz")).read_bytes()
        packed = gzip.compress(content)
        asked = self.server.requests.count(f"{way} {name}")
        status = {"once-500": 500 if asked == 1 else 200, "always-500": 500, "forbidden": 403, "missing": 404}
        status["plain"] = 404 if name.endswith(".gz") else 200
        bodies = {
            "plain": content,
            "wrong": gzip.compress(b"something else"),
            "html": b"<!DOCTYPE html><title>Please log in</title>",
            "truncated-gzip": packed[: len(packed) // 2],
            "cut-off": packed[: len(packed) // 2],
        }
        if way == "silent":
            self.server.stopping.wait(30)
            return
        body = bodies.get(way, packed) if status.get(way, 200) == 200 else b""
        self.send_response(status.get(way, 200))
        self.send_header("Content-Length", str(len(packed if way == "cut-off" else body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.send_error(407)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(sources, "time", Mock())  # no pause between two tries
    with Server(raw) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


def download(project: Project, *places: str) -> "subprocess.CompletedProcess[str]":
    """The right files come from one of these places, or from those of the params."""
    project.environment.pop("FASHION_MNIST_SOURCES")
    if places:
        project.environment["FASHION_MNIST_SOURCES"] = " ".join(places)
    done = project.stage("download")
    for name in RAW_FILES:
        assert project.read(f"data/raw/{name}") == (project.raw / name).read_bytes()
    return done


def refusal(project: Project, *places: str) -> str:
    """What is said if none of these places has the files."""
    project.environment["FASHION_MNIST_SOURCES"] = " ".join(places)
    errors = project.stage("download", status=1).stderr
    assert not (project.root / "data/raw").exists()
    return errors


@pytest.mark.parametrize("way", ["good", "plain", "once-500"])
def test_download_fetches_over_http(fresh: Project, server: Server, way: str) -> None:
    done = download(fresh, server.url(way))
    assert server.url(way) in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal


def test_sources_of_the_environment_come_first(fresh: Project, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "my own folder"
    folder.symlink_to(fresh.raw)
    fresh.set_all({"download.sources.fashion-mnist": [server.url("good")]})
    for source in (str(fresh.raw), fresh.raw.as_uri(), str(folder), f"'{folder}' http://127.0.0.1:9/never-asked"):
        download(fresh, source)
    assert server.requests == []
    done = download(fresh)
    assert "nothing usable" not in done.stdout + done.stderr
    assert len(server.requests) >= len(RAW_FILES)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("wrong", "wrong content: 14 bytes with MD5"),
        ("html", "an HTML or XML page came instead"),
        ("truncated-gzip", "truncated or damaged gzip"),
        ("cut-off", "truncated or damaged gzip"),
        ("always-500", "HTTP status 500"),
        ("missing", "not found there, with or without .gz"),
        ("silent", "no answer in 2 s"),
    ],
)
def test_bad_source_is_named_and_next_one_tried(fresh: Project, server: Server, way: str, reason: str) -> None:
    errors = refusal(fresh, server.url(way))
    line = next(line for line in errors.splitlines() if server.url(way) in line)
    assert RAW_FILES[0] in line
    assert reason in line
    assert "FASHION_MNIST_SOURCES=/that/folder" in errors  # what the person can do
    done = download(fresh, server.url(way), server.url("good"))
    assert f"nothing usable from {server.url(way)}" in done.stdout


def test_open_quote_unknown_protocol_and_missing_folder_are_named(fresh: Project) -> None:
    says = "FASHION_MNIST_SOURCES='/open: No closing quotation"
    assert refusal(fresh, "'/open") == f"download: error: {says}\n"
    errors = refusal(fresh, "gopher://there", "/no/such/folder")
    assert f"gopher://there: {RAW_FILES[0]}.gz: unknown url type: gopher" in errors
    assert f"/no/such/folder: {RAW_FILES[0]}: not found there" in errors


def test_debian_package_is_fetched_without_root(fresh: Project, tmp_path: Path) -> None:
    """With an apt-get of our own on PATH: tests reach no network."""
    folder = tmp_path / "package/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for name in RAW_FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((fresh.raw / name).read_bytes()))
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    # "download" leaves a .deb in the current folder; dpkg-deb -x ARCHIVE FOLDER unpacks it.
    (tools / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *download*) touch it.deb;; esac\n')
    (tools / "dpkg-deb").write_text(f'#!/bin/sh\ncp -r {tmp_path}/package/. "$3"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    fresh.environment["PATH"] = f"{tools}:{fresh.environment['PATH']}"
    download(fresh, "debian:dataset-fashion-mnist")
    update, fetch = log.read_text().splitlines()
    assert update.endswith(" update")
    assert fetch.endswith(" download dataset-fashion-mnist")
    assert "Dir::State::Lists=" in update  # lists of its own: those of the system belong to root


def test_download_stopped_leaves_nothing_and_runs_again(fresh: Project, server: Server) -> None:
    fresh.environment["FASHION_MNIST_SOURCES"] = server.url("silent")
    process = fresh.start("python", "-m", "stages.download")
    wait_for(lambda: bool(server.requests))
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors == "download: warning: stopped by SIGTERM; nothing was published; the same command starts it again\n"
    assert not (fresh.root / "data/raw").exists()
    download(fresh, server.url("good"))


@pytest.mark.parametrize("listens", [False, True])
def test_host_that_cannot_be_connected_is_left_at_once(fresh: Project, listens: bool) -> None:
    """A closed port, and one that drops connections as a firewall does: its queue is full."""
    with socket.socket() as host, contextlib.ExitStack() as stack:
        host.bind(("127.0.0.1", 0))
        if listens:
            host.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(host.getsockname())
        url = f"http://127.0.0.1:{host.getsockname()[1]}"
        errors = refusal(fresh, url)
    reason = "timed out" if listens else "Connection refused"
    assert f"{url}: the host cannot be reached ({reason})" in errors


@pytest.mark.parametrize(
    ("scheme", "listens", "says"),
    [
        ("http", False, "{} cannot be reached (Connection refused)"),
        ("https", False, "{} cannot be reached (Connection refused)"),
        ("http", True, "HTTP status 403 Forbidden through {}"),
        ("https", True, "Tunnel connection failed: 407 Proxy Authentication Required through {}"),
    ],
)
def test_proxy_that_refuses_is_named_without_its_password(
    fresh: Project, server: Server, scheme: str, listens: bool, says: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.server_port if listens else closed.getsockname()[1]}"
        fresh.environment[f"{scheme}_proxy".upper()] = f"http://me:secret@{address}/"
        errors = refusal(fresh, f"{scheme}://mirror.example/forbidden")
    assert f": {says.format(f'the proxy {address}')}\n" in errors
    assert "secret" not in errors
