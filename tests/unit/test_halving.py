"""The plan of a search: which runs come next, whatever the order in which the others ended."""

import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError
from classifier.experiments import search_results, settings
from classifier.experiments.halving import Halving, Run
from tests.project import PARAMS
from tests.unit.helpers import one_line

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
    plain["train"] |= {"epochs": 9, "model": "cnn", "optimizer": "muon"}
    return plain


def halving(records: dict[str, Any], **changes: Any) -> Halving:
    search = params_file.validate_as(settings.Search, {**SEARCH, **changes})
    return Halving(search, content(), "search-1234", records)


def end(runs: list[Run], records: dict[str, Any], value: Callable[[Run], float | None]) -> None:
    records |= {run.key: {"params": run.params, "value": value(run)} for run in runs}


def result(run: Run) -> float | None:
    """A figure that depends on nothing but the run."""
    value = random.Random(f"{run.params} {run.epochs}").random()
    return None if run.name.startswith("trial") and value < 0.15 else round(value, 6)


def finish(pick: Callable[[list[Run]], Run] = lambda runs: runs[0], **changes: Any) -> Halving:
    """Run a whole search, choosing which of the possible runs ends next."""
    records: dict[str, Any] = {}
    while runs := halving(records, **changes).next_runs():
        end([pick(runs)], records, result)
    return halving(records, **changes)


def test_records_do_not_depend_on_the_order_in_which_runs_end() -> None:
    first, last, drawn = finish(), finish(lambda runs: runs[-1]), finish(random.Random(1).choice)
    assert [*first.records] != [*last.records]
    assert first.records == last.records == drawn.records


def test_best_trials_go_on_and_no_other_run_is_made() -> None:
    done = finish()
    assert done.rungs == [1, 3, 9]
    before = dict.fromkeys(range(9), 0.0)
    for rung, count in enumerate((9, 3, 1)):
        reached = {number: done.value(number, rung) or 0.0 for number in range(9) if done.record(number, rung)}
        assert len(reached) == count == done.survivors(rung)
        assert rung == 0 or {*reached} == {*heapq.nlargest(count, before, before.__getitem__)}
        before = reached
    assert sum(key.startswith("trial") for key in done.records) == 13
    others = {key for key in done.records if not key.startswith("trial")}
    assert others == {"best-0-9", "best-1-9", "base-0-9", "base-1-9"}
    assert done.epochs_left == 0
    assert halving({}).epochs_left == 9 + 3 * 2 + 6 + 4 * 9


def test_diverged_trials_never_go_on() -> None:
    records: dict[str, Any] = {}
    for _ in range(3):  # rounds
        end(halving(records).next_runs(), records, lambda run: None)
    records["trial-004-1"]["value"] = 0.5
    assert [run.key for run in halving(records).next_runs()] == ["trial-004-3"]
    rest = dict(records)
    while runs := halving(rest).next_runs():
        end(runs, rest, lambda run: 0.5)
    assert halving(rest).epochs_left == 0
    records["trial-004-1"]["value"] = None
    assert halving(records).next_runs() == []
    assert halving(records).best is None


def test_loss_is_better_when_it_is_lower() -> None:
    done = finish(objective="val_loss")
    values = [value for number in range(9) if (value := done.value(number, 0)) is not None]
    assert done.value(done.ranking(0)[0], 0) == min(values)


def test_trials_have_the_params_of_their_variant_only_and_stay_in_range() -> None:
    records = finish(trials=30, trials_per_round=10).records
    trials = [records[f"trial-{number:03}-1"]["params"] for number in range(30)]
    for params in trials:
        ((key, lr),) = ((key, value) for key, value in params.items() if ".lr" in key)
        assert key == f"optimizers.{params['train.optimizer']}.lr"
        assert 0.01 <= lr <= 1.0
        assert params["train.batch_size"] in (64, 128, 192, 256)
        assert params["models.cnn.widths"] in ([16, 32], [32, 64])
        params_file.replaced(content(), params)
    assert {params["train.optimizer"] for params in trials} == {"sgd", "muon"}
    assert len({params["train.seed"] for params in trials}) == 30


def test_search_learns_from_earlier_rounds() -> None:
    """With a figure that only depends on the rate, later rounds come nearer to the best one."""
    space = {"optimizers.muon.lr": {"low": 0.001, "high": 1.0, "log": True}}
    records: dict[str, Any] = {}
    while (runs := halving(records, space=space, trials=40, trials_per_round=5).next_runs()) and runs[0].epochs == 1:
        end(runs, records, lambda run: -abs(run.params["optimizers.muon.lr"] - 0.05))
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
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **change}))
    with pytest.raises(ParamsError, match=one_line(message)):
        settings.read(params_file.validate(content()), content(), path)


def test_table_and_page_rank_trials_and_show_choices_that_are_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = finish(trials=30, trials_per_round=10)
    search_results.write(done)
    table = pd.read_csv(search_results.TABLE)
    assert sorted(table["trial"]) == [*range(30)]
    assert table["trial"][0] == done.best
    for rung, reached in (("val_acc_9", "finished"), ("val_acc_3", "stopped at 3"), ("val_acc_1", "stopped at 1")):
        values = table[rung][table["outcome"] == reached].dropna()
        assert len(values) > 1
        assert [*values] == sorted(values, reverse=True)
    assert "<td>[32, 64]</td>" in search_results.PAGE.read_text()
