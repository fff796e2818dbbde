"""tools.review on real commits: what changed, what has to be fetched, and the gate."""

import re
import shutil
from pathlib import Path

from tests.project import Project, one_line

import pytest
from PIL import Image

PREDICTIONS = "metrics/predictions.csv"
WORSE = {"train.epochs": 1, "optimizers.sgd.lr": 0.001}


def change(project: Project) -> None:
    """A worse model on another branch."""
    project.run("git", "checkout", "--quiet", "-b", "change")
    project.set_all(WORSE)
    project.repro()
    project.commit("fewer epochs")


def sections(text: str) -> dict[str, str]:
    """The sections of a review, by title."""
    return dict(re.findall(r"^## (.+?)\n\n(.*?)(?=\n\n## |\Z)", text, re.DOTALL | re.MULTILINE))


def review(project: Project, *words: str) -> dict[str, str]:
    return sections(project.tool("review", *words).stdout)


def cells(table: str) -> list[list[str]]:
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in row] for row in rows[2:]]


def test_a_changed_param_and_a_relabeled_image(finished: Project) -> None:
    old, rows = finished.table(PREDICTIONS, index_col="image"), finished.table("data/annotations.csv")
    first = rows.query("split == 'train'").index[0]
    other = rows[rows["label"] != rows.loc[first, "label"]].iloc[0]
    was = rows.loc[first, "class_name"]
    rows.loc[first, ["label", "class_name"]] = [other["label"], other["class_name"]]
    finished.write("data/annotations.csv", rows.to_csv(index=False))
    finished.dvc("commit", "--force", "annotate")
    finished.edit("stages/train.py", '"""', '"""My ')
    change(finished)
    text = finished.tool("review", "main").stdout
    found = sections(text)

    assert cells(found["Params"]) == [["optimizers.sgd.lr", "0.05", "0.001"], ["train.epochs", "6", "1"]]
    assert "Packages" not in found
    assert cells(found["Data"]) == [["train", "0", "0", "1", "0", "0"]]
    assert f"`{rows.loc[first, 'image']}: {was} to {other['class_name']}`" in found["Data"]
    assert cells(found["Code"]) == [["stages/train.py", "train"]]
    new = finished.table(PREDICTIONS, index_col="image")
    right_old, right_new = old["label"] == old["predicted"], new["label"] == new["predicted"]
    difference = right_new.mean() - right_old.mean()
    assert found["Accuracy"].startswith(f"{difference:+.4f} (95 % interval -")
    row = [f"{right_old.mean():.5g}", f"{right_new.mean():.5g}", f"{difference:+.5g}"]
    assert ["evaluate.accuracy", *row] in cells(found["Metrics"])
    changed = old["predicted"] != new["predicted"]
    worst = new[right_old & ~right_new].filter(like="probability of ").max(axis=1)
    listed = found["Changed predictions"]
    kinds = f"{(right_old & ~right_new).sum()} newly wrong, {(changed & ~right_old & ~right_new).sum()} wrong in"
    assert listed.startswith(f"{changed.sum()} of 100 test images: {kinds}")
    image, label, before, now, confidence = cells(listed)[0]
    assert worst[image] == worst.max()
    assert (label, before, now) == (new.loc[image, "label"], old.loc[image, "predicted"], new.loc[image, "predicted"])
    assert confidence == f"{worst.max():.0%}"
    assert len(cells(found["Classes that moved most"])) == 5
    assert max(map(len, text.splitlines())) <= 120
    assert Image.open(finished.root / "scratch/review.png").width < 1200


