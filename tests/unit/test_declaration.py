"""dvc.yaml against the code: everything that a stage imports and reads is declared, and nothing else."""

import ast
from pathlib import Path

import pytest

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.declaration import flatten, read_declaration
from tests.project import PARAMS, REPOSITORY, STAGES
from tests.support import imports

EXEMPT = {
    "classifier/__init__.py": "a docstring",
    "stages/__init__.py": "a docstring",
    "classifier/config.py": "holds no defaults; it only validates",
    "classifier/errors.py": "messages only",
    "classifier/progress.py": "draws a bar on the terminal",
}


def test_every_declared_param_is_read(tmp_path: Path) -> None:
    """Reading an undeclared one is impossible (``Run.param`` refuses); here the other way round."""
    stages = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name in STAGES:
        read = set()
        for node in ast.walk(ast.parse((REPOSITORY / f"stages/{name}.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "param":
                read.add(ast.unparse(node.args[0]).strip("f'").replace("config.", "train.").replace("{", "${"))
        assert read == set(stages[name]["params"]), name


def test_every_entry_of_dvc_yaml_has_a_description() -> None:
    content = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())
    for name, stage in content["stages"].items():
        assert stage["desc"], name
        for group in ("outs", "metrics", "plots"):
            for out in stage.get(group, []):
                assert all(options.get("desc") for options in out.values()), out
    assert all(artifact["desc"] for artifact in content["artifacts"].values())
    assert all(options["title"] for plot in content["plots"] for options in plot.values())


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml_lists_exactly_the_imported_modules(name: str) -> None:
    params = yaml_file.load((REPOSITORY / "params.yaml").read_text())
    declared = read_declaration(name, params, REPOSITORY / "dvc.yaml").deps
    script = f"stages/{name}.py"
    needed = imports.all_of(script) - EXEMPT.keys() | {script}
    listed = files.digests(REPOSITORY / dep for dep in declared if dep.startswith(("classifier/", "stages/")))
    code = {Path(path).relative_to(REPOSITORY).as_posix() for path in listed if path.endswith(".py")}
    assert sorted(code) == sorted(needed)  # nothing missing, and no folder that a stage uses in part


def test_params_of_the_tests_have_the_keys_of_params_yaml() -> None:
    """A person's values must not turn the tests red; a new key must be in both files."""

    def fixed(path: Path) -> set[str]:
        content = yaml_file.load(path.read_text())
        content["models"] = {name: content["models"][name] for name in ("mlp", "lenet", "cnn")}
        return set(flatten({**content, "search": {**content["search"], "space": {}}}))

    assert fixed(PARAMS) == fixed(REPOSITORY / "params.yaml")
