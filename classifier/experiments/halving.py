"""Successive halving: which runs a search needs next, computed from its settings and the records of earlier runs.

All trials train until the epoch of the first rung, the best of them go on to the next, and so on; none begins again.
Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016. The
schedule of the learning rate is that of the whole run from the first step on.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from classifier.experiments import space
from classifier.experiments.records import Record
from classifier.experiments.settings import Search
from classifier.seeds import derive_seed

SEED = "train.seed"


@dataclass(frozen=True)
class Run:
    """One piece of work: train until an epoch.

    Attributes:
        name: of its folder; the runs of a trial share one.
        params: other values than those of params.yaml, by dotted key.
        epochs: where it ends.
        goes_on: whether the next run of its name continues from there.
    """

    name: str
    params: dict[str, Any]
    epochs: int
    goes_on: bool = False

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"{self.name}-{self.epochs}"


class Halving:
    """The state of a search.

    Args:
        search: the settings of search.yaml.
        content: the whole of params.yaml.
        prefix: of the names of experiments.
        records: of the runs that have ended.
    """

    def __init__(self, search: Search, content: dict[str, Any], prefix: str, records: Mapping[str, Record]):
        self.search, self.content, self.prefix, self.records = search, content, prefix, records
        self.rungs: list[int] = [*search.rungs, content["train"]["epochs"]]
        self.last = len(self.rungs) - 1
        self.sign = -1 if search.objective == "val_acc" else 1

    # --- what comes next -------------------------------------------------------------------------------------------

    def next_runs(self) -> list[Run]:
        """The runs that can start now, in any order; none if the search is done."""
        for runs in self._phases():
            if missing := [run for run in runs if run.key not in self.records]:
                return missing
        return []

    def _phases(self) -> Iterator[list[Run]]:
        """Groups of runs; each group follows from the records of those before it."""
        trials, per_round = self.search.trials, self.search.trials_per_round
        for round_number, first in enumerate(range(0, trials, per_round)):
            numbers = range(first, min(first + per_round, trials))
            if all(self.record(number, 0) for number in numbers):
                continue
            drawn = space.draw(self.search, self.content, self.known_trials(first), round_number)
            yield [self._trial(number, params, 0) for number, params in zip(numbers, drawn, strict=True)]
        for rung in range(1, len(self.rungs)):
            best = [number for number in self.ranking(rung - 1) if self.value(number, rung - 1) is not None]
            yield [self._trial(number, self.varied(number), rung) for number in best[: self.survivors(rung)]]
        yield self.confirming()

    def survivors(self, rung: int) -> int:
        """How many trials reach a rung."""
        return max(1, math.ceil(self.search.trials / float(self.search.reduction_factor) ** rung))

    def expected(self, rung: int) -> int:
        """How many trials will have been at a rung: fewer if too many of the rung before have diverged."""
        if rung == 0:
            return self.search.trials
        before = self.ranking(rung - 1)
        diverged = sum(self.value(number, rung - 1) is None for number in before)
        return min(self.survivors(rung), self.expected(rung - 1) - diverged)

    def _trial(self, number: int, params: dict[str, Any], rung: int) -> Run:
        seed = derive_seed(self.search.seed, "trial", number) % 2**32
        return Run(f"trial-{number:03}", params | {SEED: seed}, self.rungs[rung], goes_on=rung < self.last)

    def winner(self) -> Run:
        """The run of the best trial to its end; there must be one."""
        assert self.best is not None
        return self._trial(self.best, self.varied(self.best), self.last)

    def confirming(self) -> list[Run]:
        """The best trial, and then params.yaml as it is, with fresh seeds; none as long as there is no best trial."""
        if self.best is None:
            return []
        seeds = [derive_seed(self.search.seed, "confirm", place) % 2**32 for place in range(self.search.confirm_seeds)]
        return [
            Run(f"{which}-{place}", params | {SEED: seed}, self.rungs[-1])
            for which, params in (("best", self.varied(self.best)), ("base", {}))
            for place, seed in enumerate(seeds)
        ]

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def epochs_left(self) -> int:
        """The epochs of the runs that have not ended, those of trials that will diverge included."""
        steps = [high - low for low, high in itertools.pairwise([0, *self.rungs])]
        trials = sum((self.expected(rung) - len(self.ranking(rung))) * steps[rung] for rung in range(len(steps)))
        confirmed = sum(run.key in self.records for run in self.confirming())
        return trials + self.rungs[-1] * (2 * self.search.confirm_seeds - confirmed)

    def record(self, number: int, rung: int) -> Record | None:
        """The record of a trial at a rung, if it was there."""
        return self.records.get(f"trial-{number:03}-{self.rungs[rung]}")

    def value(self, number: int, rung: int) -> float | None:
        """The objective of a trial at a rung; None if it was not there, or diverged."""
        record = self.record(number, rung)
        return record["value"] if record else None

    def ranking(self, rung: int) -> list[int]:
        """The trials that reached a rung, the best first; diverged ones are the worst; the earlier wins a tie."""

        def loss(number: int) -> float:
            value = self.value(number, rung)
            return math.inf if value is None else self.sign * value

        return sorted((number for number in range(self.search.trials) if self.record(number, rung)), key=loss)

    def leader(self, rung: int) -> int | None:
        """The best trial at a rung so far; None as long as there is none."""
        return next((number for number in self.ranking(rung) if self.value(number, rung) is not None), None)

    @property
    def best(self) -> int | None:
        """The best trial of the last rung; None as long as there is none."""
        return self.leader(self.last)

    def known_trials(self, count: int) -> list[Any]:
        """The first trials for Optuna, by the objective at the first rung, which all of them reach."""
        return [
            space.known_trial(self.search, self.varied(number), self.value(number, 0))
            for number in range(count)
            if self.record(number, 0)
        ]

    def varied(self, number: int) -> dict[str, Any]:
        """The params that a trial varies, by dotted key."""
        record = self.record(number, 0)
        assert record
        return {key: value for key, value in record["params"].items() if key != SEED}
