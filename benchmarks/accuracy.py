"""Time to accuracy: one configuration over several seeds, each a full `train` and `evaluate` in a temporary clone.

The last epoch counts, or with `keep: best` the one with the lowest validation loss; the test split selects nothing.

    python benchmarks/accuracy.py                              # the committed params, 5 seeds
    python benchmarks/accuracy.py --seeds 3 train.epochs=14    # other params

Prints one line per run: seconds of the whole `train` process (imports, reading, training, writing), validation and test
accuracy, and test accuracy with test-time augmentation (TTA: logits of an image and its mirror image, averaged); then
means and standard deviations. Run nothing else at the same time.
"""

import argparse
import json
import statistics

import yaml
from clone import clone, measured


def mean(values: list[float], digits: int, unit: str) -> str:
    """Mean and standard deviation as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f} {unit}"


def main() -> None:
    """Run all seeds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", nargs="*", metavar="KEY=VALUE", help="params that differ from the committed ones")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    arguments = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in arguments.params)}
    runs: list[tuple[float, ...]] = []
    with clone() as project:
        project.set_all(changes)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            project.set(train__seed=seed)
            seconds, _ = measured(project, "python", "-m", "stages.train")
            project.stage("evaluate")
            training = json.loads(project.read("metrics/train.json"))
            test = json.loads(project.read("metrics/evaluate/details.json"))
            accuracies = training["val_acc"], test["accuracy"], test["accuracy_tta"]
            runs.append((seconds, *(100 * accuracy for accuracy in accuracies)))
            line = "seed {}: {:.0f} s, validation {:.2f} %, test {:.2f} %, with TTA {:.2f} %"
            print(line.format(seed, *runs[-1]) + f", {test['num_parameters']:,} parameters", flush=True)
    times, *columns = (list(column) for column in zip(*runs, strict=True))
    validation, accuracy, tta = (mean(column, 2, "%") for column in columns)
    print(
        f"{len(runs)} runs: {mean(times, 0, 's')}, median {statistics.median(times):.0f} s; "
        f"validation {validation}; test {accuracy}, with TTA {tta}"
    )


if __name__ == "__main__":
    main()
