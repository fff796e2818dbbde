"""The sections of which ``train`` names one: models, losses, optimizers and schedules."""

import functools
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Literal

from classifier.config.fields import Count, Fraction, NonNegative, Positive, Section, Variants

from pydantic import ConfigDict, Field, model_validator

# MKL starts a square root from an approximation in hardware, which AMD and Intel make differently; the other optimizers
# have one kernel of PyTorch, or of ours. A test trains each that is not here on emulated processors.
NOT_PORTABLE = {"precision": {"bf16"}, "optimizer": {"rmsprop"}}


class Mlp(Section):
    hidden: Annotated[list[Count], Field(min_length=1)]


class Cnn(Section):
    stem: Count | Literal["whiten"]
    widths: Annotated[list[Count], Field(min_length=1)]


class Arguments(Section):
    """Arguments of somebody else's constructor, which checks them."""

    model_config = ConfigDict(extra="allow")


class Models(Variants):
    model_config = ConfigDict(extra="allow")  # torchvision's models, by name

    mlp: Mlp
    lenet: Section
    cnn: Cnn
    __pydantic_extra__: dict[str, Arguments]


class CrossEntropy(Section):
    label_smoothing: Fraction


class Losses(Variants):
    cross_entropy: CrossEntropy
    nll: Section
    mse: Section


class Sgd(Section):
    lr: Positive
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0; it is true with momentum 0")
        return self


class Adam(Section):
    lr: Positive
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative


class RmsProp(Section):
    lr: Positive
    alpha: Fraction
    eps: Positive
    momentum: Fraction
    weight_decay: NonNegative


class Adagrad(Section):
    lr: Positive
    eps: Positive
    weight_decay: NonNegative


class Muon(Section):
    lr: Positive
    momentum: Fraction
    sgd_lr: Positive
    sgd_momentum: Fraction
    weight_decay: NonNegative


class Optimizers(Variants):
    sgd: Sgd
    adam: Adam
    adamw: Adam
    rmsprop: RmsProp
    adagrad: Adagrad
    muon: Muon


class Step(Section):
    step_size: Count
    gamma: Annotated[float, Field(gt=0, le=1)]


class Schedules(Variants):
    constant: Section
    step: Step
    cosine: Section
    linear: Section


@functools.cache
def torchvision_models() -> frozenset[str]:
    """The names of torchvision's classification models, from its source: its import takes seconds."""
    spec = importlib.util.find_spec("torchvision")
    assert spec
    assert spec.origin
    sources = (Path(spec.origin).parent / "models").glob("*.py")
    pattern = re.compile(r"^@register_model\([^)]*\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    return frozenset(name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8")))
