"""The schema of params.yaml: its keys and their values. It holds no defaults and computes nothing."""

import difflib
from typing import Annotated, Literal

from classifier.config.fields import (
    Count,
    FileName,
    Fraction,
    NonNegative,
    Pixels,
    Positive,
    Section,
    Seed,
    Share,
    Side,
)
from classifier.config.variants import NOT_PORTABLE, Losses, Models, Optimizers, Schedules, torchvision_models

from pydantic import Field, model_validator


class Sources(Section):
    fashion_mnist: Annotated[list[str], Field(alias="fashion-mnist")]
    mnist: list[str]
    kmnist: list[str]

    def of(self, dataset: str) -> list[str]:
        found: list[str] = getattr(self, dataset.replace("-", "_"))
        return found


class Download(Section):
    timeout_seconds: Positive
    sources: Sources


class Annotate(Section):
    validation_fraction: Fraction
    validation_fold: Annotated[int, Field(ge=0)]
    seed: Seed
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    table: str
    image_column: str
    label_column: str
    split_column: str
    group_column: str
    channels: Literal["auto", 1, 3]
    size: Literal["auto"] | Annotated[list[Side], Field(min_length=2, max_length=2)]
    fit: Literal["pad", "crop", "stretch"]
    background: Literal["black", "white"]
    max_megapixels: Positive
    bad_files: Literal["stop", "skip"]
    shard_mb: Positive

    @model_validator(mode="after")
    def _fold_exists(self) -> "Annotate":
        folds = max(1, round(1 / self.validation_fraction)) if self.validation_fraction else 1
        if self.validation_fold >= folds:
            raise ValueError(
                f"validation_fold: must be below {folds}, the folds of {self.validation_fraction} of the images; it is"
                f" {self.validation_fold}"
            )
        return self


class Compute(Section):
    device: Literal["auto", "cpu", "cuda", "mps"]
    portable: bool


class Augment(Section):
    hflip: bool
    translate_pixels: Pixels
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]
    cutout_pixels: Pixels


class Pruning(Section):
    easy: Fraction
    skip: Fraction
    between: Annotated[list[Share], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "Pruning":
        if self.between[0] >= self.between[1]:
            raise ValueError(f"between: must be two rising shares of the epochs; it is {self.between}")
        return self


class Train(Section):
    model: str
    loss: str
    optimizer: str
    schedule: str
    warmup_fraction: Fraction
    epochs: Count
    batch_size: Count
    shuffle: bool
    class_balance: Literal["as_is", "equal"]
    normalize: bool | Literal["imagenet"]
    clip_grad_norm: NonNegative
    precision: Literal["fp32", "bf16"]
    ema_decay: Fraction
    patience: Annotated[int, Field(ge=0)]
    keep: Literal["last", "best"]
    initial_checkpoint: FileName
    freeze: list[str]
    augment: Augment
    pruning: Pruning
    seed: Seed
    world_size: Annotated[int, Field(ge=1, le=1024)]


class Evaluate(Section):
    batch_size: Count
    minimum_accuracy: Share


class Report(Section):
    mistakes: Count


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=24)]
    tolerance: Positive
    int8: bool
    int8_max_accuracy_drop: Fraction
    int8_calibration_images: Count


class Runtime(Section):
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
    checkpoint_seconds: NonNegative
    stop_after_epoch: Annotated[int, Field(ge=0)]
    image_memory_mb: NonNegative
    prefetch_threads: Annotated[int, Field(ge=1, le=64)]
    scheduler: str
    tensorboard: bool

    @model_validator(mode="after")
    def _scheduler_is_an_address(self) -> "Runtime":
        if self.scheduler != "none" and "://" not in self.scheduler and not self.scheduler.endswith(".json"):
            wanted = "none, an address such as tcp://host:8786, or the .json file of `dask scheduler --scheduler-file`"
            raise ValueError(f"scheduler: must be {wanted}; it is {self.scheduler!r}")
        return self


class Params(Section):
    """The whole of params.yaml."""

    dataset: Annotated[str, Field(pattern=r"^[^./\\$\s][^/\\$]*$")]  # a name in data/own/
    download: Download
    annotate: Annotate
    compute: Compute
    train: Train
    models: Models
    losses: Losses
    optimizers: Optimizers
    schedules: Schedules
    evaluate: Evaluate
    report: Report
    export: Export
    runtime: Runtime

    @model_validator(mode="after")
    def _is_portable(self) -> "Params":
        for key, values in NOT_PORTABLE.items():
            if self.compute.portable and (value := getattr(self.train, key)) in values:
                raise ValueError(f"train.{key}: {value} differs between processors; it needs compute.portable: false")
        return self

    @model_validator(mode="after")
    def _equal_classes_are_drawn(self) -> "Params":
        if self.train.class_balance == "equal" and not self.train.shuffle:
            raise ValueError("train.class_balance: equal draws the images, so it needs train.shuffle: true")
        return self

    @model_validator(mode="after")
    def _names_have_a_section(self) -> "Params":
        groups = {"model": self.models, "loss": self.losses, "optimizer": self.optimizers, "schedule": self.schedules}
        for key, group in groups.items():
            name, known = getattr(self.train, key), list(group.model_dump())
            if name not in known:
                more = "; any other model of torchvision needs a line under models" if key == "model" else ""
                raise ValueError(f"train.{key}: must be one of {', '.join(known)}{more}; it is {name!r}")
        if unknown := [name for name in self.models.__pydantic_extra__ or {} if name not in torchvision_models()]:
            close = difflib.get_close_matches(unknown[0], [*torchvision_models(), *Models.model_fields], n=1)
            raise ValueError(
                f"models.{unknown[0]}: no model of this project or of torchvision"
                + (f"; did you mean {close[0]}?" if close else "")
            )
        return self
