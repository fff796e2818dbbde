"""report: what cannot change it, and what bad inputs get."""

from pathlib import Path

from classifier.errors import StageError
from classifier.evaluate import predictions
from classifier.report import content
from tests.project import Project

import pandas as pd
import pytest


def test_matplotlibrc_changes_no_byte(finished: Project) -> None:
    (finished.root / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsvg.fonttype: none\n")
    finished.run("python", "-m", "stages.report")  # it is read at the import
    assert "up to date" in finished.dvc("status").stdout


@pytest.mark.filterwarnings("error")
def test_predictions_of_many_classes_are_read_without_a_warning(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(300)]
    table = pd.DataFrame(0.0, index=range(2), columns=[f"{predictions.PROBABILITY}{name}" for name in names])
    table.iloc[:, 7] = 1.0
    table.insert(0, "image", ["a", "b"])
    table.insert(1, "label", "class 7")
    table.insert(2, "predicted", "class 7")
    table.to_csv(tmp_path / "predictions.csv", index=False)
    read = predictions.read(tmp_path / "predictions.csv")
    assert read.class_names == names
    assert [*read.rows["confidence"]] == [1.0, 1.0]


def test_unsuitable_input_is_one_line(finished: Project, tmp_path: Path) -> None:
    path = finished.root / "metrics/predictions.csv"
    path.unlink()
    path.write_text("image,label\nx,y\n")
    done = finished.stage("report", status=1)
    says = "not the predictions of this pipeline; `dvc repro evaluate` makes them"
    assert done.stderr == f"report: error: metrics/predictions.csv: {says}\n"
    assert not (finished.root / "metrics/report.html").exists()
    (tmp_path / "model").write_bytes(b"no")
    with pytest.raises(StageError, match="not a model of this pipeline"):
        content.read_model(tmp_path / "model")
