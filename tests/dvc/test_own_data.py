"""A person's own images through the whole pipeline: one line in params.yaml, and everything else follows."""

import functools
import hashlib
import http.server
import itertools
import json
import shutil
import threading
from pathlib import Path

from classifier import yaml_file
from classifier.data import annotations
from classifier.model.serialization import load
from classifier.prepare import file_tree, splits
from classifier.runner import files
from tests.project import STAGES, Project, one_line
from tests.support import labeled, own
from tests.support.tiny import Tiny

import pandas as pd
import pytest
from sklearn.datasets import load_digits

TANGO = Path("/usr/share/icons/Tango/32x32")


@pytest.fixture(scope="module")
def colors_template(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After ``dvc add`` and one changed line, for a set with three classes, and a whole ``dvc repro``."""
    project = finished_template.copy(tmp_path_factory.mktemp("own") / "project")
    own.write(project.root / "data/own/colors")
    project.dvc("add", "data/own/colors")
    project.edit("params.yaml", "dataset: fashion-mnist", "dataset: colors")
    project.set_all({"train.batch_size": 6, "train.epochs": 12, "optimizers.sgd.lr": 0.005})
    project.set_all({"annotate.fit": "pad", "annotate.background": "white"})
    assert project.repro() == STAGES
    project.commit("my own images")
    return project


@pytest.fixture
def colors(colors_template: Project, tmp_path: Path) -> Project:
    return colors_template.copy(tmp_path / "colors")


def test_labeled_images_become_a_model_and_predict_sees_the_pixels_of_the_training(colors_template: Project) -> None:
    """The probabilities of each test image's own file are those that evaluate computed from what annotate decoded."""
    colors = colors_template
    _, model_config = load(colors.root / "models/classifier.safetensors")
    assert model_config.class_names == ["blue", "green", "red"]
    assert model_config.shape == (3, 40, 40)
    assert colors.json("data/dataset_info.json")["name"] == "colors"
    assert colors.clean()
    assert "ashion" not in colors.read("metrics/report.html").decode()

    rows = colors.table("metrics/predictions.csv", index_col="image")
    folder = colors.root / "data/own/colors"
    names = {str(path): f"{path.relative_to(folder).as_posix()}.png" for path in sorted(folder.rglob("*.*"))}
    tested = {path: name for path, name in names.items() if name in rows.index}
    assert len(tested) == len(rows) > 10
    for answer in json.loads(colors.tool("predict", "--json", *tested).stdout):
        row = rows.loc[tested[answer["image"]]]
        expected = {name: row[f"probability of {name}"] for name in answer["probabilities"]}
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5), answer["image"]


def is_test_image(content: bytes) -> bool:
    """Whether the content draws the test split, with the seed and the fraction of the tests."""
    rows = pd.DataFrame({"class_name": "a", "group": "", "content": [f"{number}" for number in range(9)]})
    rows.loc[0, "content"] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return bool(splits.draw(rows, "test", 0.2, seed=0)[0])


def test_changed_test_image_trains_nothing_and_going_back_runs_nothing(colors: Project) -> None:
    name = colors.table("metrics/predictions.csv")["image"][0].removesuffix(".png")
    others = (own.zoo(own.COLORS[name.split("/")[0]], number)["plain.png"] for number in range(77, 999))
    colors.write(f"data/own/colors/{name}", next(filter(is_test_image, others)))
    assert colors.repro() == ["annotate", "evaluate", "export", "report"]
    colors.run("git", "checkout", "--quiet", "HEAD~1", "--", "params.yaml")
    assert colors.repro() == []
    assert b"ashion" in colors.read("data/dataset_info.json")
    assert (colors.root / "data/own/colors/red").is_dir()
    # No stage has an out at or above data/own/: a person's files are never written.
    for stage in yaml_file.load(colors.read("dvc.yaml").decode())["stages"].values():
        for out in (*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])):
            path = next(iter(out)) if isinstance(out, dict) else out
            assert not path.startswith("data/own")
            assert path not in ("data", ".")


