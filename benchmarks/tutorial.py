"""The tutorial's recipe, trained three ways: the same arithmetic, less waiting.

784-512-512-10, plain SGD, lr 1e-3, batch 64, no shuffling, all 60,000 images at 0..1, fp32, two threads, and the same
first weights:

tutorial   the loop of PyTorch's quickstart: `torchvision.datasets.FashionMNIST`, `ToTensor`, `DataLoader`, loss, step
pipeline   `python -m stages.train` with these params
bare       the same arithmetic over tensors that lie in memory, and nothing else

    python benchmarks/tutorial.py [--rounds 3]

Each round runs all three in turn. Prints the median seconds of an epoch, their ratios, and the test accuracy of the
first two after 5 and 10 epochs. The pipeline's epochs are the times between the lines that it prints. Run nothing
beside it.
"""

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import torch
from clone import clone
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from stages.lib.dataset import AnnotatedImages
from stages.lib.model import models
from stages.lib.seeds import derive
from tests.project import Project

PARAMS = {
    "train.model": "mlp", "train.loss": "nll", "train.optimizer": "sgd", "train.schedule": "constant",
    "train.warmup_fraction": 0.0, "train.batch_size": 64, "train.shuffle": False, "train.standardise": False,
    "train.precision": "fp32", "train.augment.flip": False, "train.augment.shift_pixels": 0,
    "optimizers.sgd.lr": 0.001, "optimizers.sgd.momentum": 0.0, "optimizers.sgd.nesterov": False,
    "optimizers.sgd.weight_decay": 0.0, "annotate.validation_fraction": 0.0, "compute.threads": 2,
}  # fmt: skip
EPOCHS = (5, 10)


def to_tensor(images: torch.Tensor) -> torch.Tensor:
    """What ``ToTensor`` does, for images that are a tensor of bytes already."""
    return images.float().div(255)


def first_weights() -> nn.Module:
    """The model with which the pipeline starts."""
    torch.manual_seed(derive(0, "init"))
    return models.build("mlp", {"hidden": [512, 512]}, 1, (28, 28), 10)


def accuracy(model: nn.Module, data: AnnotatedImages) -> float:
    """Percent of the images."""
    with torch.no_grad():
        guesses = torch.cat([model(to_tensor(batch)).argmax(1) for batch in data.in_order(1000)])
    return 100 * (guesses == data.labels).double().mean().item()


def train(model: nn.Module, batches: Any, test: AnnotatedImages | None) -> tuple[list[float], list[float]]:
    """The quickstart's loop: seconds of each epoch, and test accuracy after those of ``EPOCHS``."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    seconds, accuracies = [], []
    for epoch in range(1, EPOCHS[-1] + 1):
        start = time.perf_counter()
        model.train()
        for images, labels in batches():
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        if test and epoch in EPOCHS:
            accuracies.append(accuracy(model.eval(), test))
    return seconds, accuracies


def between_epochs(project: Project) -> list[float]:
    """Seconds of each epoch of a `train` process but the first."""
    process = project.start("python", "-m", "stages.train")
    assert process.stdout
    times = [time.perf_counter() for line in process.stdout if line.startswith("train: epoch ")]
    if process.wait():
        raise SystemExit("train failed")
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    epochs: dict[str, list[float]] = {"tutorial": [], "pipeline": [], "bare": []}
    accuracies: dict[str, list[float]] = {}
    with clone() as project:
        project.dvc("checkout", "data/raw")
        project.set_all(PARAMS)
        annotations = project.root / "data/annotations.csv"
        text = annotations.read_text().replace(",val\n", ",train\n")
        annotations.unlink()  # it may be a link into the cache
        annotations.write_text(text)
        archive = project.root / "data/images.zip"
        raw = project.root / "torchvision/FashionMNIST/raw"  # where torchvision looks for the four files
        raw.parent.mkdir(parents=True)
        raw.symlink_to(project.root / "data/raw")
        of_tutorial = FashionMNIST(project.root / "torchvision", transform=ToTensor())
        training = AnnotatedImages(annotations, archive, split="train")
        test = AnnotatedImages(annotations, archive, split="test")
        pixels, labels = to_tensor(training.everything()), training.labels
        for _ in range(rounds):
            seconds, accuracies["tutorial"] = train(
                first_weights(), lambda: DataLoader(of_tutorial, batch_size=64), test
            )
            epochs["tutorial"].append(statistics.median(seconds))

            seconds, accuracies["pipeline"] = [], []
            for count in EPOCHS:
                project.set(train__epochs=count)
                seconds += between_epochs(project)
                project.stage("evaluate")
                accuracies["pipeline"].append(100 * json.loads(project.read("metrics/evaluate.json"))["accuracy"])
            epochs["pipeline"].append(statistics.median(seconds))

            seconds, _ = train(first_weights(), lambda: zip(pixels.split(64), labels.split(64), strict=True), None)
            epochs["bare"].append(statistics.median(seconds))
            print(", ".join(f"{name} {values[-1]:.2f} s" for name, values in epochs.items()), "an epoch", flush=True)
    print(f"medians of {rounds}: " + ", ".join(f"{name} {statistics.median(v):.2f} s" for name, v in epochs.items()))
    for one, other in (("tutorial", "pipeline"), ("pipeline", "bare")):
        ratio = statistics.median(a / b for a, b in zip(epochs[one], epochs[other], strict=True))
        print(f"{one} / {other}: {ratio:.2f}")
    for name, values in accuracies.items():
        print(
            f"{name}: test accuracy " + ", ".join(f"{v:.2f} % after {n}" for v, n in zip(values, EPOCHS, strict=True))
        )


if __name__ == "__main__":
    main()
