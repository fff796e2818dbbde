"""Time to accuracy: a recipe over several seeds, each a whole run of `train` and `evaluate` in a throw-away clone.

The last epoch counts, or what the recipe keeps by its validation rows; the test split chooses nothing.

    python benchmarks/accuracy.py                                   # the committed recipe, 5 seeds
    python benchmarks/accuracy.py --seeds 3 train.precision=fp32    # another one

Prints a line a run: seconds of the whole `train` process (imports, reading, training, writing), validation and test
accuracy; then means with standard deviations. Run nothing beside it.
"""

import argparse
import json
import statistics

import yaml
from clone import clone, measured


def mean(values: list[float], digits: int, unit: str) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f} {unit}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", nargs="*", metavar="KEY=VALUE", help="params that differ from the committed ones")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in arguments.params)}
    columns: list[tuple[float, float, float]] = []
    with clone() as project:
        project.set_all(changes)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            project.set(train__seed=seed)
            seconds, _ = measured(project, "python", "-m", "stages.train")
            project.stage("evaluate")
            training = json.loads(project.read("metrics/train.json"))
            test = json.loads(project.read("metrics/evaluate.json"))["accuracy"]
            columns.append((seconds, 100 * training["val_accuracy"], 100 * test))
            line = "seed {}: {:.0f} s, validation {:.2f} %, test {:.2f} %".format(seed, *columns[-1])
            print(f"{line}, {training['weights']:,} weights", flush=True)
    seconds_, validation, accuracy = (list(column) for column in zip(*columns, strict=True))
    print(
        f"{len(columns)} runs: {mean(seconds_, 0, 's')}, median {statistics.median(seconds_):.0f} s; "
        f"validation {mean(validation, 2, '%')}; test {mean(accuracy, 2, '%')}"
    )


if __name__ == "__main__":
    main()
