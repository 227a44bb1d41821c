"""What the values of a sweep file have in common: they are frozen, and know their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from hpoctl.words import nearest

Positive = Annotated[int, Field(strict=True, ge=1)]
NotNegative = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Values(BaseModel):
    """Frozen, and refuses an unknown key with the nearest known one."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: object) -> object:
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    hint = nearest(str(key), list(cls.model_fields))
                    raise PydanticCustomError(
                        "unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint}
                    )
        return given


def named(value: object) -> object:
    """`tpe` stands for `{name: tpe}`."""
    return {"name": value} if isinstance(value, str) else value
