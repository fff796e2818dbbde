"""params.yaml is refused in one line, before any work; ``-S KEY=VALUE --out FOLDER`` leaves it as it is."""

from pathlib import Path

from classifier.config import params_file
from classifier.errors import ParamsError
from tests.project import PARAMS, STAGES, Project, one_line

import pytest

BAD = {
    "unknown": ("  epochs:", "  epoch: 3\n  epochs:", "train.epoch: unknown key; did you mean epochs?"),
    "missing": ("  opset: 18", "", "export.opset: missing"),
    "text for a number": ("epochs: 6", "epochs: six", "train.epochs: must be a valid integer; it is 'six'"),
    "float for an integer": ("epochs: 6", "epochs: 6.0", "train.epochs: must be a valid integer"),
    "yes is text": ("shuffle: true", "shuffle: yes", "train.shuffle: must be a valid boolean; it is 'yes'"),
    "010 is ten": ("opset: 18", "opset: 010", "export.opset: must be greater than or equal to 18; it is 10"),
    "not a number": ("lr: 0.05", "lr: .nan", "optimizers.sgd.lr: must be a finite number; it is nan"),
    "infinity": ("lr: 0.05", "lr: .inf", "optimizers.sgd.lr: must be a finite number; it is inf"),
    "out of range": ("batch_size: 40", "batch_size: 0", "train.batch_size: must be greater than or equal to 1"),
    "no such model": ("model: mlp", "model: mpl", "train.model: must be one of mlp, lenet, cnn"),
    "no such choice": ("schedule: linear", "schedule: x", "train.schedule: must be one of constant, step, cosine"),
    "no such model in models": ("  vgg16:", "  vgg16x:", "models.vgg16x: no model of this project or of"),
    "source": ("    kmnist:", "    kmnistt:", "download.sources.kmnistt: unknown key; did you mean kmnist?"),
    "twice": ("  epochs: 6", "  epochs: 6\n  epochs: 7", 'line LINE: not valid YAML: found duplicate key "epochs"'),
    "a section is missing": ("runtime:", "run_time:", "run_time: unknown key; did you mean runtime?"),
    "balance without shuffling": (
        "shuffle: true\n  class_balance: as_is",
        "shuffle: false\n  class_balance: equal",
        "train.class_balance: equal draws the images, so it needs train.shuffle: true",
    ),
    "no mapping": ("download:", "- download:", "not valid YAML"),
    "a word or a list": ("  size: auto", "  size: [0, 28]", "annotate.size.0: must be greater than or equal to 1"),
    "a wrong word": ("  size: auto", "  size: small", "annotate.size: must be 'auto'; it is 'small'"),
    "a path": ("dataset: fashion-mnist", "dataset: a/", "dataset: must be a name, without folders and blanks"),
    "no address": ("scheduler: none", "scheduler: me", "runtime.scheduler: must be none, an address such as"),
    "falling": ("- 0.15\n    - 0.9", "- 0.9\n    - 0.1", "between: must be two rising shares of the epochs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_params_are_one_line(tmp_path: Path, case: str) -> None:
    old, new, says = BAD[case]
    path, text = tmp_path / "params.yaml", PARAMS.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError) as caught:
        params_file.read(path)
    line = text.splitlines().index("  epochs: 6") + 2
    assert str(caught.value).startswith(str(path))
    assert says.replace("LINE", str(line)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_validates_the_whole_file(finished: Project, name: str) -> None:
    finished.edit("params.yaml", "tolerance: 0.0001", "tolerance: -1")
    says = "params.yaml: export.tolerance: must be greater than 0; it is -1"
    assert one_line(finished.stage(name, status=2)) == f"{name}: error: {says}\n"
    assert finished.read("models/classifier.onnx")  # refused before any work: what was there is there


def test_exponent_is_a_number_debug_shows_the_traceback_and_a_missing_file_is_one_line(fresh: Project) -> None:
    fresh.edit("params.yaml", "tolerance: 0.0001", "tolerance: 1e-4")  # YAML 1.1 has a text there
    fresh.stage("download")
    fresh.set(train__epochs=0)
    assert "Traceback" not in fresh.stage("download", status=2).stderr
    assert "Traceback" in fresh.stage("download", "--debug", status=2).stderr
    (fresh.root / "params.yaml").unlink()
    assert "params.yaml is missing; `git checkout params.yaml`" in fresh.stage("train", status=2).stderr


MODEL = "models/classifier.safetensors"
OTHER = ("-S", "train.epochs=2", "--set-param", "params.yaml:optimizers.sgd.lr=0.001", "--out", "scratch/mine")


def test_outputs_are_those_of_the_params_and_the_workspace_is_untouched(finished: Project) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished.root.rglob("*") if path.is_file()}

    before, mine = content(), finished.root / "scratch/mine"
    finished.stage("train", *OTHER)
    finished.stage("evaluate", *OTHER)  # of the model that is there
    after = content()
    assert after.items() >= before.items()
    assert {path.name for path in {*after} - {*before} if mine not in path.parents} <= {"train.lock", "train.pid"}
    assert finished.dvc("status").stdout == "Data and pipelines are up to date.\n"

    finished.set_all({"train.epochs": 2, "optimizers.sgd.lr": 0.001})
    finished.stage("train")
    finished.stage("evaluate")
    for path in (MODEL, "metrics/train/curves.csv", "metrics/predictions.csv"):
        assert (mine / path).read_bytes() == finished.read(path) != before[finished.root / path], path
    assert (mine / "models/environment.json").read_bytes() == finished.read("models/environment.json")
    finished.set_all({"train.epochs": 5})  # which -S overrides
    finished.stage("train", *OTHER)
    assert (mine / MODEL).read_bytes() == finished.read(MODEL)


def test_a_run_goes_on_wherever_it_is_started(finished: Project) -> None:
    finished.stage("train", *OTHER, "-S", "runtime.stop_after_epoch=1", status=75)
    finished.set_all({"train.epochs": 2, "optimizers.sgd.lr": 0.001})
    assert "resuming at step" in finished.stage("train").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-S train.epoch=1 --out scratch/mine", "-S train.epoch: no such key in params.yaml"),
        ("-S train.epochs=0 --out scratch/mine", "-S train.epochs: must be greater than or equal to 1"),
        ("-S train.epochs=1,2 --out scratch/mine", "-S train.epochs: must be"),
        ("-S train.epochs --out scratch/mine", "-S train.epochs: must be KEY=VALUE, such as"),
        ("-S train.epochs=[ --out scratch/mine", "-S train.epochs=[: must be KEY=VALUE, such as"),
        ("-S train.epochs=1", "need a folder of their own, such as --out scratch/mine"),
        ("--out .", "need a folder of their own, such as --out scratch/mine"),
    ],
)
def test_a_wrong_word_is_one_line(finished_template: Project, words: str, says: str) -> None:
    refused = finished_template.stage("train", *words.split(), status=2)
    assert says in one_line(refused)
    assert refused.stdout == ""
