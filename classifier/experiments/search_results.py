"""The results of a search: tables, a page with pictures, and a few sentences."""

from collections.abc import Iterator
from pathlib import Path

from classifier.experiments import space
from classifier.experiments.halving import SEED, Halving
from classifier.experiments.statistics import paired
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


def write(halving: Halving) -> None:
    """Write what is known: a row for each trial, the best first; the runs with fresh seeds; and the page."""
    files.atomic_write(TABLE, trials(halving).to_csv(index=False, lineterminator="\n").encode())
    files.atomic_write(CONFIRMED_TABLE, confirmed(halving).to_csv(index=False, lineterminator="\n").encode())
    write_page(halving)


def short_name(key: str) -> str:
    """A dotted key without its section: ``muon.lr``, ``batch_size``."""
    return key.partition(".")[2]


def trials(halving: Halving) -> pd.DataFrame:
    """A row for each trial that has ended a run: what it varied, its objective at each rung, how it ended."""
    rungs = range(len(halving.rungs))
    names = [f"{halving.search.objective}_{epochs}" for epochs in halving.rungs]
    rows = []
    by_rank = (number for rung in reversed(rungs) for number in halving.ranking(rung))
    for number in dict.fromkeys(by_rank):
        reached = [(rung, record) for rung in rungs if (record := halving.record(number, rung))]
        rung, record = reached[-1]
        ended = "finished" if rung == halving.last else f"stopped at {halving.rungs[rung]}"
        values = {name: halving.value(number, rung) for name, rung in zip(names, rungs, strict=True)}
        rows.append({"trial": number, **record["params"], **values, "outcome": record.get("error") or ended})
    columns = ["trial", *halving.search.space, SEED, *names, "outcome"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def confirmed(halving: Halving) -> pd.DataFrame:
    """A row for each run with a fresh seed."""
    rows = [
        {
            "params": "best trial" if run.name.startswith("best") else "params.yaml",
            SEED: run.params[SEED],
            halving.search.objective: halving.records[run.key]["value"],
            "experiment": f"{halving.prefix}-{run.name}",
        }
        for run in halving.confirming()
        if run.key in halving.records
    ]
    return pd.DataFrame(rows, columns=["params", SEED, halving.search.objective, "experiment"])


def summary(halving: Halving) -> Iterator[str]:
    """A few sentences: the best trial, how much of it was luck, and whether it is better than params.yaml."""
    if (number := halving.best) is not None:
        varied, found = halving.varied(number), halving.records[halving.winner().key]["value"]
        yield f"best trial: {number}, {halving.search.objective} {found:.4f}"
        yield from (f"  {key}: {varied[key]}" for key in halving.search.space if key in varied)
    if number is None or halving.epochs_left:
        yield f"{halving.epochs_left} epochs left to train"
        return
    pairs = confirmed(halving)[halving.search.objective].to_numpy(float).reshape(2, -1)  # by seed
    best, base = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if len(best) < 2:
        yield "too few runs with fresh seeds came to a result; metrics/search_confirmed.csv"
        return
    comparison = paired(best, base)
    fall = (found - comparison.mean_a) * -halving.sign
    luck = f"so {fall:.4f} of it was luck" if fall > 0 else "no worse than it was in the search"
    yield f"with {comparison.count} fresh seeds: {comparison.mean_a:.4f} ± {comparison.deviation_a:.4f}, {luck}"
    yield f"params.yaml, same seeds: {comparison.mean_b:.4f} ± {comparison.deviation_b:.4f}"
    yield f"difference: {comparison.describe('the best trial', 'params.yaml', higher_is_better=halving.sign < 0)}"
    yield f"its model: dvc exp apply {halving.prefix}-best-0"
    yield f"all trials: {TABLE} and {PAGE} (open it in a browser)"


def write_page(halving: Halving) -> None:
    """Write one self-contained page with the same as pictures and tables."""
    table = trials(halving).rename(columns={key: short_name(key) for key in halving.search.space}).fillna("")
    shares = importances(halving)
    page.write(
        files.temporary_path(PAGE),
        TEMPLATE,
        halving=halving,
        summary=[line for line in summary(halving) if str(PAGE) not in line],
        history=page.picture(lambda: draw_history(halving)),
        importances=page.picture(lambda: draw_importances(shares)) if shares else None,
        columns=list(table.columns),
        rows=table.values.tolist(),
        confirmed=confirmed(halving).to_dict("records"),
    )
    files.publish(files.temporary_path(PAGE), PAGE)


def importances(halving: Halving) -> dict[str, float]:
    """How much of the variance at the first rung each param explains, largest first: Optuna's functional ANOVA.

    Source: Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", 2014.
    Empty if there are too few trials, or all are equal.
    """
    known = [trial for trial in halving.known_trials(halving.search.trials) if trial.value is not None]
    shared = [key for key in halving.search.space if known and all(key in trial.params for trial in known)]
    if len({trial.value for trial in known}) < 4 or not shared:
        return {}
    study = space.new_study(halving.search, known, seed=0)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=shared)
    return {short_name(key): float(value) for key, value in found.items()}


def draw_history(halving: Halving) -> Figure:
    """The objective of every trial at each rung, in the order of the trials, and the best so far at the last."""
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    axis = figure.subplots()
    table = trials(halving).sort_values("trial").set_index("trial")
    values = table.filter(like=f"{halving.search.objective}_").astype(float)
    axis.vlines(values.index, values.min(axis=1), values.max(axis=1), color="gray", linewidth=0.8, zorder=0)
    for rung, alpha in enumerate(np.linspace(0.35, 1, len(halving.rungs))):
        last = rung == halving.last
        axis.plot(
            values.iloc[:, rung], "o", markersize=7 if last else 5, alpha=alpha,
            color=figures.BAD if last else figures.GOOD, label=f"epoch {halving.rungs[rung]}",
        )  # fmt: skip
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