@pytest.mark.experiments
def test_experiment_switches_the_images_and_a_clone_pulls_them(colors: Project, tmp_path: Path) -> None:
    colors.dvc("remote", "add", "--default", "shelf", str(tmp_path / "remote"))
    colors.commit("a remote")
    colors.dvc("push")
    other = Project(tmp_path / "other", colors.raw)
    colors.run("git", "clone", "--quiet", str(colors.root), str(other.root))
    other.dvc("pull")
    assert other.repro() == []
    assert len([*(other.root / "data/own/colors").rglob("*.*")]) == 90
    other.run("git", "config", "user.name", "Test")
    other.run("git", "config", "user.email", "test@example.org")
    done = other.dvc("exp", "run", "--name", "small", "-S", "annotate.size=[16,16]", "-S", "train.epochs=1")
    assert "train: mlp" in done.stdout


@pytest.mark.experiments
def test_images_are_imported_from_a_url(colors: Project, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "web/colors"), "zip", colors.root / "data/own/colors")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        colors.dvc("import-url", f"http://127.0.0.1:{server.server_port}/colors.zip", "data/own/web.zip")
        server.shutdown()
        thread.join()
    before = annotations.read(colors.root / "data/annotations.csv")
    colors.set_all({"dataset": "web.zip"})
    assert colors.repro("annotate") == ["download", "annotate"]
    assert sorted(annotations.read(colors.root / "data/annotations.csv")["image"]) == sorted(before["image"])
    assert "web.zip.dvc" in colors.run("git", "status", "--porcelain", "--", "data/own").stdout


