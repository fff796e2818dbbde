"""What a training step of the committed recipe costs in each mode of `compute` and `train.precision`, here.

    python benchmarks/compute_modes.py [--threads 2] [--steps 40]

Each mode is a process of its own, since libraries read their variables when they are imported; the modes take turns
for three rounds. Prints the median milliseconds of a step of 256 images, and the ratio to the default mode. The last
row shows bf16 as a processor without its instructions does it, with the instructions of AVX2 only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
MODES: dict[str, tuple[bool, str, dict[str, str]]] = {
    "fp32, portable (default)": (True, "fp32", {}),
    "fp32, all instructions": (False, "fp32", {}),
    "bf16, all instructions": (False, "bf16", {}),
    "bf16, AVX2 only": (False, "bf16", AVX2),
}
ROUNDS = 3


def measure(portable: bool, precision: str, threads: int, steps: int) -> float:
    """Median milliseconds of a step, in this process."""
    from classifier.portability import pin_instruction_set

    pin_instruction_set(portable)
    from classifier.config import params_file
    from classifier.model import compute
    from classifier.model.serialization import ModelConfig, Normalize
    from classifier.train.gradient import make_gradient
    from classifier.train.loop import Task, check_losses, train_step
    from classifier.train.losses import make_loss
    from classifier.train.optim import Schedule, make_optimizer
    from classifier.train.order import Batch, Order
    from classifier.train.state import TrainState

    import torch

    params, plain = params_file.read()
    train = params.train.model_copy(update={"precision": precision})
    backend = compute.prepare(params.compute.model_copy(update={"portable": portable}), threads)
    names = [str(number) for number in range(10)]
    about = ModelConfig(train.model, plain["models"][train.model], names, 1, 28, 28, [0.29], [0.35], {})
    compute.seed_generators(0)
    model = about.build().to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (train.batch_size, 1, 28, 28), dtype=torch.uint8)

    class Images:
        labels = torch.arange(train.batch_size) % 10

        def targets(self) -> torch.Tensor:
            return self.labels

    data: Any = Images()
    order = Order(train, data, backend.device)
    schedule = Schedule(train.schedule, {}, train.warmup_fraction, order.first_steps)
    loss = make_loss(train.loss, plain["losses"][train.loss], 10)
    gradient = make_gradient(model, loss.training, train, backend)
    task = Task(train, loss, schedule, gradient, Normalize(about), data, data, backend)
    options = plain["optimizers"][train.optimizer]
    optimizer = make_optimizer(train.optimizer, options, model, in_thread=portable)
    state = TrainState.create(model, optimizer, order, train)
    gradient.train_mode()
    indices, weights = torch.arange(train.batch_size), torch.ones(train.batch_size)
    taken = []
    for step in range(steps + 5):
        start = time.perf_counter()
        train_step(state, task, Batch(indices, images, weights, seed=step))
        check_losses(state, task)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken[5:])


def main() -> None:
    """Run all modes in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="of each process (default: 40)")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of one mode
    arguments = parser.parse_args()
    if arguments.only:
        portable, precision, _ = MODES[arguments.only]
        print(measure(portable, precision, arguments.threads, arguments.steps))
        return
    found: dict[str, list[float]] = {name: [] for name in MODES}
    for _ in range(ROUNDS):
        for name, (_, _, variables) in MODES.items():
            steps = 5 if variables else arguments.steps
            words = ["--threads", str(arguments.threads), "--steps", str(steps), "--only", name]
            done = subprocess.run(
                [sys.executable, __file__, *words], env={**os.environ, **variables}, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            found[name].append(float(done.stdout))
    base = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:<26} {median:8.1f} ms  ({min(values):.1f} to {max(values):.1f})  {median / base:6.2f}")


if __name__ == "__main__":
    main()
