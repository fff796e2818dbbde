"""environment.toml: another version of a package runs the stages again that use it, and no other."""

from tests.project import Project

import pytest


def status(project: Project) -> set[str]:
    """The stages that `dvc status` lists."""
    lines = project.dvc("status").stdout.splitlines()
    return {line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith("\t")}


@pytest.mark.parametrize(
    ("package", "stages"),
    [("torch", {"train", "evaluate", "export"}), ("matplotlib", {"annotate", "report"}), ("onnx", {"export"})],
)
def test_stages_that_use_a_package_run_again_for_another_version(
    finished: Project, package: str, stages: set[str]
) -> None:
    (line,) = (
        each for each in finished.read("environment.toml").decode().splitlines() if each.startswith(f"{package} ")
    )
    finished.edit("environment.toml", line, f'{package} = ["1.2.3"]')
    assert status(finished) >= stages
    assert f"environment.toml  packages.{package}" in finished.dvc("params", "diff").stdout
    refused = finished.stage(min(stages), status=2)
    version = line.split('"')[1]
    assert refused.stderr == (
        f"{min(stages)}: error: {package} {version} is installed, environment.toml has 1.2.3; `make setup` installs the"
        " lock, or write the new version there\n"
    )


def test_another_version_is_a_warning_where_results_are_not_portable(finished: Project) -> None:
    finished.set(compute__portable=False)
    finished.edit("environment.toml", 'torch = ["', 'torch = ["9')
    assert "is installed, environment.toml has 9" in finished.stage("evaluate").stderr


def test_other_packages_run_nothing_again(finished: Project) -> None:
    finished.edit("environment.toml", "[packages]", '[packages]\npolars = ["1.0"]')
    finished.edit("requirements.lock", "tqdm==", "tqdm==9")
    assert status(finished) == set()
    finished.edit("environment.toml", "[packages]", "[packages")
    assert "environment.toml: not readable (" in finished.stage("train", status=2).stderr
