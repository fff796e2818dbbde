"""Fixtures: clones of this repository on the small data set, before and after a ``dvc repro``."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from classifier import portability
from tests.project import STAGES, Project, make_project, make_raw
from tests.support.browser import Browser, chromium
from tests.support.tiny import Tiny, make_tiny

import psutil
import pytest
import torch
from filelock import FileLock

# Longest first, so that all workers end together; the others follow in the order of their files.
LONGEST = (
    *("e2e/test_search", "unit/test_kernels", "test_repro_killed_at_random", "test_slurm", "test_emulated"),
    *("dvc/test_experiments", "dvc/test_documentation", "e2e/test_distributed", "test_own_data", "test_screens"),
    *("test_stays_at_home", "test_each_changed_key", "test_every_model_learns", "test_demo_page", "unit/test_onnx"),
    *("stages/test_growth", "e2e/test_kills", "dvc/test_release", "test_examples", "e2e/test_disks", "dvc/test_setups"),
    "stages/test_train",
)

# Tests that share a costly fixture, or libraries that take seconds to import, go to one worker.
ONE_WORKER = (
    "unit/test_(loop|models|onnx|optim)",
    "unit/test_kernels",
    "e2e/test_emulated",
    "test_screens",
    "test_own_data",
    "test_(demo|report)_page",
    "e2e/test_search",
    "test_slurm",
    "test_distributed.*(_curve_|_torchrun_|_two_nodes_)",
)


# All stages of a test session share its process, and PyTorch reads these once.
portability.pin_instruction_set(portable=True)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup: the programs of the tests are not
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of xdist: the order below is the one to keep


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As xdist's loadgroup, which pytest 9.2 has broken: it changed the node ids that xdist appends the group to."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in ONE_WORKER if re.search(group, nodeid)), nodeid)

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "window" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")  # before -m selects

    def rank(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))

    items.sort(key=rank)


def shared_by_workers(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder, to look at and to copy. The first worker that needs it makes it, and the others wait."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_by_workers(tmp_path_factory, "raw", make_raw)


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Project:
    """A clone before any stage has run."""
    root = shared_by_workers(tmp_path_factory, "fresh", lambda root: make_project(root, raw).prepare_for_copies())
    return Project(root, raw)


@pytest.fixture(scope="session")
def finished_template(fresh_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same after one ``dvc repro``, committed."""

    def make(root: Path) -> None:
        project = fresh_template.copy(root)
        assert project.repro() == STAGES
        project.commit("results")
        project.prepare_for_copies()

    return Project(shared_by_workers(tmp_path_factory, "finished", make), fresh_template.raw)


@pytest.fixture
def fresh(fresh_template: Project, tmp_path: Path) -> Project:
    return fresh_template.copy(tmp_path / "project")


@pytest.fixture
def finished(finished_template: Project, tmp_path: Path) -> Project:
    return finished_template.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    project = make_tiny(tmp_path_factory.mktemp("tiny") / "project")
    project.prepare_for_copies()
    return project


@pytest.fixture
def tiny(tiny_template: Tiny, tmp_path: Path) -> Tiny:
    return tiny_template.copy(tmp_path / "tiny")


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The one Chromium of a worker."""
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Browser:
    window.reset()
    return window


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As ``compute.prepare`` sets it for a portable backend, whose own threads share the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_stray_processes() -> Iterator[None]:
    """A test that leaves a process behind would disturb the next one."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before and not of_session(c)]
    _, alive = psutil.wait_procs(left, timeout=5)
    for child in alive:
        child.kill()
    assert not alive, f"left running: {alive}"


def of_session(process: psutil.Process) -> bool:
    """The window of a worker starts and ends processes as it likes."""
    try:
        return process.name().startswith("chrom")
    except psutil.Error:
        return True
