"""tools.clean removes what nothing reachable needs, after a yes."""

import hashlib
from pathlib import Path

from tests.project import Project, one_line

import pytest


@pytest.fixture
def models(finished: Project) -> dict[str, Path]:
    """Models in the cache: of the branch, of a tag, of an experiment, and of params that were only tried."""
    found = {"branch": cached_model(finished)}
    finished.set(train__seed=1)
    finished.repro("train")
    finished.run("git", "commit", "-qam", "another seed")
    finished.run("git", "tag", "kept")
    found["tag"] = cached_model(finished)
    finished.run("git", "reset", "-q", "--hard", "HEAD~1")
    finished.dvc("exp", "run", "--name", "tried", "-S", "train.seed=2", "train")
    found["experiment"] = cached_model(finished)
    finished.set(train__seed=3)
    finished.repro("train")
    found["unused"] = cached_model(finished)
    finished.run("git", "checkout", "--quiet", ".")
    finished.dvc("checkout")
    assert len({*found.values()}) == 4
    return found


def cached_model(project: Project) -> Path:
    digest = hashlib.md5(project.read("models/classifier.safetensors")).hexdigest()
    return project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def there(models: dict[str, Path]) -> set[str]:
    return {name for name, path in models.items() if path.exists()}


@pytest.mark.experiments
def test_only_what_nothing_reachable_needs_goes_after_a_yes(finished: Project, models: dict[str, Path]) -> None:
    checkpoints = finished.root / "scratch/train-0123456789abcdef"
    checkpoints.mkdir()
    (checkpoints / "newest.pt").write_bytes(b"of other params")
    for answer in ("n\n", ""):
        shown = finished.run("sh", "-c", f"printf '{answer}' | python -m tools.clean").stdout
        assert shown.endswith("nothing was removed\n")
        assert there(models) == {*models}
    assert "  only for 1 experiments: " in shown
    assert "    models/: 1 files, " in shown
    finished.run("sh", "-c", "echo y | python -m tools.clean")
    assert there(models) == {"branch", "tag", "experiment"}
    assert not checkpoints.exists()
    assert finished.repro() == []
    finished.run("git", "checkout", "--quiet", "kept")
    finished.dvc("checkout", "models/classifier.safetensors")
    assert cached_model(finished) == models["tag"]


@pytest.mark.experiments
def test_shared_cache_is_refused_unless_named(finished: Project, models: dict[str, Path]) -> None:
    shared = finished.root.parent / "shared"
    (finished.root / ".dvc/cache").rename(shared)
    models = {name: shared / path.relative_to(finished.root / ".dvc/cache") for name, path in models.items()}
    finished.dvc("cache", "dir", "--local", str(shared))
    refused = one_line(finished.tool("clean", "--yes", status=1))
    assert refused.startswith(f"clean: error: the cache {shared} is outside this clone, ")
    assert there(models) == {*models}
    finished.tool("clean", "--yes", "--cache", str(shared))
    assert there(models) == {"branch", "tag", "experiment"}
