"""Clones as people have them: linked caches, worktrees, submodules, no branch, a cleaned cache, two users."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.project import Project, ran
from tests.support.tiny import FIRST, OUTS, Tiny

import pytest


def outs(project: Tiny) -> list[bytes]:
    return [project.read(out) for out in OUTS]


def change_and_go_back(project: Tiny) -> None:
    """A changed run, the same by hand, and back to the committed one: each ends clean, and the cache stays whole."""
    committed = outs(project)
    project.set(evaluate__batch_size=7)
    assert project.repro() == ["tiny"]
    changed = outs(project)
    project.stage("tiny")
    assert outs(project) == changed
    project.run("git", "checkout", "--quiet", "params.yaml")
    assert project.repro() == []
    assert outs(project) == committed
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
    inner.tool("repair")


def test_detached_head_and_untracked_files_and_a_sub_folder(tiny: Tiny) -> None:
    tiny.run("git", "checkout", "--quiet", "--detach")
    change_and_go_back(tiny)
    (tiny.root / "stages/notes.txt").write_text("mine")
    # From a sub-folder DVC wants to be told where its file is, and reads -S relative to that folder.
    words = ("../dvc.yaml:tiny", "-S", "../params.yaml:evaluate.batch_size=8")
    tiny.dvc("exp", "run", "--temp", "--name", "from-below", *words, cwd=tiny.root / "stages")
    assert "from-below" in tiny.dvc("exp", "list").stdout
    assert tiny.run("git", "status", "--porcelain").stdout == "?? stages/notes.txt\n"
    assert tiny.read("stages/notes.txt") == b"mine"


def test_cleaned_cache_runs_again_what_it_forgot(tiny: Tiny) -> None:
    tiny.set(evaluate__batch_size=7)
    assert tiny.repro() == ["tiny"]
    forgotten = outs(tiny)
    tiny.run("git", "checkout", "--quiet", ".")
    assert tiny.repro() == []
    tiny.dvc("gc", "--workspace", "--force")
    assert tiny.repro() == []
    tiny.set(evaluate__batch_size=7)
    tiny.repro()
    assert outs(tiny) == forgotten


@pytest.mark.parametrize("no_scm", [False, True])
def test_folder_without_git_is_told_in_one_line(tiny: Tiny, no_scm: bool) -> None:
    shutil.rmtree(tiny.root / ".git")
    if no_scm:
        tiny.dvc("config", "core.no_scm", "true")
    assert tiny.tool("repair", status=0 if no_scm else 1).stderr.count("\n") == (not no_scm)
    wanted = "compare: error: this needs a git repository with a commit: `git init`, `git add`, `git commit`\n"
    assert tiny.tool("compare", "seeds", status=1).stderr == wanted
    tiny.stage("tiny")


def test_odd_environment_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """No home, or one where nothing can be written; temporary files on another file system, no locale; links."""
    shutil.rmtree(tiny.root / "scratch", ignore_errors=True)
    for name in ("scratch", "logs"):
        (tmp_path / name).mkdir()
        (tiny.root / name).symlink_to(tmp_path / name)
    tiny.environment |= {"HOME": "/proc/none", "TMPDIR": "/dev/shm", "LC_ALL": "C"}
    change_and_go_back(tiny)
    del tiny.environment["HOME"]
    assert tiny.repro("--force") == ["tiny"]


@pytest.mark.distributed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount here")
def test_training_in_two_processes_needs_no_shared_memory(finished: Project) -> None:
    """As in a container, whose /dev/shm has 64 MB and may be full."""
    finished.set_all({"compute.portable": False, "train.world_size": 2, "runtime.threads": 1, "train.epochs": 1})
    finished.run("unshare", "--mount", "sh", "-ec", "mount -t tmpfs -o size=4k tmpfs /dev/shm; python -m stages.train")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become two other users")
def test_two_users_with_other_umasks_share_a_cache(tiny: Tiny) -> None:
    """As DVC documents it, with cache.shared and a common group; neither of them is root."""
    with tempfile.TemporaryDirectory(prefix="shared-") as name:  # pytest's own folders are closed to others
        folder, cache = Path(name), Path(name, "cache")
        folder.chmod(0o755)
        shutil.copytree(tiny.root / ".dvc/cache", cache)
        tiny.dvc("config", "--local", "cache.dir", str(cache))
        tiny.dvc("config", "--local", "cache.shared", "group")
        a, b = (tiny.copy(folder / name) for name in ("a", "b"))
        users = "".join(f"user{number}:x:{number}:4242::/:/bin/sh\n" for number in (4001, 4002))
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + users)
        names = f"mount --bind {folder}/passwd /etc/passwd; "
        for owner, path in (("4001:4242", a.root), ("4002:4242", b.root), ("0:4242", cache)):
            tiny.run("chown", "-R", owner, str(path))
        tiny.run("chmod", "-R", "u+rwX,g+rwXs,o-rwx", str(cache))

        def repro(project: Tiny) -> list[str]:
            user, umask = ("4001", "077") if project is a else ("4002", "022")
            become = f"setpriv --reuid {user} --regid 4242 --clear-groups sh -c 'umask {umask}; dvc repro'"
            project.environment["HOME"] = str(project.root)
            done = project.run("unshare", "--mount", "sh", "-ec", f"{everybody_may_enter()}{names}{become}")
            return ran(done.stdout)

        for size, first, second in ((7, a, b), (8, b, a)):
            for project in (a, b):
                project.set(evaluate__batch_size=size)
            assert repro(first) == ["tiny"]
            assert repro(second) == []  # what the other one made is in the run cache
        assert outs(a) == outs(b)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a clone to another user")
def test_clone_of_another_user_is_one_line_in_all_tools(finished: Project, tmp_path: Path) -> None:
    """As in a container that runs as root on a person's folder."""
    finished.set_all({"search.rungs": [1], "search.reduction_factor": 2})
    finished.set_all({"search.space": {"train.batch_size": [20, 40]}})
    finished.run("chown", "-R", "1234:1234", str(finished.root))
    finished.environment["HOME"] = str(tmp_path)
    trust = f"git config --global --add safe.directory {finished.root}"
    says = f"{finished.root} is another user's; `{trust}` trusts it\n"
    comparisons = ("compare models HEAD", "compare seeds", "compare recipes -S train.epochs=1")
    for command in ("search", *comparisons, "release build v1.0.0"):
        tool, *words = command.split()
        assert finished.tool(tool, *words, status=1).stderr == f"{tool}: error: {says}"
    assert finished.tool("repair").stderr == f"repair: warning: {says}"  # DVC runs stages there all the same
    finished.run("sh", "-c", trust)
    assert finished.tool("repair").stderr == ""


def everybody_may_enter() -> str:
    """Commands for a mount namespace in which every user reaches the interpreter and its libraries."""
    needed = [Path(sys.base_prefix), Path(sys.prefix).resolve()]
    closed = {place: path for path in needed for place in path.parents if not place.stat().st_mode & 0o001}
    hidden = [path for path in needed if any(place in path.parents for place in closed)]
    return "; ".join(
        [
            "mount -t tmpfs tmpfs /mnt",
            *(f"mkdir /mnt/{number}; mount --bind {path} /mnt/{number}" for number, path in enumerate(hidden)),
            *(f"mount -t tmpfs -o mode=755 tmpfs {place}" for place in closed),
            *(f"mkdir -p {path}; mount --move /mnt/{number} {path}" for number, path in enumerate(hidden)),
            "",
        ]
    )
