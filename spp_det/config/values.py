"""What the settings of every kind of run have in common: types of values, and the base of their sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Overlap = Annotated[float, Field(gt=0, le=1)]  # an IoU of boxes that do overlap
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Workers = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=16, le=8192)]  # pixels
Sides = Annotated[tuple[Side, ...], Field(min_length=1)]
MaxSide = Annotated[int, Field(ge=64, le=32768, validate_default=True)]  # pixels
Levels = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)]
Width = Annotated[int, Field(ge=1, le=16384)]  # of an fc layer


def at_home(path: Any) -> Any:
    """A path with its leading ``~`` replaced by the home folder: behind a ``=`` no shell does that.

    Raises ValueError for characters that no path can have.
    """
    try:
        if isinstance(path, str) and b"\0" in os.fsencode(path):
            raise ValueError
        return str(Path(path).expanduser()) if isinstance(path, str) and path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"must be a path: the system knows no home folder {path.split('/')[0]}") from None
    except ValueError:  # of which that of a half of a surrogate pair is one
        raise ValueError("must be a path: it has characters that no path can have") from None


UserPath = Annotated[Path, BeforeValidator(at_home)]
PathOrWord = Annotated[str, BeforeValidator(at_home)]

PoolMode = Literal["max", "average"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
LearningPrecision = Literal["auto", "float32", "bfloat16"]  # float16 has no numbers for small gradients


class Section(BaseModel):
    """A part of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``on`` and ``yes`` as true, and pydantic would take true for the number 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Run(Section):
    """The settings that every kind of run has."""

    output: UserPath
    seed: Seed = 0
    strict: bool = False
    """An image that cannot be read is an error, not a warning."""


def at_most(value: float, info: ValidationInfo, key: str) -> float:
    """The value. Raises ValueError where it exceeds the setting ``key``, dotted, of the same section."""
    limit = info.data.get(key.rpartition(".")[2], value)
    if value > limit:
        raise ValueError(f"must not exceed {key}, {limit:g}")
    return value
