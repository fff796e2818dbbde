"""dvc.yaml against the code: everything that a stage imports and reads is declared, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

from classifier import yaml_file
from classifier.runner.context import UNTRACKED
from classifier.runner.declaration import read_declaration
from classifier.yaml_file import flatten
from tests.project import PARAMS, REPOSITORY, STAGES
from tests.support import imports
from tools import environment

import pytest

DECLARED = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())

# No change of these can change a byte of an output.
EXEMPT = {
    "classifier/__init__.py": "sets variables; what decides bytes of them is in portability.py",
    "classifier/config": "holds no defaults; it only validates",
    "classifier/engines.py": "results come in order, wherever they are computed",
    "classifier/errors.py": "messages",
    "classifier/progress.py": "bars on the terminal",
    "classifier/runner": "arguments, signals, locks, logging, publishing; JSON has its form in portability.py",
    "classifier/tensorboard.py": "writes files that are not tracked",
    "classifier/threads.py": "results come in order, whatever the threads",
    "classifier/yaml_file.py": "reads params.yaml as DVC does; another value is another param",
    "stages/__init__.py": "refuses a Python without the libraries",
}

# No version of these can change a byte of an output.
EXEMPT_PACKAGES = {
    "distributed": "runs tasks elsewhere",
    "filelock": "locks",
    "psutil": "parent processes",
    "pydantic": "refuses wrong params",
    "ruamel.yaml": "reads params.yaml as DVC does",
    "tqdm": "bars on the terminal",
    "fsspec": "content of downloads is verified",
    "aiohttp": "content of downloads is verified",
}
WITHIN_OTHERS = {"export": {"onnxscript"}}  # PyTorch's exporter uses it


def test_every_declared_param_is_read() -> None:
    """To read an undeclared one is impossible (``StageContext.params`` refuses); here the other way round."""
    for name in STAGES:
        text = (REPOSITORY / f"stages/{name}.py").read_text()
        owner = "params" if "params = context.params\n" in text else "context.params"
        found = re.findall(rf"\b{owner}\.(\w+(?:\[config\.\w+\])?)", text)
        read = {re.sub(r"\[config\.(\w+)\]", r".${train.\1}", key) for key in found}
        listed = {item for item in DECLARED["stages"][name]["params"] if isinstance(item, str)}
        assert read - {*UNTRACKED, "yaml"} == listed, name


def test_mypy_finds_a_misspelled_key_in_a_stage(tmp_path: Path) -> None:
    stage = tmp_path / "misspelled.py"
    stage.write_text(
        "from classifier.runner.context import StageContext\n\n\n"
        "def main(context: StageContext) -> None:\n"
        "    print(context.params.train.epoch, context.params.train.epochs)\n"
    )
    words = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(stage)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.count("error:") == 1, done.stdout
    assert '"Train" has no attribute "epoch"' in done.stdout


def test_every_entry_of_dvc_yaml_has_a_description() -> None:
    for name, stage in DECLARED["stages"].items():
        assert stage["desc"], name
        for group in ("outs", "metrics", "plots"):
            for out in stage.get(group, []):
                assert all(options.get("desc") for options in out.values()), out
    assert all(artifact["desc"] for artifact in DECLARED["artifacts"].values())
    assert all(options["title"] for plot in DECLARED["plots"] for options in plot.values())


def unit(path: str) -> str:
    """The package or module by which dvc.yaml lists a file."""
    package, *rest = path.removeprefix("classifier/").split("/")
    return f"classifier/{package}" if rest and path.startswith("classifier/") else path


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml_lists_exactly_what_is_imported_and_decides_bytes(name: str) -> None:
    params = yaml_file.load((REPOSITORY / "params.yaml").read_text())
    declared = read_declaration(name, params, REPOSITORY / "dvc.yaml")
    script = f"stages/{name}.py"
    needed = {unit(path) for path in imports.all_of(script)} - EXEMPT.keys() | {script}
    assert sorted(dep for dep in declared.deps if dep.startswith(("classifier/", "stages/"))) == sorted(needed)
    packages = imports.packages_of(script) - EXEMPT_PACKAGES.keys() | WITHIN_OTHERS.get(name, set())
    assert declared.packages == tuple(sorted(packages))


def test_environment_toml_has_the_pins_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert Path("environment.toml").read_text() == environment.text()


def test_params_of_the_tests_have_the_keys_of_params_yaml() -> None:
    """A person's values must not turn the tests red; a new key must be in both files."""

    def fixed(path: Path) -> set[str]:
        content = yaml_file.load(path.read_text())
        content["models"] = {name: content["models"][name] for name in ("mlp", "lenet", "cnn")}
        return set(flatten(content))

    assert fixed(PARAMS) == fixed(REPOSITORY / "params.yaml")
