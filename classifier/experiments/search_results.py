"""The results of a search: tables, a page with pictures, and a few sentences."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from classifier.experiments import space
from classifier.experiments.halving import SEED, Halving, confirm_key
from classifier.experiments.statistics import PairedComparison, paired
from classifier.report import figures, page
from classifier.runner import files

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TABLE = Path("metrics/search.csv")
CONFIRMED_TABLE = Path("metrics/search_confirmed.csv")
PAGE = Path("metrics/search.html")
TEMPLATE = Path(__file__).with_name("search.html.jinja")


class Results:
    """The results of a search, finished or not.

    Args:
        halving: its state.
    """

    def __init__(self, halving: Halving):
        self._halving = halving

    def write(self) -> None:
        """Write metrics/search.csv, a row for each trial, the best first; the runs with fresh seeds; and the page."""
        files.atomic_write(TABLE, self.trials().to_csv(index=False, lineterminator="\n").encode())
        files.atomic_write(CONFIRMED_TABLE, self.confirmed().to_csv(index=False, lineterminator="\n").encode())
        self._write_page()

    def trials(self) -> pd.DataFrame:
        """A row for each trial that has ended a run: what it varied, its objective at each rung, how it ended."""
        halving, objective = self._halving, self._halving.search.objective
        columns = [
            "trial",
            *halving.search.space,
            SEED,
            *(f"{objective}_{epochs}" for epochs in halving.rungs),
            "outcome",
        ]
        rows = []
        for number in self._by_rank():
            reached = max(rung for rung in range(len(halving.rungs)) if halving.record(number, rung))
            record = halving.record(number, reached)
            assert record
            params = [record["params"].get(key) for key in (*halving.search.space, SEED)]
            values = [halving.value(number, rung) for rung in range(len(halving.rungs))]
            ended = "finished" if reached == halving.last else f"stopped at {halving.rungs[reached]}"
            rows.append([number, *params, *values, record.get("error") or ended])
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def _by_rank(self) -> list[int]:
        """All trials that have ended a run: those of the last rung first."""
        ranked: list[int] = []
        for rung in reversed(range(len(self._halving.rungs))):
            ranked += [number for number in self._halving.ranking(rung) if number not in ranked]
        return ranked

    def confirmed(self) -> pd.DataFrame:
        """A row for each run with a fresh seed."""
        rows = [
            {
                "params": "best trial" if which == "best" else "params.yaml",
                SEED: record["params"][SEED],
                self._halving.search.objective: record["value"],
                "experiment": self._halving.experiment(which, place),
            }
            for which, place in self._halving.places
            if (record := self._halving.records.get(confirm_key(which, place)))
        ]
        return pd.DataFrame(rows, columns=["params", SEED, self._halving.search.objective, "experiment"])

    @cached_property
    def comparison(self) -> PairedComparison | None:
        """The best trial against the params as they are, by fresh seed; None if too few runs came to a result."""
        best, base = self._halving.confirmed("best"), self._halving.confirmed("base")
        both = [place for place in best if place in base]
        if len(both) < 2:
            return None
        return paired([best[place] for place in both], [base[place] for place in both])

    def summary(self) -> Iterator[str]:
        """A few sentences: the best trial, how much of it was luck, and whether it is better than params.yaml."""
        halving, objective = self._halving, self._halving.search.objective
        if not (leader := halving.leader(halving.last)):
            yield f"{halving.epochs_left} epochs left to train"
            return
        number, found = leader
        yield f"best trial: {number}, {objective} {found:.4f}"
        varied = halving.varied(number)
        yield from (f"  {key}: {varied[key]}" for key in halving.search.space if key in varied)
        if halving.epochs_left:
            yield f"{halving.epochs_left} epochs left to train"
            return
        if (comparison := self.comparison) is None:
            yield "too few runs with fresh seeds came to a result; metrics/search_confirmed.csv"
            return
        fall = (found - comparison.mean_a) * -halving.sign
        luck = f"so {fall:.4f} of it was luck" if fall > 0 else "no worse than it was in the search"
        yield f"with {comparison.count} fresh seeds: {comparison.mean_a:.4f} ± {comparison.deviation_a:.4f}, {luck}"
        yield f"params.yaml, same seeds: {comparison.mean_b:.4f} ± {comparison.deviation_b:.4f}"
        higher_is_better = objective == "val_acc"
        yield f"difference: {comparison.describe('the best trial', 'params.yaml', higher_is_better)}"
        yield f"its model: dvc exp apply {halving.experiment('best', 0)}"
        yield f"all trials: {TABLE} and {PAGE} (open it in a browser)"

    def _write_page(self) -> None:
        """Write one self-contained page with the same as pictures and tables."""
        halving = self._halving
        table = self.trials().rename(columns=halving.short_names()).astype(object)
        importances = self.importances()
        page.write(
            files.temporary_path(PAGE),
            TEMPLATE,
            halving=halving,
            summary=[line for line in self.summary() if str(PAGE) not in line],
            history=page.picture(self._draw_history),
            importances=page.picture(lambda: draw_importances(importances)) if importances else None,
            columns=list(table.columns),
            rows=[["" if pd.isna(value) else value for value in row] for row in table.itertuples(index=False)],
            confirmed=self.confirmed().to_dict("records"),
        )
        files.publish(files.temporary_path(PAGE), PAGE)

    def importances(self) -> dict[str, float]:
        """How much of the variance at the first rung each param explains, largest first: Optuna's functional ANOVA.

        Source: Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", 2014.
        Empty if there are too few trials, or all are equal.
        """
        halving = self._halving
        rung = halving.rungs[0]
        trials = [
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.intermediate_values[rung]
            )
            for trial in halving.known_trials()
            if trial.intermediate_values
        ]
        values = {trial.value for trial in trials}
        shared = [key for key in halving.search.space if trials and all(key in trial.params for trial in trials)]
        if len(values) < 4 or not shared:
            return {}
        study = space.new_study(halving.search, trials, seed=0)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=shared)
        return {halving.short_names()[key]: float(value) for key, value in found.items()}

    def _draw_history(self) -> Figure:
        """The objective of every trial at each rung, in the order of the trials, and the best so far at the last."""
        halving = self._halving
        figure = Figure(figsize=(9.4, 4.2), layout="constrained")
        axis = figure.subplots()
        shades = np.linspace(0.35, 1, len(halving.rungs))
        for rung, (epochs, alpha) in enumerate(zip(halving.rungs, shades, strict=True)):
            there = [number for number in sorted(halving.ranking(rung)) if halving.value(number, rung) is not None]
            values = np.array([halving.value(number, rung) for number in there], np.float64)
            is_last = rung == len(halving.rungs) - 1
            axis.plot(
                there, values, "o", markersize=7 if is_last else 5, alpha=alpha, label=f"epoch {epochs}",
                color=figures.BAD if is_last else figures.GOOD,
            )  # fmt: skip
        for number in range(halving.search.trials):  # a line from rung to rung
            path = [value for rung in range(len(halving.rungs)) if (value := halving.value(number, rung)) is not None]
            axis.plot([number] * len(path), path, "-", color="gray", linewidth=0.8, zorder=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel="trial", ylabel=halving.search.objective, title="All trials, by the epoch of each rung")
        axis.grid(alpha=0.6)
        figure.legend(loc="outside lower center", ncols=len(halving.rungs))
        return figure


def draw_importances(importances: dict[str, float]) -> Figure:
    """A bar for each param, the most important on top."""
    figure = Figure(figsize=(9.4, 1.2 + 0.36 * len(importances)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(importances)), [*importances.values()], color=figures.GOOD, alpha=0.75)
    axis.set_yticks(range(len(importances)), [*importances])
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="share of the variance at the first rung", title="What mattered")
    axis.grid(axis="x", alpha=0.6)
    return figure
