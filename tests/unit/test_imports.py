"""Imports go one way, the ground imports nothing, and docstrings name the thing."""

import ast

from tests.support import imports

import pytest

GROUND = {
    *imports.modules("classifier/config"),
    *("classifier/errors.py", "classifier/portability.py", "classifier/yaml_file.py"),
}
PACKAGE = "classifier/__init__.py"


@pytest.mark.parametrize("path", imports.modules("classifier", "stages", "tools"))
def test_module_imports_never_lead_back_to_it(path: str) -> None:
    """At the top of a module or in a function: both would bind two modules together."""
    assert path not in imports.all_of(path)


def test_classifier_imports_neither_stages_nor_tools_nor_tests() -> None:
    outside = {
        (path, imported)
        for path in imports.modules("classifier")
        for imported in imports.all_of(path)
        if not imported.startswith("classifier/")
    }
    assert not outside


def test_stages_import_no_tools_and_no_other_stage() -> None:
    scripts = set(imports.modules("stages")) - {"stages/__init__.py", "stages/__main__.py"}  # which runs them
    for path in scripts:
        assert not {name for name in imports.all_of(path) if name.startswith("tools/") or name in scripts - {path}}


@pytest.mark.parametrize("path", sorted(GROUND))
def test_ground_imports_only_ground(path: str) -> None:
    assert imports.all_of(path) <= GROUND | {PACKAGE}


@pytest.mark.parametrize("path", imports.modules("classifier/runner"))
def test_runner_imports_only_ground_and_itself(path: str) -> None:
    beyond = {name for name in imports.all_of(path) if not name.startswith("classifier/runner/")}
    assert beyond <= GROUND | {PACKAGE}


def test_import_reader_sees_functions_packages_and_not_type_checking() -> None:
    direct = imports.direct("stages/train.py")
    assert "classifier/train/loop.py" in direct  # inside a function
    assert "classifier/train/__init__.py" in direct  # the package on the way


@pytest.mark.parametrize("path", imports.modules("classifier", "stages", "tools"))
def test_no_docstring_begins_with_a_filler(path: str) -> None:
    nodes = ast.walk(ast.parse((imports.ROOT / path).read_text()))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
    assert not [doc for doc in docs if doc.startswith(("What ", "Of ", "See "))]
