"""README and docs: their commands, typed as they stand there, and the code that they show."""

import re
import shlex
from pathlib import Path

from classifier import yaml_file
from tests.project import REPOSITORY, STAGES, Project, ran

import pytest

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def commands(mark: str) -> list[str]:
    """The commands of the one block with that mark."""
    text = "\n".join(page.read_text() for page in PAGES)
    (block,) = re.findall(rf"<!-- {mark} -->\n```console\n(.*?)```", text, re.DOTALL)
    return re.findall(r"^\$ (.*)", block, re.MULTILINE)


def type_in(project: Project, line: str) -> str:
    """Run a command that stands there, in this process if it is one of ours, and return what it prints."""
    match shlex.split(line):
        case ["dvc", *words]:
            return project.dvc(*words).stdout
        case ["python", "-m", module, *words] if module.startswith("tools."):
            return project.tool(module.removeprefix("tools."), *words).stdout
    return project.run("sh", "-c", line).stdout


@pytest.mark.experiments
def test_merge_conflict_is_solved_as_documented(finished: Project) -> None:
    for branch, change in (("theirs", {"train.ema_decay": 0.5}), ("mine", {"train.seed": 4})):
        finished.run("git", "checkout", "--quiet", "-b", branch, "main")
        finished.dvc("checkout")
        finished.set_all(change)
        finished.repro()
        finished.commit(branch)
    finished.run("git", "merge", "theirs", status=1)
    assert "UU dvc.lock" in finished.run("git", "status", "--porcelain").stdout
    for line in commands("merge"):
        type_in(finished, line)
    assert finished.run("git", "status", "--porcelain").stdout == ""
    assert finished.repro() == []
    params = yaml_file.load(finished.read("params.yaml").decode())
    assert (params["train"]["ema_decay"], params["train"]["seed"]) == (0.5, 4)


@pytest.mark.experiments
def test_gpu_recipe_runs_with_one_epoch(finished: Project) -> None:
    (command,) = commands("cookbook: gpu")
    type_in(finished, f"{command} -S train.epochs=1 -S optimizers.sgd.lr=0.01")
    params = yaml_file.load(finished.read("params.yaml").decode())
    assert params["train"]["model"] == "resnet18"
    assert params["train"]["augment"]["cutout_pixels"] == 10
    assert finished.json("metrics/export/details.json")["disagreeing_predictions"] == 0


@pytest.mark.experiments
def test_cookbook_works_as_documented(finished: Project) -> None:
    def follow(part: str) -> dict[str, str]:
        return {line: type_in(finished, line) for line in commands(f"cookbook: {part}")}

    changed = follow("change")
    assert "train.model" in changed["dvc params diff"]
    assert ran(changed["dvc repro"]) == STAGES[2:]
    assert "metrics/evaluate.json" in changed["dvc metrics diff"]
    back = follow("back")
    assert ran(back["dvc repro"]) == []
    assert finished.run("git", "status", "--porcelain").stdout == ""
    experiments = follow("experiments")
    assert "exact McNemar p = " in experiments["python -m tools.compare models lenet-0 lenet-1"]
    assert "(n = 2 seeds)" in experiments["python -m tools.compare seeds"]
    assert finished.run("git", "status", "--porcelain").stdout == ""


def test_documentation_links_the_examples() -> None:
    linked: set[Path] = set()
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        linked |= {(page.parent / target).resolve() for target in targets}
    assert linked >= {REPOSITORY / "examples" / name for name in ("classify.py", "classify.mjs", "classify.cpp")}
