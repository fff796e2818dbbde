"""compute.portable: the number of threads changes nothing, and what cannot be is refused or said."""

from classifier import portability
from classifier.config.variants import NOT_PORTABLE
from classifier.kernels import library
from classifier.portability import cpu_flags
from classifier.runner import files
from tests.project import Project
from tests.support.browser import cannot_run

import pytest

OUTS = ("models/classifier.safetensors", "metrics/train/curves.csv", "metrics/predictions.csv")


@pytest.fixture
def portable(finished: Project) -> Project:
    finished.set_all({"runtime.threads": "auto", "train.model": "cnn", "train.epochs": 2})
    finished.set_all({"models.cnn.stem": 4, "models.cnn.widths": [8, 8], "train.optimizer": "muon"})
    return finished


def results(project: Project) -> dict[str, str]:
    return files.digests(project.root / path for path in OUTS)


def test_portable_any_number_of_threads_writes_the_same_bytes(portable: Project) -> None:
    found = []
    for threads in (1, 3, "auto"):
        portable.set(runtime__threads=threads)
        assert portable.stage("train").stderr + portable.stage("evaluate").stderr == ""
        found.append(results(portable))
    assert found == [found[0]] * 3


def test_portable_with_any_instructions_writes_the_same_bytes(portable: Project) -> None:
    """Which ones is recorded, and is no other environment. Without compiled kernels, a line says what that means."""
    if not all(map(library.find, library.instruction_sets())):
        cannot_run("the kernels are not compiled: `make setup`")
    found = []
    for kernels in ("avx2", *(["avx512"] if "avx512f" in cpu_flags() else []), "none"):
        portable.environment[library.VARIABLE] = kernels
        library.load.cache_clear()  # a process takes one
        done = portable.stage("train")
        warning = "train: warning: no compiled kernels, so results may differ between machines; `make setup`"
        assert (warning in done.stderr) == (done.stderr != "") == (kernels == "none")
        assert ("not the environment" in done.stdout) == (kernels == "none")
        environment = portable.json("models/environment.json")
        assert environment["kernels"] == kernels
        assert environment["same_everywhere"] == (kernels != "none")
        portable.stage("evaluate")
        found.append(results(portable))
    library.load.cache_clear()
    assert len(found) > 1
    assert all(result == found[0] for result in found[:-1])


def test_portable_sets_what_it_needs_itself_overrules_the_environment_and_says_so(portable: Project) -> None:
    """In an interpreter of its own; the process of the tests has the variables. ``test_runner.py`` has all stages."""
    portable.stage("train")
    portable.stage("evaluate")
    expected = results(portable)
    for name in {**portability.NUMPY, **portability.TORCH}:
        portable.environment.pop(name)
    portable.environment |= {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "SSE4_2", "OMP_THREAD_LIMIT": "1"}
    done = portable.run("python", "-m", "stages.train")
    assert done.stderr.splitlines() == [
        "train: warning: OMP_THREAD_LIMIT in the environment is ignored",
        "train: warning: ONEDNN_MAX_CPU_ISA=SSE41 in the environment is overruled by AVX2",
        "train: warning: MKL_CBWR=SSE4_2 in the environment is overruled by COMPATIBLE",
    ]
    assert portable.run("python", "-m", "stages.evaluate").stderr == "", "once a `dvc repro` is enough"
    assert results(portable) == expected
    environment = portable.json("models/environment.json")
    assert environment["same_everywhere"] is True
    assert environment["cpu_capability"] == "AVX2"


def test_matplotlibrc_changes_no_byte_of_the_report(finished: Project) -> None:
    finished.write("matplotlibrc", "font.size: 30\naxes.facecolor: red\nsvg.fonttype: none\n")
    finished.run("python", "-m", "stages.report")  # it is read at the import
    assert "up to date" in finished.dvc("status").stdout


@pytest.mark.parametrize(("key", "value"), [(key, *values) for key, values in NOT_PORTABLE.items()])
def test_portable_refuses_what_differs_between_processors(portable: Project, key: str, value: str) -> None:
    portable.set_all({f"train.{key}": value})
    done = portable.stage("train", status=2)
    assert f"train.{key}: {value} differs between processors; it needs compute.portable: false" in done.stderr


def test_portable_run_on_arm_names_what_pytorch_computes(portable: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portability, "IS_ARM", True)
    assert portable.stage("train").stderr == ""
    portable.set_all({"train.optimizer": "adagrad", "train.augment.rotate_degrees": 5})
    says = "train.optimizer: adagrad, train.augment.rotate_degrees: PyTorch computes it, so on ARM the bytes may differ"
    assert says in portable.stage("train").stderr
    assert portable.json("models/environment.json")["same_everywhere"] is False


def test_portable_run_of_8_bits_says_what_is_not(portable: Project) -> None:
    assert portable.stage("export").stderr == ""
    portable.set(export__int8=True)
    assert "export: warning: onnxruntime calibrates with its own kernels" in portable.stage("export").stderr
