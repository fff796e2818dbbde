"""The settings of a search: the schema of search.yaml, and reading it."""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from classifier.config import params_file
from classifier.config.fields import Count, Section, Seed
from classifier.config.schema import Params
from classifier.errors import ParamsError
from classifier.runner.declaration import get_by_key

from pydantic import Field, model_validator

SEARCH_FILE = Path("search.yaml")
VARIANTS = {
    "models": "train.model", "losses": "train.loss", "optimizers": "train.optimizer", "schedules": "train.schedule"
}  # fmt: skip
SEARCHED = ("train", *VARIANTS)
FIXED_IN_A_SEARCH = {
    "train.epochs": "rungs say how long a trial trains",
    "train.patience": "rungs stop the trials that fall behind",
    "train.seed": "each trial has a seed of its own, derived from seed",
    "train.world_size": "it is a matter of the machine",
    "train.initial_checkpoint": "all trials begin from the file that params.yaml names",
}


class Axis(Section):
    """Choices, or a range."""

    choices: Annotated[list[Any], Field(min_length=2)] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None

    @model_validator(mode="before")
    @classmethod
    def _list_is_choices(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"choices": value}
        if not isinstance(value, dict) or ("low" not in value and "high" not in value):
            raise ValueError(
                f": must be a list of choices, or a range such as {{low: 0.1, high: 1.0}}; it is {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Axis":
        if self.choices:
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"low: must be below high, or the range is empty; it is {self.low} to {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: a logarithmic range begins above 0 and has no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step: must be above 0 and at most high - low; it is {self.step}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def extremes(self) -> list[Any]:
        """All choices, or both ends of the range."""
        return self.choices or [self.low, self.high]


class Search(Section):
    """The whole of search.yaml, where each key is explained."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,19}$")]
    trials: Count
    trials_per_round: Count
    rungs: list[Count]
    reduction_factor: Annotated[int, Field(ge=2)]
    objective: Literal["val_acc", "val_loss"]
    confirm_seeds: Annotated[int, Field(ge=2)]
    seed: Seed
    space: Annotated[dict[str, Axis], Field(min_length=1)]

    @model_validator(mode="after")
    def _trials_may_vary_it(self) -> "Search":
        for key in self.space:
            if key in FIXED_IN_A_SEARCH:
                raise ValueError(f"space: {key} cannot vary: {FIXED_IN_A_SEARCH[key]}")
            if key.partition(".")[0] not in SEARCHED:
                raise ValueError(f"space: {key} cannot vary: it must be a key of {', '.join(SEARCHED)}")
        return self

    @model_validator(mode="after")
    def _rungs_rise(self) -> "Search":
        if any(low >= high for low, high in itertools.pairwise(self.rungs)):
            raise ValueError(f"rungs: must be epochs in rising order; they are {self.rungs}")
        return self


def variant(key: str) -> tuple[str, str] | None:
    """The choice that makes a param matter: ``optimizers.sgd.lr`` needs ``("train.optimizer", "sgd")``."""
    section, _, rest = key.partition(".")
    return (VARIANTS[section], rest.partition(".")[0]) if section in VARIANTS else None


def read(params: Params, content: dict[str, Any], path: Path = SEARCH_FILE) -> Search:
    """The validated settings.

    Args:
        params: that the trials start from.
        content: the same as plain data.
        path: of the file.

    Raises:
        ParamsError: a key or value is wrong by itself, or with these params; no trial would read a key.
    """
    search = params_file.validate_as(Search, params_file.load(path), f"{path}: ")
    for key, axis in search.space.items():
        for value in axis.extremes:
            params_file.replaced(content, {key: value}, f"{path}: space: ")
    for key in search.space:
        if not (needed := variant(key)):
            continue
        chooser, name = needed
        chosen = search.space[chooser].extremes if chooser in search.space else [get_by_key(content, chooser)]
        if name not in chosen:
            raise ParamsError(
                f"{path}: space: no trial reads {key}: {chooser} is never {name}, but {', '.join(map(str, chosen))}"
            )
    if search.rungs and search.rungs[-1] >= params.train.epochs:
        raise ParamsError(
            f"{path}: rungs: must be below train.epochs, {params.train.epochs}, which is the last one; they are"
            f" {search.rungs}"
        )
    if params.train.patience:
        raise ParamsError("params.yaml: train.patience: must be 0 for a search, whose rungs stop what falls behind")
    return search
