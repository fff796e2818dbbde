"""Small trainings, predictions and exports, for the same digests on every processor. Run as a program:

    python -m tests.support.portable_run [VARIABLE ...]

It prints one JSON object of digests; the variables named are left unset, to show that each of them is needed. Of an
export it has the numbers; that PyTorch's exporter writes these and computes none is seen in ``unit/test_onnx.py``.
"""

import gc
import hashlib
import json
import os
import sys
import types
from typing import Any

from classifier import portability

MODELS: dict[str, dict[str, Any]] = {"mlp": {"hidden": [24]}, "lenet": {}, "cnn": {"stem": "whiten", "widths": [6, 10]}}
# Of each model; convolutions are slow in an emulator, so most optimizers train the other one.
OPTIMIZERS = {"mlp": ("adam", "adamw", "adagrad", "sgd"), "lenet": ("sgd",), "cnn": ("sgd", "muon")}
IMAGES, BATCH, STEPS = 20, 10, 2


class NoCompiler(types.ModuleType):
    """In the place of ``torch._dynamo``."""

    def disable(self, function: Any, *words: Any, **options: Any) -> Any:
        return function

    def graph_break(self) -> None:
        pass


def digest(*parts: Any) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else part.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def results() -> dict[str, str]:
    """Digests by what was computed."""
    from classifier.config import params_file
    from classifier.evaluate import metrics
    from classifier.export import onnx_file
    from classifier.model import compute, whitening, zoo
    from classifier.model.inference import fold_batch_norm, predict_logits
    from classifier.model.serialization import ModelConfig, Normalize, normalization
    from classifier.seeds import derive_seed
    from classifier.train import augment, calibration
    from classifier.train.gradient import PartsGradient
    from classifier.train.losses import make_loss
    from classifier.train.optim import make_optimizer

    import numpy as np
    import torch

    # An optimizer's first step imports the compiler, to be left alone by it: ten seconds in an emulator.
    torch._dynamo = sys.modules["torch._dynamo"] = NoCompiler("torch._dynamo")  # type: ignore[attr-defined]

    params, plain = params_file.read()
    backend = compute.prepare(params.compute.model_copy(update={"portable": True}), params.runtime.threads)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(IMAGES) % 10
    found: dict[str, str] = {}

    def train(name: str, optimizer_name: str) -> tuple[torch.nn.Module, ModelConfig]:
        model_config = ModelConfig(name, MODELS[name], list("abcdefghij"), 1, 28, 28, [0.29], [0.35], {})
        compute.seed_generators(derive_seed(0, name, optimizer_name))
        model = model_config.build().to(memory_format=torch.channels_last).train()
        if isinstance(model, zoo.Cnn):
            model.set_stem(whitening.filters([pixels], zoo.STEM_SIDE, *normalization(model_config)))
        optimizer = make_optimizer(optimizer_name, plain["optimizers"][optimizer_name], model)
        normalize, loss = Normalize(model_config), make_loss("cross_entropy", {"label_smoothing": 0.1}, 10)
        gradient = PartsGradient(model, loss.training, (), BATCH, backend.threads)
        gradient.train_mode()
        losses = []
        for step in range(STEPS):
            compute.seed_generators(derive_seed(0, "step", step))
            indices = torch.arange(step * BATCH, (step + 1) * BATCH)
            inputs = normalize(augment.augment(pixels[indices], params.train.augment))
            losses.append(gradient(inputs, labels[indices], torch.ones(BATCH), BATCH)[0].tolist())
            optimizer.step()
        found[f"{name}, {optimizer_name}"] = digest(*model.state_dict().values(), repr(losses).encode())
        return model.eval(), model_config

    for name in MODELS:
        for optimizer_name in OPTIMIZERS[name]:
            model, model_config = train(name, optimizer_name)
        batches = pixels.split(16)
        logits = torch.cat([*predict_logits(fold_batch_norm(model), Normalize(model_config), batches, backend)])
        found[f"{name}, logits"] = digest(logits)
        temperature = calibration.fit_temperature(logits.numpy(), labels.numpy())
        probabilities = metrics.softmax(logits.numpy(), temperature)
        figures = [
            metrics.mean_loss(logits.numpy(), labels.numpy()),
            metrics.brier_score(probabilities, labels.numpy()),
        ]
        bins = metrics.reliability(probabilities, labels.numpy())
        found[f"{name}, metrics"] = digest(repr((temperature, figures)).encode(), np.ascontiguousarray(bins).tobytes())
        found[f"{name}, deployed"] = digest(*onnx_file.Deployed(model, model_config).state_dict().values())
    return found


if __name__ == "__main__":
    gc.disable()  # to look for garbage takes a while in an emulator
    portability.pin_instruction_set(portable=True)
    for name in sys.argv[1:]:
        del os.environ[name]
    print(json.dumps(results()))
