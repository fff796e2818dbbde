"""Fixtures: clones of this repository on the small data set, before and after a ``dvc repro``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import STAGES, Project, make_project, make_raw


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Project:
    """A clone before any stage has run."""
    return make_project(tmp_path_factory.mktemp("fresh") / "project", raw)


@pytest.fixture(scope="session")
def finished_template(fresh_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same after one ``dvc repro``, committed."""
    project = fresh_template.copy(tmp_path_factory.mktemp("finished") / "project")
    assert project.repro() == STAGES
    project.commit("results")
    return project


@pytest.fixture
def fresh(fresh_template: Project, tmp_path: Path) -> Project:
    return fresh_template.copy(tmp_path / "project")


@pytest.fixture
def finished(finished_template: Project, tmp_path: Path) -> Project:
    return finished_template.copy(tmp_path / "project")


@pytest.fixture(autouse=True)
def _no_stray_processes() -> Iterator[None]:
    """A test that leaves a process behind would disturb the next one."""
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    for child in alive:
        child.kill()
    assert not alive, f"left running: {alive}"
