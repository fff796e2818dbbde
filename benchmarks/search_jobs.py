"""What a search costs beyond its trainings, and whether two trainings at a time finish it sooner.

A search of 20 trials and four fresh seeds on the real data, 24 runs of one epoch of LeNet: with --jobs 1 and with
--jobs 2, each in a temporary clone, whose tables must be equal; and the same 24 trainings one after the other in one
process, without a search.

Run it from the root of a clone that has the data, with nothing else running: python benchmarks/search_jobs.py
"""

import time
from collections.abc import Iterator
from typing import Any

from classifier.errors import DivergedError
from classifier.experiments.stage_process import StageProcess
from tests.project import Project

import pandas as pd
from clone import clone, measured

KEY = "optimizers.muon.lr"
PARAMS = {"train.model": "lenet", "train.epochs": 1, "train.warmup_fraction": 0.1, "runtime.tensorboard": False}
SEARCH = {
    "search.trials": 20,
    "search.trials_per_round": 5,
    "search.rungs": [],
    "search.confirm_seeds": 2,
    "search.space": {KEY: {"low": 0.03, "high": 0.3, "log": True}},
}


def trained(project: Project) -> Iterator[dict[str, Any]]:
    """The params of each run of a finished search."""
    trials = pd.read_csv(project.root / "metrics/search.csv")
    yield from ({KEY: lr, "train.seed": seed} for lr, seed in zip(trials[KEY], trials["train.seed"], strict=True))
    for row in pd.read_csv(project.root / "metrics/search_confirmed.csv").to_dict("records"):
        best = {KEY: float(trials[KEY][0])} if row["params"] == "best trial" else {}
        yield {"train.seed": int(row["train.seed"]), **best}


def main() -> None:
    """Run the search twice and the trainings alone, and print the ratios."""
    seconds, tables = [], []
    for jobs in ("1", "2"):
        with clone() as project:
            project.dvc("checkout")
            project.set_all(PARAMS | SEARCH)
            taken, _ = measured(project, "python", "-m", "tools.search", "--jobs", jobs)
            seconds.append(taken)
            tables.append(project.read("metrics/search.csv"))
            print(f"--jobs {jobs}: {taken:.0f} s", flush=True)
            if jobs == "1":
                start = time.perf_counter()
                process = StageProcess(project.root)
                for number, params in enumerate(trained(project)):
                    out = project.root / "scratch" / str(number)
                    task = {"stage": "train", "overrides": params, "out": str(out), "log": f"{out}.log"}
                    answer = process.run(task, lambda: False)
                    assert answer["status"] in (0, DivergedError.exit_status), answer
                process.close()
                alone = time.perf_counter() - start
                print(
                    f"its {number + 1} trainings alone: {alone:.0f} s; the search takes {taken / alone:.2f} times that"
                )
    assert tables[0] == tables[1]
    print(f"two at a time: {seconds[1] / seconds[0]:.2f} of the time of one after the other")


if __name__ == "__main__":
    main()
