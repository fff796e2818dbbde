"""README and docs show the code that is tested."""

import re

from tests.project import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def test_documentation_shows_and_links_the_examples() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    linked = {
        (page.parent / target).resolve()
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target
    }
    for name in ("classify.py", "classify.mjs", "classify.cpp"):
        assert EXAMPLES / name in linked, name
    code = (EXAMPLES / "classify.py").read_text().split('"""\n\n', 1)[1]
    assert code in (REPOSITORY / "docs/onnx-model.md").read_text()
