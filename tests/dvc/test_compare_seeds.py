"""tools.compare seeds on real commits: recipes that differ in anything but the seed are kept apart."""

import statistics
from collections import defaultdict

from tests.project import Project

RECIPES = [
    {"losses.cross_entropy.label_smoothing": 0.1, "train.schedule": "linear"},  # as committed, seed 0
    {"losses.cross_entropy.label_smoothing": 0.3, "train.schedule": "linear"},
    {"train.schedule": "step", "schedules.step.gamma": 0.1},
    {"train.schedule": "step", "schedules.step.gamma": 0.5},
]


def test_recipes_that_differ_in_loss_or_schedule_are_kept_apart(finished: Project) -> None:
    values = defaultdict(list)
    for number, recipe in enumerate(RECIPES):
        for seed in (0, 1):
            if (number, seed) != (0, 0):
                finished.set_all({**recipe, "train.seed": seed})
                finished.dvc("repro", "train")
                finished.commit(f"recipe {number}, seed {seed}")
            values[number].append(finished.json("metrics/train.json")["val_acc"])
    lines = finished.run("python", "-m", "tools.compare", "seeds", "--commits", "9").stdout.splitlines()
    assert len(lines) == len(RECIPES), lines
    for number, words in enumerate(
        (
            ("train.schedule=linear", "label_smoothing=0.1"),
            ("train.schedule=linear", "label_smoothing=0.3"),
            ("train.schedule=step", "schedules.step.gamma=0.1"),
            ("train.schedule=step", "schedules.step.gamma=0.5"),
        )
    ):
        (line,) = [line for line in lines if all(word in line for word in words)]
        mean, deviation = statistics.mean(values[number]), statistics.stdev(values[number])
        assert line.endswith(f"validation accuracy {mean:.2%} ± {deviation:.2%} (n = 2 seeds)")


def test_what_did_not_run_is_not_counted(finished: Project) -> None:
    finished.set(train__seed=1)
    nothing = "compare: error: no recipe ran with two seeds; dvc exp run -S 'train.seed=0,1' --queue\n"
    assert finished.run("python", "-m", "tools.compare", "seeds", status=1).stderr == nothing
    finished.edit("metrics/train.json", '"val_acc": ', '"val_acc": 0')
    left_out = "compare: warning: left out: workspace: metrics/train.json is not what dvc.lock records\n"
    assert finished.run("python", "-m", "tools.compare", "seeds", status=1).stderr == left_out + nothing
