"""Clones as people have them: linked caches, worktrees, submodules, no branch, sub-folders, a cleaned cache."""

from pathlib import Path

import pytest

from tests.project import ran
from tests.support.tiny import FIRST, OUTS, Tiny


def change_and_go_back(project: Tiny) -> None:
    """A changed run, the same by hand, and back to the committed one: each ends clean, and the cache stays whole."""
    committed = {out: project.read(out) for out in OUTS}
    project.set(evaluate__batch_size=7)
    assert project.repro() == ["tiny"]
    changed = {out: project.read(out) for out in OUTS}
    project.stage("tiny")
    assert {out: project.read(out) for out in OUTS} == changed
    project.run("git", "checkout", "--quiet", "params.yaml")
    assert project.repro() == []
    assert {out: project.read(out) for out in OUTS} == committed
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_cache_of_links_is_never_written_through(tiny: Tiny, kind: str) -> None:
    tiny.dvc("config", "--local", "cache.type", kind)
    tiny.dvc("checkout", "--relink")
    path = tiny.root / FIRST
    assert path.is_symlink() if kind == "symlink" else path.stat().st_nlink > 1
    change_and_go_back(tiny)


def test_worktree_is_a_clone_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("git", "worktree", "add", "--quiet", str(tmp_path / "other"), "-b", "other")
    other = Tiny(tmp_path / "other", tiny.raw)
    other.dvc("config", "--local", "cache.dir", str(tiny.root / ".dvc/cache"))
    other.dvc("checkout")
    change_and_go_back(other)
    other.dvc("exp", "run", "--name", "there", "-S", "evaluate.batch_size=8")
    assert "there" in tiny.dvc("exp", "list", "--all-commits").stdout


def test_submodule_runs_like_a_clone(tiny: Tiny, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    tiny.run("git", "init", "--quiet", str(outer))
    allow = ("-c", "protocol.file.allow=always")
    tiny.run("git", "-C", str(outer), *allow, "submodule", "--quiet", "add", str(tiny.root), "inner")
    inner = Tiny(outer / "inner", tiny.raw)
    inner.dvc("config", "--local", "cache.dir", str(tiny.root / ".dvc/cache"))
    inner.dvc("checkout")
    change_and_go_back(inner)
    inner.run("python", "-m", "tools.repair")


def test_detached_head_and_untracked_files_and_a_sub_folder(tiny: Tiny) -> None:
    tiny.run("git", "checkout", "--quiet", "--detach")
    change_and_go_back(tiny)
    (tiny.root / "stages/notes.txt").write_text("mine")
    # From a sub-folder DVC wants to be told where its file is, and reads -S relative to that folder.
    words = ("../dvc.yaml:tiny", "-S", "../params.yaml:evaluate.batch_size=8")
    tiny.dvc("exp", "run", "--temp", "--name", "from-below", *words, cwd=tiny.root / "stages")
    assert "from-below" in tiny.dvc("exp", "list").stdout
    assert tiny.run("git", "status", "--porcelain").stdout == "?? stages/notes.txt\n"
    assert (tiny.root / "stages/notes.txt").read_text() == "mine"


def test_cleaned_cache_runs_again_what_it_forgot(tiny: Tiny) -> None:
    tiny.set(evaluate__batch_size=7)
    assert tiny.repro() == ["tiny"]
    forgotten = tiny.read(FIRST), tiny.read(OUTS[2])
    tiny.run("git", "checkout", "--quiet", ".")
    assert tiny.repro() == []
    tiny.dvc("gc", "--workspace", "--force")
    assert tiny.repro() == []
    tiny.set(evaluate__batch_size=7)
    shown = tiny.dvc("repro").stdout
    assert (tiny.read(FIRST), tiny.read(OUTS[2])) == forgotten, ran(shown)
