"""The plan of a search: which runs come next, whatever the order in which the others ended."""

import copy
import itertools
import random
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError
from classifier.experiments import search_results, settings
from classifier.experiments.halving import Halving, Run
from tests.project import PARAMS

import pandas as pd
import pytest
import yaml

SEARCH: dict[str, Any] = {
    "name": "search",
    "trials": 9,
    "trials_per_round": 4,
    "rungs": [1, 3],
    "reduction_factor": 3,
    "objective": "val_acc",
    "confirm_seeds": 2,
    "seed": 0,
    "space": {
        "train.optimizer": ["sgd", "muon"],
        "optimizers.sgd.lr": {"low": 0.01, "high": 1.0, "log": True},
        "optimizers.muon.lr": {"low": 0.01, "high": 1.0, "log": True},
        "train.batch_size": {"low": 64, "high": 256, "step": 64},
        "models.cnn.widths": [[16, 32], [32, 64]],
    },
}


def content() -> dict[str, Any]:
    _, plain = params_file.read(PARAMS)
    plain = copy.deepcopy(plain)
    plain["train"] |= {"epochs": 9, "model": "cnn", "optimizer": "muon"}
    return plain


def read(folder: Path, **changes: Any) -> settings.Search:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **changes}))
    return settings.read(params_file.validate(content()), content(), path)


def halving(records: dict[str, Any], **changes: Any) -> Halving:
    search = params_file.validate_as(settings.Search, {**SEARCH, **changes})
    return Halving(search, content(), "search-1234", records)


def result(run: Run) -> float | None:
    """A figure that depends on nothing but the run."""
    value = random.Random(f"{run.params} {run.epochs}").random()
    return None if run.name.startswith("trial") and value < 0.15 else round(value, 6)


