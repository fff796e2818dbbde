"""Inference speed of the exported model: onnxruntime against eager PyTorch, in float32 and in 8 bits.

The ratios come from one run, so they hold on a noisy machine: all backends process the same images in turn, with one
and two threads, in batches of 1, 32 and 1000. Single images come 20 per turn, so that each backend finds its weights in
the processor's cache, as it would in a separate program. All map pixels to probabilities. PyTorch runs in inference
mode, with the memory layout (channels last or contiguous) that is faster for the model and batch. onnxruntime's threads
do not spin.

Run it from the root of a clone after `make repro`, with nothing else running: python benchmarks/inference.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from classifier.data import annotations
from classifier.data.dataset import AnnotatedImages
from classifier.export import onnx_int8, onnx_session
from classifier.model import serialization

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

ONNX = REPOSITORY / "models/classifier.onnx"
CALIBRATION_IMAGES = 512
TURNS = {1: (50, 20), 32: (100, 1), 1000: (15, 1)}  # batch size: turns of each backend, calls per turn

Backend = Callable[[np.ndarray], object]


def seconds(backends: dict[str, Backend], images: np.ndarray, turns: int, calls: int) -> dict[str, list[float]]:
    """Wall times of the calls of each backend; the backends take turns of ``calls`` calls."""
    times: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(-max(2, turns // 10), turns):  # the negative ones are warm-up
        for name, backend in backends.items():
            for _ in range(calls):
                start = time.perf_counter()
                backend(images)
                if turn >= 0:
                    times[name].append(time.perf_counter() - start)
    return times


def eager(model: torch.nn.Module, normalize: serialization.Normalize, layout: torch.memory_format) -> Backend:
    """The trained model in PyTorch, from pixels to probabilities."""
    model = model.to(memory_format=layout)

    def run(images: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            inputs = normalize(torch.from_numpy(images)).contiguous(memory_format=layout)
            logits: torch.Tensor = model(inputs)
            return logits.softmax(1)

    return run


def onnx(path: Path, threads: int) -> Backend:
    """The exported file in onnxruntime."""
    session = onnx_session.create_session(path, threads)
    return lambda images: session.run(["probabilities"], {"images": images})


def main() -> None:
    """Measure and print all combinations."""
    rows = annotations.read(REPOSITORY / "data/annotations.csv")
    images_folder = REPOSITORY / "data/images"
    test = AnnotatedImages(rows, REPOSITORY / "data/test_images", split="test").all_images().numpy()
    training = rows[rows["split"] == "train"].sample(CALIBRATION_IMAGES, random_state=0)
    weights = REPOSITORY / "models/classifier.safetensors"
    models = [serialization.load(weights)[0] for _ in range(2)]
    model_config = serialization.load(weights)[1]
    normalize = serialization.Normalize(model_config)
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        onnx_int8.quantize(ONNX, int8, AnnotatedImages(training, images_folder).all_images().numpy())
        print(
            f"{model_config.architecture}: {ONNX.stat().st_size:,} bytes in float32, {int8.stat().st_size:,} in 8 bits"
        )
        for threads in (1, 2):
            torch.set_num_threads(threads)
            layouts = (torch.channels_last, torch.contiguous_format)
            backends = {
                f"eager {layout}": eager(m, normalize, layout) for m, layout in zip(models, layouts, strict=True)
            }
            backends |= {"onnx": onnx(ONNX, threads), "onnx int8": onnx(int8, threads)}
            for batch, (turns, calls) in TURNS.items():
                report(threads, batch, seconds(backends, test[:batch], turns, calls))


def report(threads: int, batch: int, times: dict[str, list[float]]) -> None:
    """Print the medians, the 99th percentiles of single images, and the speedup over eager PyTorch."""
    median = {name: statistics.median(values) for name, values in times.items()}
    faster = min((name for name in times if name.startswith("eager")), key=median.__getitem__)
    for name, shown in ((faster, "PyTorch"), ("onnx", "onnxruntime"), ("onnx int8", "onnxruntime, int8")):
        text = (
            f"{threads} thread{'s' if threads > 1 else ' '}  batch {batch:4}  {shown:<18} {median[name] * 1e3:8.3f} ms"
        )
        if batch == 1:
            text += f"  p99 {np.quantile(times[name], 0.99) * 1e3:7.3f} ms"
        if name != faster:
            text += f"  {median[faster] / median[name]:5.2f} times as fast"
        print(text, flush=True)


if __name__ == "__main__":
    main()