def test_the_worst_comes_first_and_relabeled_test_images_are_left_out(finished: Project) -> None:
    rows = finished.table(PREDICTIONS)
    rows["predicted"] = rows["label"]
    one, two = rows["label"].unique()[:2]
    first = rows[~rows["label"].isin([one, two])].index[:6].tolist()

    def commit(labels: list[str], predicted: list[str]) -> None:
        rows.loc[first, "label"], rows.loc[first, "predicted"] = labels, predicted
        finished.write(PREDICTIONS, rows.to_csv(index=False))
        finished.dvc("commit", "--force", "evaluate")

    right = rows.loc[first, "label"].tolist()
    commit(right, [one, one, *right[2:]])
    finished.commit("two mistakes")
    commit([*right[:4], one, one], [right[0], two, one, one, one, one])
    found = review(finished)
    assert "98 pairs" in found["Accuracy"]
    listed = found["Changed predictions"]
    assert listed.startswith("4 of 98 test images: 2 newly wrong, 1 wrong in another way, 1 newly right.")
    confidence = rows.filter(like="probability of ").max(axis=1)
    wrong = sorted(first[2:4], key=lambda place: -confidence[place])
    assert [row[0] for row in cells(listed)] == rows["image"][[*wrong, first[1], first[0]]].tolist()


@pytest.mark.experiments
def test_predictions_are_fetched_and_nothing_else(finished: Project, tmp_path: Path) -> None:
    finished.dvc("remote", "add", "--default", "shared", str(tmp_path / "remote"))
    finished.commit("a remote")
    finished.dvc("push")
    change(finished)
    finished.dvc("push")
    finished.run("git", "clone", "--quiet", str(finished.root), str(tmp_path / "elsewhere"))
    other = Project(tmp_path / "elsewhere", finished.raw)
    found = review(other, "--sheet", "sheet.png")
    assert found["Accuracy"] == review(finished)["Accuracy"]
    assert "Left out, the contact sheet" in found["Changed predictions"]
    cached = [path for path in (other.root / ".dvc/cache").rglob("*") if path.is_file()]
    assert len(cached) == 2

    shutil.rmtree(other.root / ".dvc/cache")
    shutil.rmtree(tmp_path / "remote")
    done = other.tool("review", "--fail-below", "0.0", status=1)
    assert re.fullmatch("Left out: .*", sections(done.stdout)["Accuracy"])
    assert "review: error: --fail-below needs the predictions of both versions" in done.stderr


def test_no_change_is_one_line(finished: Project) -> None:
    commit = finished.run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    finished.edit("README.md", "#", "##")
    text = finished.tool("review", "--fail-below", "0.0").stdout
    assert text.startswith(f"No change since {commit}: ")
    assert text.count("\n") == 1
    finished.tool("review", "--fail-below", "0.001", status=1)


def test_moved_code_and_other_pixels_are_listed(finished: Project) -> None:
    finished.run("git", "mv", "classifier/train/augment.py", "tools/augment.py")
    (digest,) = re.findall("md5: (.*)", (finished.root / "dvc.lock").read_text().partition("path: data/images")[2])[:1]
    finished.edit("dvc.lock", digest, "0" * 32)
    found = review(finished)
    assert cells(found["Code"]) == [["classifier/train/augment.py", "train"]]
    assert found["Data"] == "Other images in `data/images`."


def test_metrics_and_predictions_of_other_params_are_left_out(finished: Project) -> None:
    change(finished)
    finished.set(train__seed=1)
    says = "Left out: workspace: params.yaml (train.seed) changed since"
    assert review(finished, "HEAD")["Accuracy"] == f"{says}; `dvc repro` makes new predictions."
    assert review(finished, "main")["Metrics"].strip() == f"{says}."


def test_the_gate_refuses_only_a_worse_model(finished: Project) -> None:
    change(finished)
    done = finished.tool("review", "--fail-below", "0.0", status=1)
    assert "workspace is better" not in done.stdout
    assert re.fullmatch(r"review: error: accuracy: the interval ends at -0\.\d{4}, below 0\n", done.stderr)
    finished.tool("review", "--fail-below", "-1.0")
    finished.run("git", "checkout", "--quiet", "main")
    finished.dvc("checkout")
    assert "workspace is better than" in finished.tool("review", "change", "--fail-below", "0.0").stdout


def test_errors_are_one_line(finished: Project) -> None:
    def refused(*words: str) -> str:
        done = finished.tool("review", *words, status=1)
        assert done.stdout == ""
        return one_line(done)

    assert "nowhere: no commit that is known here" in refused("nowhere")
    assert "no readable dvc.lock; `dvc repro` writes it" in refused("HEAD~1")
    shutil.move(finished.root / ".git", finished.root / "elsewhere")
    assert "this needs a git repository with a commit" in refused()