def test_dvc_annotate_and_the_runner_see_the_same_files(tiny: Tiny) -> None:
    """Whatever a class is called: a file that trains a model is in DVC's list, and no list has a file more."""
    folder = tiny.root / "data/own/odd"
    kept = ("scratch", "logs", "build", "x.egg-info", "node_modules")
    folders = [*kept, ".hidden", ".venv", "__pycache__", "__MACOSX", "old~"]
    names = ["1.png", ".1.png.swp", "1.png~", ".dvcignore", "Thumbs.db", "thumbs.db", "Desktop.ini"]
    paths = itertools.product(folders, [".", "deep"], names)
    labeled.write(tiny.root, {"/".join(["data/own/odd", *parts]): b"*.png" for parts in paths})
    (folder / "linked").symlink_to(folder / "build")
    tiny.dvc("add", "data/own/odd")
    md5 = yaml_file.load(tiny.read("data/own/odd.dvc").decode())["outs"][0]["md5"]
    listed = {entry["relpath"] for entry in tiny.json(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")}
    assert listed == {f"{name}/{file}" for name in kept for file in ("1.png", "deep/1.png")}
    tree = file_tree.open_tree(folder)
    assert set(tree.names) == listed
    assert {path.relative_to(folder).as_posix() for path in files.iter_files(folder)} == listed
    (problem,) = tree.problems
    assert problem.endswith("odd, 'linked': a link to a folder, which DVC does not follow; copy the folder")
    assert {".hidden/", "old~/", "build/Thumbs.db", "build/deep/1.png~"} < set(tree.ignored)


@pytest.mark.parametrize(
    ("good", "says"),
    [
        (["cat/1.png", "dog/1.png"], "no test image: of 2 images in 2 classes none could be drawn"),
        (["train/cat/1.png", "test/dog/1.png"], "no training image of the class dog"),
        (["1.png"], "has no labeled image"),
    ],
)
def test_bad_files_are_listed_before_the_reason_to_stop(tiny: Tiny, good: list[str], says: str) -> None:
    images = dict.fromkeys(good, labeled.png(0, 0))
    images |= {str(Path(good[0]).with_name(bad)): b"no image" for bad in ("2.png", "4.xyz")}
    labeled.write(tiny.root, {f"data/own/pets/{name}": content for name, content in images.items()})
    lines = tiny.run("sh", "-c", "python -m tools.check_images data/own/pets 2>&1", status=1).stdout.splitlines()
    assert lines[0].startswith("problem: data/own/pets")
    assert sum("problem: " in line for line in lines) >= 2
    assert says in lines[-1]


def test_file_that_cannot_be_used_stops_before_training(colors: Project) -> None:
    for name in ("broken.png", "notes.docx"):
        colors.write(f"data/own/colors/red/{name}", "no image")
    error = one_line(colors.stage("annotate", status=1))
    assert "'red/notes.docx': not the name of an image file" in error
    assert "1 more: python -m tools.check_images data/own/colors" in error
    assert colors.tool("check_images", "data/own/colors", status=1).stdout.count("problem: ") == 2
    colors.set(annotate__bad_files="skip")
    assert "left out: 2 files or rows, the first is " in colors.stage("annotate").stderr
    assert colors.json("metrics/annotate.json")["findings"]["left_out"] == 2
    colors.set(dataset="elsewhere")
    error = one_line(colors.stage("annotate", status=1))
    assert error.startswith("annotate: error: data/own/elsewhere is missing; put your images there")


PHOTOS = [own.encode(own.picture((1, 2, 3), number), "JPEG") for number in range(3)]
DAMAGED_DOGS = {f"cat/{number}.jpg": photo for number, photo in enumerate(PHOTOS)}
DAMAGED_DOGS |= {f"dog/{number}.jpg": photo[:-60] for number, photo in enumerate(PHOTOS)}  # their heads are all right
ONE_OF_EACH_CLASS = {f"class {number}/1.png": labeled.png(number, 0) for number in range(240)}


@pytest.mark.parametrize(
    ("images", "bad_files", "says"),
    [
        (DAMAGED_DOGS, "skip", "no training image of the class dog"),
        (ONE_OF_EACH_CLASS, "stop", "no test image: of 240"),
    ],
    ids=["damaged class", "one image a class"],
)
def test_set_of_too_few_images_is_refused(fresh: Project, images: dict[str, bytes], bad_files: str, says: str) -> None:
    labeled.write(fresh.root / "data/own/pets", images)
    fresh.set_all({"dataset": "pets", "annotate.bad_files": bad_files})
    (fresh.root / "data/raw").mkdir(exist_ok=True)
    error = one_line(fresh.stage("annotate", status=1))
    assert says in error
    assert len(error) < 400


def test_table_of_digits_becomes_a_model(fresh: Project) -> None:
    """Real digits, 8x8, as scikit-learn has them (BSD), in the form of Kaggle's tables."""
    digits = load_digits()
    frame = pd.DataFrame((digits.data * 255 / 16).round().astype(int)).rename(columns=lambda number: f"pixel{number}")
    frame.insert(0, "label", digits.target)
    frame.to_csv(fresh.root / "data/own/digits.csv", index=False)
    fresh.set_all({"dataset": "digits.csv", "train.batch_size": 32})
    assert fresh.repro() == STAGES
    figures = fresh.json("metrics/evaluate/details.json")
    assert figures["accuracy"] > 0.9
    assert figures["num_images"] == 367
    _, model_config = load(fresh.root / "models/classifier.safetensors")
    assert model_config.shape == (1, 16, 16)  # the least that is chosen from the data


@pytest.mark.skipif(not TANGO.is_dir(), reason="Debian's package tango-icon-theme is not installed")
@pytest.mark.experiments
def test_folder_of_icons_becomes_a_model(fresh: Project) -> None:
    """Real icons with transparency, in ten folders of 2 to 270, many of them links to others (public domain)."""
    shutil.copytree(TANGO, fresh.root / "data/own/icons")
    fresh.set_all({"dataset": "icons", "train.batch_size": 16, "optimizers.sgd.lr": 0.01})
    fresh.set_all({"train.model": "lenet", "train.epochs": 24})
    assert fresh.repro() == STAGES
    assert len(fresh.table("data/annotations.csv")) > 800
    figures = fresh.json("metrics/evaluate/details.json")
    assert figures["balanced_accuracy"] > 0.2  # the most frequent class for all has 0.1
    counts = fresh.json("metrics/annotate.json")["findings"]["identical"]
    assert counts["across_splits"] < counts["images"] / 10  # copies of a file stay in one split
