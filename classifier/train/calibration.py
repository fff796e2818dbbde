"""How sure a model may be: one temperature, fitted on images that it was not trained on."""

import math

import torch
from torch.nn.functional import cross_entropy

LOG_TEMPERATURES = (-4.0, 4.0)  # where the temperature is looked for: 0.018 to 55


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """What the logits must be divided by for the least cross entropy, to six decimals (Guo et al. 2017).

    Args:
        logits: ``(N, classes) float``; of validation images, never of test images.
        labels: ``(N,) int64``.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    found = minimize_scalar(
        lambda log_temperature: cross_entropy(logits / math.exp(log_temperature), labels).item(),
        bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-7},
    )  # fmt: skip
    return round(math.exp(found.x), 6)
