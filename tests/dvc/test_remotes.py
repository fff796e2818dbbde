"""A second machine gets results through a remote."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.project import Project, wait_for

import pytest


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[str]:
    """A real WebDAV server on loopback."""
    (tmp_path / "remote").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "wsgidav"), "--host=127.0.0.1", f"--port={port}", "--auth=anonymous"]
    with (tmp_path / "webdav.log").open("wb") as log:
        server = subprocess.Popen([*command, f"--root={tmp_path / 'remote'}"], stdout=log, stderr=log)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield f"webdav://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.experiments
@pytest.mark.parametrize("way", ["pull", "allow missing"])
def test_second_machine_gets_results_without_computing(
    finished: Project, webdav: str, tmp_path: Path, way: str
) -> None:
    finished.dvc("remote", "add", "--default", "shared", webdav)
    finished.commit("a remote")
    finished.dvc("push")
    finished.run("git", "clone", "--quiet", str(finished.root), str(tmp_path / "elsewhere"))
    other = Project(tmp_path / "elsewhere", finished.raw)
    if way == "pull":
        other.dvc("pull")
        assert other.repro() == []
        for path in ("models/classifier.onnx", "data/images.zip", "metrics/predictions.csv"):
            assert other.read(path) == finished.read(path)
        assert other.run("git", "status", "--porcelain").stdout == ""
    else:
        assert other.repro("--pull", "--allow-missing") == []
        other.set(export__opset=19)
        assert other.repro("--pull", "--allow-missing") == ["export"]  # fetches the model and the images that it needs


@pytest.mark.experiments
def test_artifact_is_fetched_by_name(finished: Project, webdav: str, tmp_path: Path) -> None:
    finished.dvc("remote", "add", "--default", "shared", webdav)
    finished.commit("a remote")
    finished.dvc("push")
    finished.run("git", "tag", "-a", "-m", "first", "classifier-onnx@v1.0.0")  # how a version is registered
    out = tmp_path / "fetched.onnx"
    finished.dvc("artifacts", "get", str(finished.root), "classifier-onnx", "--out", str(out))
    assert out.read_bytes() == finished.read("models/classifier.onnx")
