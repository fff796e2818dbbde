"""Docstrings name the thing: none begins with "What" or "Of", and none only points to another."""

import ast

from tests.support import imports

import pytest


@pytest.mark.parametrize("path", imports.modules("classifier", "stages", "tools"))
def test_no_docstring_begins_with_a_filler(path: str) -> None:
    nodes = ast.walk(ast.parse((imports.ROOT / path).read_text()))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
    assert not [doc for doc in docs if doc.startswith(("What ", "Of ", "See "))]
