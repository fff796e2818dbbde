"""The training of PyTorch's quickstart tutorial, run three ways: the same arithmetic, different overhead.

784-512-512-10, plain SGD, lr 1e-3, batch 64, no shuffling, all 60,000 images scaled to 0..1, fp32, two threads, and the
same initial weights:

tutorial   the loop of PyTorch's quickstart: `torchvision.datasets.FashionMNIST`, `ToTensor`, `DataLoader`, loss, step
pipeline   `python -m stages.train` with these params
bare       the same arithmetic on tensors in memory, and nothing else

    python benchmarks/tutorial.py [--rounds 2]

Each round trains for 5 and for 10 epochs, and the three take turns epoch by epoch, since the speed of a shared machine
can double from one minute to the next. The pipeline's process is paused while the others run; its epochs last from one
printed line to the next, including checkpoint and curves. Prints the seconds per epoch, the ratios of adjacent epochs,
and the test accuracy of the first two. Run nothing else at the same time.
"""

import argparse
import itertools
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.model import zoo
from classifier.seeds import derive_seed
from tests.project import Project

import torch
from clone import clone
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

PARAMS = {
    "train.model": "mlp", "train.loss": "nll", "train.optimizer": "sgd", "train.schedule": "constant",
    "train.warmup_fraction": 0.0, "train.batch_size": 64, "train.shuffle": False, "train.normalize": False,
    "train.precision": "fp32", "train.augment.hflip": False, "train.augment.translate_pixels": 0,
    "optimizers.sgd.lr": 0.001, "optimizers.sgd.momentum": 0.0, "optimizers.sgd.nesterov": False,
    "optimizers.sgd.weight_decay": 0.0, "annotate.validation_fraction": 0.0, "runtime.threads": 2,
    "compute.portable": False, "train.pruning.skip": 0.0,
}  # fmt: skip
EPOCHS = (5, 10)


def to_tensor(images: torch.Tensor) -> torch.Tensor:
    """The equivalent of ``ToTensor`` for images that are already a uint8 tensor."""
    return images.float().div(255)


def first_weights() -> nn.Module:
    """The initial model of the pipeline."""
    torch.manual_seed(derive_seed(0, "init"))
    return zoo.build_model("mlp", {"hidden": [512, 512]}, 1, (28, 28), 10)


def accuracy(model: nn.Module, data: AnnotatedImages) -> float:
    """Accuracy in percent."""
    with torch.no_grad():
        guesses = torch.cat([model(to_tensor(batch)).argmax(1) for batch in data.iter_batches(1000)])
    return 100 * (guesses == data.labels).double().mean().item()


def epochs_of_loop(model: nn.Module, batches: Callable[[], Any]) -> Iterator[None]:
    """The quickstart's loop; each ``next`` runs one epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    while True:
        model.train()
        for images, labels in batches():
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        yield


def epochs_of_stage(project: Project) -> Iterator[None]:
    """A `train` process; each ``next`` runs one epoch, and in between the process is paused after its epoch line."""
    process = project.start("python", "-m", "stages.train")
    assert process.stdout
    try:
        for line in process.stdout:
            if line.startswith("train: epoch "):
                process.send_signal(signal.SIGSTOP)
                yield
                process.send_signal(signal.SIGCONT)
        if process.wait():
            raise SystemExit("train failed")
    finally:
        process.kill()  # an interrupted benchmark must not leave it paused forever


def main() -> None:
    """Run all rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    seconds: dict[str, list[float]] = {"tutorial": [], "pipeline": [], "bare": []}
    accuracies: dict[str, list[float]] = {"tutorial": [], "pipeline": []}
    with clone() as project:
        project.dvc("checkout", "data/raw")
        project.set_all(PARAMS)
        annotations = project.root / "data/annotations.csv"
        text = annotations.read_text().replace(",val\n", ",train\n")
        annotations.unlink()  # it may be a link into the cache
        annotations.write_text(text)
        folder = project.root / "data/images"
        raw = project.root / "torchvision/FashionMNIST/raw"  # where torchvision looks for the four files
        raw.parent.mkdir(parents=True)
        raw.symlink_to(project.root / "data/raw")
        of_tutorial = FashionMNIST(project.root / "torchvision", transform=ToTensor())
        training = AnnotatedImages(annotations, folder, split="train")
        test = AnnotatedImages(annotations, project.root / "data/test_images", split="test")
        pixels, labels = to_tensor(training.all_images()), training.labels
        for number, count in itertools.product(range(rounds), EPOCHS):
            project.set(train__epochs=count)
            model = first_weights()
            turns = {
                "tutorial": epochs_of_loop(model, lambda: DataLoader(of_tutorial, batch_size=64)),
                "pipeline": epochs_of_stage(project),
                "bare": epochs_of_loop(first_weights(), lambda: zip(pixels.split(64), labels.split(64), strict=True)),
            }
            names = list(turns)
            for epoch in range(count):
                first = epoch % len(turns)  # rotate, so that none always follows the same one
                for name in names[first:] + names[:first]:
                    start = time.perf_counter()
                    next(turns[name])
                    if epoch:  # the first epoch includes the start of the process
                        seconds[name].append(time.perf_counter() - start)
            for _ in turns["pipeline"]:  # let it finish
                raise SystemExit("train did not stop after its last epoch")
            project.stage("evaluate")
            if not number:
                accuracies["pipeline"].append(100 * json.loads(project.read("metrics/evaluate.json"))["accuracy"])
                accuracies["tutorial"].append(accuracy(model.eval(), test))
    for name, values in seconds.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name}: median {median:.2f} s per epoch, quartiles {low:.2f} and {high:.2f} s, {len(values)} epochs")
    for one, other in (("tutorial", "pipeline"), ("pipeline", "bare"), ("tutorial", "bare")):
        ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"{one} / {other}: median {median:.2f}, quartiles {low:.2f} and {high:.2f}")
    for name, values in accuracies.items():
        print(
            f"{name}: test accuracy " + ", ".join(f"{v:.2f} % after {n}" for v, n in zip(values, EPOCHS, strict=True))
        )


if __name__ == "__main__":
    main()
