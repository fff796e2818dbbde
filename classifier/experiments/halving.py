"""Successive halving: which runs a search needs next, computed from its settings and the records of earlier runs.

All trials train until the epoch of the first rung, the best of them go on to the next, and so on; none begins again.
Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016. The
schedule of the learning rate is that of the whole run from the first step on.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from classifier.experiments import space
from classifier.experiments.settings import Search
from classifier.experiments.storage import Record
from classifier.seeds import derive_seed

Params = dict[str, Any]  # by dotted key
SEED = "train.seed"
CONFIRMED = ("best", "base")  # the best trial, and params.yaml as it is


@dataclass(frozen=True)
class Run:
    """One piece of work: train until an epoch.

    Attributes:
        key: of its record.
        clone: in which it runs; the runs of a trial share one.
        params: other values than those of params.yaml.
        epochs: where it ends.
        epochs_before: that the trial has trained already.
        experiment: its name, if the training ends here; else empty.
        stages: that the experiment runs; those before ``train`` run before the training begins.
    """

    key: str
    clone: str
    params: Params
    epochs: int
    epochs_before: int = 0
    experiment: str = ""
    stages: Sequence[str] = ("train",)


class Halving:
    """The state of a search.

    Args:
        search: the settings of search.yaml.
        content: the whole of params.yaml.
        prefix: of the names of experiments.
        records: of the runs that have ended; each has ``params`` and ``value``, the objective, or None if it diverged.
    """

    def __init__(self, search: Search, content: dict[str, Any], prefix: str, records: Mapping[str, Record]):
        self.search, self.content, self.prefix, self.records = search, content, prefix, records
        self.rungs: list[int] = [*search.rungs, content["train"]["epochs"]]
        self.sign = -1 if search.objective == "val_acc" else 1

    def survivors(self, rung: int) -> int:
        """How many trials reach a rung."""
        return max(1, math.ceil(self.search.trials / float(self.search.reduction_factor) ** rung))

    @property
    def total_epochs(self) -> int:
        """The epochs of all runs, those of ``confirm`` included."""
        of_trials = sum(
            self.survivors(rung) * (epochs - before)
            for rung, (before, epochs) in enumerate(zip([0, *self.rungs], self.rungs, strict=False))
        )
        return of_trials + len(CONFIRMED) * self.search.confirm_seeds * self.rungs[-1]

    @property
    def epochs_left(self) -> int:
        """The epochs of the runs that have not ended."""
        last = len(self.rungs) - 1
        done = sum(
            epochs - before
            for rung, (before, epochs) in enumerate(zip([0, *self.rungs], self.rungs, strict=False))
            for number in range(self.search.trials)
            if self.record(number, rung)
        )
        keys = [confirm_key(which, place) for which in CONFIRMED for place in range(self.search.confirm_seeds)]
        return self.total_epochs - done - self.rungs[last] * sum(key in self.records for key in keys)

    # --- what comes next -------------------------------------------------------------------------------------------

    def next_runs(self) -> list[Run]:
        """The runs that can start now, in any order; none if the search is done."""
        for runs in self._phases():
            if missing := [run for run in runs if run.key not in self.records]:
                return missing
        return []

    def _phases(self) -> Iterator[list[Run]]:
        """Groups of runs; each group follows from the records of those before it."""
        for round_number in range(math.ceil(self.search.trials / self.search.trials_per_round)):
            first = round_number * self.search.trials_per_round
            numbers = range(first, min(first + self.search.trials_per_round, self.search.trials))
            if all(self.record(number, 0) for number in numbers):
                continue
            known = [self._known(number) for number in range(first)]
            drawn = space.draw(self.search, self.content, known, round_number)
            yield [self._trial(number, params, 0) for number, params in zip(numbers, drawn, strict=True)]
        for rung in range(1, len(self.rungs)):
            going_on = [number for number in self.ranking(rung - 1) if self.value(number, rung - 1) is not None]
            yield [self._trial(number, self._params(number), rung) for number in going_on[: self.survivors(rung)]]
        if self.best is not None:
            yield [run for which in CONFIRMED for run in self._confirming(which)]

    def _trial(self, number: int, params: Params, rung: int) -> Run:
        is_last = rung == len(self.rungs) - 1
        return Run(
            key=record_key(number, rung),
            clone=f"trial-{number:03}",
            params=params | {SEED: derive_seed(self.search.seed, "trial", number) % 2**32},
            epochs=self.rungs[rung],
            epochs_before=self.rungs[rung - 1] if rung else 0,
            experiment=f"{self.prefix}-{number:03}" if is_last else "",
        )

    def _confirming(self, which: str) -> list[Run]:
        """The best trial, or params.yaml as it is, with fresh seeds; the first model of the best is evaluated, too."""
        assert self.best is not None
        params = self._params(self.best) if which == "best" else {}
        return [
            Run(
                key=confirm_key(which, place),
                clone=confirm_key(which, place),
                params=params | {SEED: derive_seed(self.search.seed, "confirm", place) % 2**32},
                epochs=self.rungs[-1],
                experiment=f"{self.prefix}-{which}-{place}",
                stages=("train", "evaluate", "export", "report") if (which, place) == ("best", 0) else ("train",),
            )
            for place in range(self.search.confirm_seeds)
        ]

    # --- what is known ---------------------------------------------------------------------------------------------

    def record(self, number: int, rung: int) -> Record | None:
        """The record of a trial at a rung, if it was there."""
        return self.records.get(record_key(number, rung))

    def value(self, number: int, rung: int) -> float | None:
        """The objective of a trial at a rung; None if it was not there, or diverged."""
        record = self.record(number, rung)
        return record["value"] if record else None

    def ranking(self, rung: int) -> list[int]:
        """The trials that reached a rung, the best first; diverged ones are the worst; the earlier wins a tie."""
        there = [number for number in range(self.search.trials) if self.record(number, rung)]

        def place(number: int) -> tuple[float, int]:
            value = self.value(number, rung)
            return (math.inf if value is None else self.sign * value), number

        return sorted(there, key=place)

    @cached_property
    def best(self) -> int | None:
        """The best trial of the last rung; None as long as there is none."""
        last = len(self.rungs) - 1
        ranked = [number for number in self.ranking(last) if self.value(number, last) is not None]
        return ranked[0] if ranked else None

    def leader(self, rung: int) -> tuple[int, float] | None:
        """The best trial at a rung so far, and its objective."""
        for number in self.ranking(rung)[:1]:
            if (value := self.value(number, rung)) is not None:
                return number, value
        return None

    def is_over(self, clone: str) -> bool:
        """Whether nothing more runs in a clone."""
        name, _, number = clone.rpartition("-")
        if name in CONFIRMED:
            return clone in self.records
        if name != "trial" or not (reached := [r for r in range(len(self.rungs)) if self.record(int(number), r)]):
            return False
        rung = reached[-1]
        if rung == len(self.rungs) - 1 or self.value(int(number), rung) is None:
            return True
        expected = self.search.trials if rung == 0 else self.survivors(rung)
        all_there = len(self.ranking(rung)) >= expected or any(self.ranking(rung + 1))
        return all_there and int(number) not in self.ranking(rung)[: self.survivors(rung + 1)]

    def confirmed(self, which: str) -> dict[int, float]:
        """The objective with each fresh seed that has ended well, by its place."""
        records = {place: self.records.get(confirm_key(which, place)) for place in range(self.search.confirm_seeds)}
        return {place: record["value"] for place, record in records.items() if record and record["value"] is not None}

    def known_trials(self) -> list[Any]:
        """The trials for Optuna, by the objective at the first rung, which all of them reach."""
        numbers = [number for number in range(self.search.trials) if self.record(number, 0)]
        return [self._known(number) for number in numbers]

    def short_names(self, params: Params) -> Params:
        """The params that a trial varies, by names as short as they can be: ``sgd.lr`` if there is another ``lr``."""
        keys = [key for key in self.search.space if key in params]
        return {shortest_suffix(key, self.search.space): params[key] for key in keys}

    def _known(self, number: int) -> Any:
        value = self.value(number, 0)
        values = {} if value is None else {self.rungs[0]: value}
        return space.known_trial(self.search, self._params(number), values)

    def _params(self, number: int) -> Params:
        """The params that a trial varies."""
        record = self.record(number, 0)
        assert record
        return {key: value for key, value in record["params"].items() if key != SEED}


def record_key(number: int, rung: int) -> str:
    """The key of a trial's run to a rung."""
    return f"trial-{number:03}-rung-{rung}"


def confirm_key(which: str, place: int) -> str:
    """The key of a run with a fresh seed."""
    return f"{which}-{place}"


def shortest_suffix(key: str, keys: Iterable[str]) -> str:
    """The last parts of a dotted key, as few as tell it from the other keys."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        suffix = ".".join(parts[-count:])
        if sum(f".{other}".endswith(f".{suffix}") for other in keys) == 1:
            return suffix
    return key
