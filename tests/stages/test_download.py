"""download against a real HTTP server on 127.0.0.1 that behaves well and badly."""

import contextlib
import gzip
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

from classifier.prepare import sources
from classifier.prepare.registry import RAW_FILES
from tests.project import Project, one_line, wait_for

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


def use(project: Project, *places: str) -> None:
    project.environment["FASHION_MNIST_SOURCES"] = " ".join(places)


def right(project: Project) -> bool:
    return all(project.read(f"data/raw/{name}") == (project.raw / name).read_bytes() for name in RAW_FILES)


@pytest.mark.parametrize("way", ["good", "plain", "once-500"])
def test_download_fetches_over_http(fresh: Project, server: Server, way: str) -> None:
    use(fresh, server.url(way))
    done = fresh.stage("download")
    assert right(fresh)
    assert server.url(way) in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal


def test_sources_are_those_of_the_environment_then_of_the_params(
    fresh: Project, server: Server, tmp_path: Path
) -> None:
    """A folder, a URL of one, one with a space in its name."""
    folder = tmp_path / "my own folder"
    folder.symlink_to(fresh.raw)
    fresh.set_all({"download.sources.fashion-mnist": [server.url("good")]})
    for source in (str(fresh.raw), fresh.raw.as_uri(), str(folder), f"'{folder}' http://127.0.0.1:9/never-asked"):
        use(fresh, source)
        fresh.stage("download")
        assert right(fresh)
    assert server.requests == []
    fresh.environment.pop("FASHION_MNIST_SOURCES")
    done = fresh.stage("download")
    assert right(fresh)
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
    use(fresh, server.url(way))
    failed = fresh.stage("download", status=1)
    line = next(line for line in failed.stderr.splitlines() if server.url(way) in line)
    assert RAW_FILES[0] in line
    assert reason in line
    assert "FASHION_MNIST_SOURCES=/that/folder" in failed.stderr  # what the person can do
    assert not (fresh.root / "data/raw").exists()

    use(fresh, server.url(way), server.url("good"))
    assert f"nothing usable from {server.url(way)}" in fresh.stage("download").stdout
    assert right(fresh)


def test_open_quote_unknown_protocol_and_missing_folder_are_named(fresh: Project) -> None:
    use(fresh, "'/open")
    says = "FASHION_MNIST_SOURCES='/open: No closing quotation"
    assert one_line(fresh.stage("download", status=1)) == f"download: error: {says}\n"
    use(fresh, "gopher://there", "/no/such/folder")
    errors = fresh.stage("download", status=1).stderr
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
    use(fresh, "debian:dataset-fashion-mnist")
    fresh.stage("download")
    assert right(fresh)
    update, download = log.read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download dataset-fashion-mnist")
    assert "Dir::State::Lists=" in update  # lists of its own: those of the system belong to root


def test_download_stopped_leaves_nothing_and_runs_again(fresh: Project, server: Server) -> None:
    use(fresh, server.url("silent"))
    process = fresh.start("python", "-m", "stages.download")
    wait_for(lambda: bool(server.requests))
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors == "download: warning: stopped by SIGTERM; nothing was published; the same command starts it again\n"
    assert not (fresh.root / "data/raw").exists()
    use(fresh, server.url("good"))
    fresh.stage("download")
    assert right(fresh)


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
        use(fresh, url)
        failed = fresh.stage("download", status=1)
    reason = "timed out" if listens else "Connection refused"
    assert f"{url}: the host cannot be reached ({reason})" in failed.stderr


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
    variable = f"{scheme}_proxy".upper()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.server_port if listens else closed.getsockname()[1]}"
        fresh.environment[variable] = f"http://me:secret@{address}/"
        use(fresh, f"{scheme}://mirror.example/forbidden")
        errors = fresh.stage("download", status=1).stderr
    assert f": {says.format(f'the proxy {address}')}\n" in errors
    assert "secret" not in errors
