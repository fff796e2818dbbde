"""Imports go one way, the ground imports nothing, and docstrings name the thing."""

import ast
from pathlib import Path

from tests.support import imports

import pytest

PRODUCT = imports.modules("classifier", "stages", "tools")
GROUND = {
    *imports.modules("classifier/config"),
    *("classifier/__init__.py", "classifier/errors.py", "classifier/portability.py", "classifier/yaml_file.py"),
}
RUNNER = {*imports.modules("classifier/runner")}
CLASSIFIER = {*imports.modules("classifier")}
RUNS_STAGES = {"stages/__init__.py", "stages/__main__.py"}


@pytest.mark.parametrize("path", PRODUCT)
def test_module_imports_never_lead_back_to_it(path: str) -> None:
    """At the top of a module or in a function: both would bind two modules together."""
    assert path not in imports.all_of(path)


@pytest.mark.parametrize(
    ("paths", "allowed"),
    [(CLASSIFIER, CLASSIFIER), (GROUND, GROUND), (RUNNER, RUNNER | GROUND)],
    ids=["classifier", "ground", "runner"],
)
def test_imports_stay_within(paths: set[str], allowed: set[str]) -> None:
    beyond = {(path, imported) for path in paths for imported in imports.all_of(path) - allowed}
    assert not beyond


def test_stages_import_no_tools_and_no_other_stage() -> None:
    scripts = set(imports.modules("stages")) - RUNS_STAGES
    for path in scripts:
        assert not {name for name in imports.all_of(path) if name.startswith("tools/") or name in scripts - {path}}


def test_import_reader_sees_functions_and_packages(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def late():\n    from classifier.train import loop\n")
    assert imports.direct(str(module)) == {
        f"classifier/{name}.py" for name in ("__init__", "train/__init__", "train/loop")
    }


@pytest.mark.parametrize("path", PRODUCT)
def test_no_docstring_begins_with_a_filler(path: str) -> None:
    nodes = ast.walk(ast.parse((imports.ROOT / path).read_text()))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
    assert not [doc for doc in docs if doc.startswith(("What ", "Of ", "See "))]
