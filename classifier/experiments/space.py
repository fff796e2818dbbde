"""Drawing trials from the space of a search with Optuna."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from classifier.experiments.settings import Axis, Search, variant
from classifier.runner.declaration import get_by_key
from classifier.seeds import derive_seed

import optuna

DIGITS = 4  # significant ones of a drawn number

Params = dict[str, Any]  # by dotted key


def draw(
    search: Search, content: dict[str, Any], known: Sequence[optuna.trial.FrozenTrial], round: int
) -> list[Params]:
    """The trials of a round: the same ones for the same known trials, whoever draws them and how often.

    Args:
        search: the settings of search.yaml.
        content: the whole of params.yaml.
        known: earlier trials.
        round: from 0.
    """
    study = new_study(search, known, derive_seed(search.seed, "round", round) % 2**32)
    count = min(search.trials_per_round, search.trials - round * search.trials_per_round)
    return [_draw_one(study.ask(), search.space, content) for _ in range(count)]


def _draw_one(trial: optuna.Trial, space: Mapping[str, Axis], content: dict[str, Any]) -> Params:
    params: Params = {}
    # What chooses a variant comes first, then what depends on it.
    for key in sorted(space, key=lambda key: variant(key) is not None):
        if needed := variant(key):
            chooser, name = needed
            if params.get(chooser, get_by_key(content, chooser)) != name:
                continue
        params[key] = _suggest(trial, key, space[key])
    return params


def _suggest(trial: optuna.trial.BaseTrial, key: str, axis: Axis) -> Any:
    if axis.choices:  # as JSON, since Optuna takes no lists
        return json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in axis.choices]))
    numbers: dict[str, Any] = {"low": axis.low, "high": axis.high, "log": axis.log}
    if axis.is_whole:
        return trial.suggest_int(key, **numbers, step=int(axis.step or 1))
    value = trial.suggest_float(key, **numbers, step=axis.step)
    return min(max(float(f"{value:.{DIGITS}g}"), numbers["low"]), numbers["high"])  # short enough for a person to read


def new_study(search: Search, trials: Sequence[optuna.trial.FrozenTrial], seed: int) -> optuna.Study:
    """A study in memory that knows these trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    startup = 2 * search.trials_per_round  # trials that are drawn at random
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, for the params of variants
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=min(10, startup)
        )
    higher_is_better = search.objective == "val_acc"
    study = optuna.create_study(sampler=sampler, direction="maximize" if higher_is_better else "minimize")
    study.add_trials(trials)
    return study


def known_trial(search: Search, params: Params, value: float | None) -> optuna.trial.FrozenTrial:
    """A trial that is known, for Optuna.

    Args:
        search: the settings of search.yaml.
        params: that the trial varies.
        value: of the objective; None for a trial that diverged, which counts as the worst.
    """
    axes = search.space
    trial = optuna.trial.FixedTrial({key: json.dumps(it) if axes[key].choices else it for key, it in params.items()})
    for key in params:
        _suggest(trial, key, axes[key])  # so that the trial has the distribution, too
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.PRUNED if value is None else states.COMPLETE,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
    )
