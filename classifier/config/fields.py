"""The types of values in YAML files, and the strict base of every section."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=4096)]
FileName = Annotated[str, Field(pattern=r"^[^/\\\s$]+$")]


class Section(BaseModel):
    """Strict: no unknown key, no missing key, no text where a number belongs, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Variants(Section):
    """Sections of which ``train`` names one."""

    def __getitem__(self, name: str) -> Section:
        found: Section = getattr(self, name)
        return found
