"""Dataclass fields that describe themselves, so that ROS parameters can be made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

METADATA_KEY = 'setting'


@dataclass(frozen=True)
class Setting:
    """What a user needs to know of one field."""

    description: str
    minimum: float | None = None  # inclusive, like the maximum
    maximum: float | None = None
    choices: Sequence[str] = ()


def setting(
    default: Any,
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Make a dataclass field with a default and its description."""
    described = Setting(description, minimum, maximum, choices)
    return field(default=default, metadata={METADATA_KEY: described})
