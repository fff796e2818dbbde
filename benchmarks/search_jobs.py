"""Do two trainings at a time finish a search sooner than one after the other, which has all cores for each?

A search of two trials and two fresh seeds on the real data, six runs of one epoch of the default network in all, once
with --jobs 1 and once with --jobs 2, each in a temporary clone; the tables must be equal.

Run it from the root of a clone that has the data, with nothing else running: python benchmarks/search_jobs.py
"""

from clone import clone, measured

SEARCH = {
    "train.epochs": 1,
    "train.warmup_fraction": 0.1,
    "search.trials": 2,
    "search.trials_per_round": 2,
    "search.rungs": [],
    "search.confirm_seeds": 2,
    "search.space": {"optimizers.muon.lr": {"low": 0.03, "high": 0.3, "log": True}},
}


def main() -> None:
    """Run both and print the ratio."""
    seconds, tables = [], []
    for jobs in ("1", "2"):
        with clone() as project:
            project.dvc("checkout")
            project.set_all(SEARCH)
            taken, _ = measured(project, "python", "-m", "tools.search", "--jobs", jobs)
            seconds.append(taken)
            tables.append(project.read("metrics/search.csv"))
            runs = len(project.run("git", "for-each-ref", "refs/exps").stdout.splitlines())
            print(f"--jobs {jobs}: {runs} experiments, {taken:.0f} s", flush=True)
    assert tables[0] == tables[1]
    print(f"time of two at a time against one after the other: {seconds[1] / seconds[0]:.2f}")


if __name__ == "__main__":
    main()