def finish(pick: Any, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Run a whole search, choosing which of the possible runs ends next."""
    records: dict[str, Any] = {}
    order = []
    while runs := halving(records, **changes).next_runs():
        run = pick(runs)
        records[run.key] = {"params": run.params, "value": result(run)}
        order.append(run.key)
    return records, order


def test_records_do_not_depend_on_the_order_in_which_runs_end() -> None:
    first, order = finish(lambda runs: runs[0])
    last, other_order = finish(lambda runs: runs[-1])
    drawn, _ = finish(random.Random(1).choice)
    assert order != other_order
    assert first == last == drawn


def test_best_trials_go_on_and_no_other_run_is_made() -> None:
    records, order = finish(lambda runs: runs[0])
    done = halving(records)
    assert done.rungs == [1, 3, 9]
    for rung, count in enumerate((9, 3, 1)):
        reached = [number for number in range(9) if done.record(number, rung)]
        assert len(reached) == count == done.survivors(rung)
        if rung:
            before = [
                (done.value(number, rung - 1) or 0.0, number) for number in range(9) if done.record(number, rung - 1)
            ]
            assert sorted(reached) == sorted(number for _, number in sorted(before, reverse=True)[:count])
    assert sum(key.startswith("trial") for key in order) == 13
    assert {key for key in order if not key.startswith("trial")} == {
        f"{which}-{place}-9" for which in ("best", "base") for place in range(2)
    }
    assert done.epochs_left == 0
    assert halving({}).epochs_left == 9 + 3 * 2 + 6 + 4 * 9


def test_diverged_trials_never_go_on() -> None:
    records: dict[str, Any] = {}
    for run in itertools.islice(iter(lambda: halving(records).next_runs(), []), 3):
        for one in run:
            records[one.key] = {"params": one.params, "value": None}
    number = 4
    records[f"trial-{number:03}-1"]["value"] = 0.5
    assert [run.key for run in halving(records).next_runs()] == [f"trial-{number:03}-3"]
    rest = dict(records)
    while runs := halving(rest).next_runs():
        rest |= {run.key: {"params": run.params, "value": 0.5} for run in runs}
    assert halving(rest).epochs_left == 0
    records[f"trial-{number:03}-1"]["value"] = None
    assert halving(records).next_runs() == []
    assert halving(records).best is None


def test_loss_is_better_when_it_is_lower() -> None:
    records, _ = finish(lambda runs: runs[0], objective="val_loss")
    done = halving(records, objective="val_loss")
    values = [value for number in range(9) if (value := done.value(number, 0)) is not None]
    assert done.value(done.ranking(0)[0], 0) == min(values)


def test_trials_have_the_params_of_their_variant_only_and_stay_in_range() -> None:
    records, _ = finish(lambda runs: runs[0], trials=30, trials_per_round=10)
    optimizers = set()
    for number in range(30):
        params = records[f"trial-{number:03}-1"]["params"]
        optimizers.add(params["train.optimizer"])
        assert [key for key in params if ".lr" in key] == [f"optimizers.{params['train.optimizer']}.lr"]
        assert params["train.batch_size"] in (64, 128, 192, 256)
        assert params["models.cnn.widths"] in ([16, 32], [32, 64])
        (lr,) = (value for key, value in params.items() if key.endswith(".lr"))
        assert 0.01 <= lr <= 1.0
        params_file.replaced(content(), params)
    assert optimizers == {"sgd", "muon"}
    seeds = [records[f"trial-{number:03}-1"]["params"]["train.seed"] for number in range(30)]
    assert len(set(seeds)) == 30


def test_search_learns_from_earlier_rounds() -> None:
    """With a figure that only depends on the rate, later rounds come nearer to the best one."""
    axis = {
        "space": {"optimizers.muon.lr": {"low": 0.001, "high": 1.0, "log": True}},
        "trials": 40,
        "trials_per_round": 5,
    }
    records: dict[str, Any] = {}
    while (runs := halving(records, **axis).next_runs()) and runs[0].epochs == 1:
        for run in runs:
            records[run.key] = {"params": run.params, "value": -abs(run.params["optimizers.muon.lr"] - 0.05)}
    rates = [records[f"trial-{number:03}-1"]["params"]["optimizers.muon.lr"] for number in range(20, 40)]
    assert sum(0.05 / 3 < rate < 0.05 * 3 for rate in rates) > 10  # a third of the range


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"optimizers.muon.lr": {"low": 1, "high": 0.5}}}, "space.optimizers.muon.lr.low: must be below"),
        ({"space": {"optimizers.muon.lr": {"low": 0, "high": 0.5, "log": True}}}, "a logarithmic range begins above 0"),
        ({"space": {"optimizers.muon.lr": 0.1}}, "must be a list of choices, or a range"),
        ({"space": {"optimizers.muon.lr": {"low": 0.1, "high": 0.5, "lgo": True}}}, "lgo: unknown key"),
        ({"space": {"train.seed": [1, 2]}}, "train.seed cannot vary: each trial has a seed of its own"),
        ({"space": {"train.initial_checkpoint": ["a", "b"]}}, "all trials begin from the file that params.yaml names"),
        ({"space": {"evaluate.batch_size": [1, 2]}}, "evaluate.batch_size cannot vary: it must be a key of train"),
        ({"objective": "accuracy"}, "objective: must be 'val_acc' or 'val_loss'; it is 'accuracy'"),
        ({"rungs": [3, 2]}, "rungs: must be epochs in rising order"),
        ({"rungs": [1, 9]}, "rungs: must be below train.epochs, 9, which is the last one"),
        ({"space": {"optimizers.muon.lrr": [1.0, 2.0]}}, "space: optimizers.muon.lrr: no such key in params.yaml"),
        ({"space": {"optimizers.muon.momentum": {"low": 0.4, "high": 1.5}}}, "muon.momentum: must be less than 1"),
        ({"space": {"train.model": ["cnn", "lennet"]}}, "train.model: must be one of mlp"),
        (
            {"space": {"optimizers.adam.lr": [0.1, 0.2]}},
            "no trial reads optimizers.adam.lr: train.optimizer is never adam, but muon",
        ),
    ],
)  # fmt: skip
def test_wrong_search_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message.replace(".", r"\.")):
        read(tmp_path, **change)


def test_table_and_page_rank_trials_and_show_choices_that_are_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, _ = finish(lambda runs: runs[0], trials=30, trials_per_round=10)
    done = halving(records, trials=30, trials_per_round=10)
    search_results.write(done)
    table = pd.read_csv(search_results.TABLE)
    assert sorted(table["trial"]) == [*range(30)]
    assert table["trial"][0] == done.best
    for rung, reached in (("val_acc_9", "finished"), ("val_acc_3", "stopped at 3"), ("val_acc_1", "stopped at 1")):
        values = table[rung][table["outcome"] == reached].dropna()
        assert len(values) > 1
        assert [*values] == sorted(values, reverse=True)
    assert "<td>[32, 64]</td>" in search_results.PAGE.read_text()
