"""Each operation of the networks gives the bits that other processors gave."""

import json

from classifier import portability
from tests.project import REPOSITORY, Project

import pytest
import torch

KNOWN = REPOSITORY / "tests/data/operations.json"


@pytest.mark.skipif("avx2" not in portability.cpu_flags(), reason="the promise is for processors with AVX2")
def test_operations_have_the_digests_of_other_processors(fresh: Project) -> None:
    known = json.loads(KNOWN.read_text())
    if torch.__version__.partition("+")[0] != known["torch"]:
        pytest.skip(f"the digests are those of torch {known['torch']}")
    found = json.loads(fresh.run("python", "-m", "tests.support.operations").stdout)
    expected = known["everywhere"] | known["digests"]
    differing = [name for name, digest in expected.items() if found["digests"][name] != digest]
    assert not differing, f"on {found['processor']}, in portable mode"
    assert found["digests"].keys() == expected.keys()


def test_operations_differ_without_the_pins(fresh: Project) -> None:
    """So the digests can tell: in the default mode of this processor, or of an older one that it plays."""
    known = json.loads(KNOWN.read_text())["digests"]
    fresh.edit("tests/support/operations.py", "pin_instruction_set(True)", "pin_instruction_set(False)")
    for name in portability.TORCH:
        fresh.environment.pop(name)
    fresh.environment["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    found = json.loads(fresh.run("python", "-m", "tests.support.operations").stdout)["digests"]
    assert [name for name in known if found[name] != known[name]]
