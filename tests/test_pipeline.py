"""The pipeline as people use it: ``dvc repro`` in a clone, a second time, after a change, and one stage by hand."""

import ast
import json
from pathlib import Path

import pytest

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from tests.project import REPOSITORY, STAGES, Project


def test_repro_runs_all_stages_and_writes_every_out(finished: Project) -> None:
    for path in [
        *(f"data/raw/{name}" for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
        *("data/images.zip", "data/annotations.csv", "models/classifier.safetensors", "models/classifier.onnx"),
        *(f"metrics/{name}.json" for name in STAGES[1:-1]),
        *("metrics/predictions.csv", "metrics/train/curves.csv", "metrics/annotate/samples.png"),
        *("metrics/report.html", "metrics/report/mistakes.png"),
    ]:
        assert (finished.root / path).stat().st_size > 0, path
    assert not (finished.root / "scratch").exists() or not list((finished.root / "scratch").glob("train-*"))
    assert json.loads(finished.read("metrics/evaluate.json"))["accuracy"] > 0.9  # ten classes: chance is 0.1


def test_a_second_repro_runs_nothing(finished: Project) -> None:
    assert finished.repro() == []
    assert "up to date" in finished.dvc("status").stdout


def test_git_is_clean_after_repro(finished: Project) -> None:
    assert finished.run("git", "status", "--porcelain").stdout == ""


def test_one_changed_param_reruns_what_it_must(finished: Project) -> None:
    finished.set(evaluate__batch_size=7)
    assert finished.repro() == ["evaluate", "report"]
    finished.set(train__seed=1)
    assert finished.repro() == ["train", "evaluate", "export", "report"]


def test_going_back_is_free(finished: Project) -> None:
    before = finished.read("models/classifier.safetensors")
    finished.set(train__seed=1)
    finished.repro()
    assert finished.read("models/classifier.safetensors") != before
    finished.run("git", "checkout", "params.yaml")
    assert finished.repro() == []
    assert finished.read("models/classifier.safetensors") == before
    assert finished.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_by_hand_writes_the_same_bytes(finished: Project, name: str) -> None:
    script = str(finished.root / "stages" / f"{name}.py")
    done = finished.run("python", script, cwd=finished.root.parent)  # as a script, from elsewhere
    assert "leaked" not in done.stderr  # by Triton: see the end of run_stage
    assert finished.dvc("status").stdout.strip() == "Data and pipelines are up to date."


def test_two_clones_agree_to_the_byte(finished: Project, fresh_template: Project, tmp_path: Path) -> None:
    other = fresh_template.copy(tmp_path / "another folder" / "deeper" / "clone")
    other.repro("--force", "--no-run-cache")
    for path in ["dvc.lock", "metrics/evaluate.json", "metrics/export.json", "models/classifier.onnx"]:
        assert other.read(path) == finished.read(path), path


# --- the declared truth ---------------------------------------------------------------------------------------------

EXEMPT = {
    "classifier/config.py": "holds no defaults; it only refuses",
    "classifier/progress.py": "draws a bar on the terminal",
}


def imports(path: Path) -> set[str]:
    """The modules of this repository that a file imports, anywhere in it and through others, as paths."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                node.body = []  # for the type checker only; ast.walk comes to the body after this
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                module = Path(name.replace(".", "/") + ".py")
                if name.startswith("stages.") and (REPOSITORY / module).exists() and str(module) not in found:
                    found.add(str(module))
                    waiting.append(REPOSITORY / module)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml_lists_every_imported_module(name: str) -> None:
    params = yaml_file.load((REPOSITORY / "params.yaml").read_text())
    declared = read_declaration(name, params, REPOSITORY / "dvc.yaml").deps
    script = f"stages/{name}.py"
    needed = imports(REPOSITORY / script) - EXEMPT.keys() | {script}
    listed = files.digests(REPOSITORY / dep for dep in declared if dep.startswith("stages/"))
    code = {Path(path).relative_to(REPOSITORY).as_posix() for path in listed if path.endswith(".py")}
    assert sorted(code) == sorted(needed)  # nothing missing, and no room that a stage uses in part


def test_an_undeclared_input_output_or_param_is_refused(finished: Project) -> None:
    for path, declared in [
        ("stages/evaluate.py", '"data/images.zip"'),
        ("stages/evaluate.py", '"metrics/predictions.csv"'),
        ("stages/export.py", '"export"'),
    ]:
        finished.edit(path, declared, declared.replace('"', '"un', 1))
        failed = finished.stage(Path(path).stem, status=1)
        assert "dvc.yaml does not list" in failed.stderr
        finished.run("git", "checkout", path)
        finished.dvc("checkout")
        finished.run("git", "checkout", "metrics")  # what the refused stage had removed
