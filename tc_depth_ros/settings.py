"""Dataclass fields that describe themselves, so that ROS parameters can be made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

METADATA_KEY = 'setting'
PREFIX_KEY = 'prefix'


@dataclass(frozen=True)
class Setting:
    """What a user needs to know of one field."""

    description: str
    minimum: float | None = None  # inclusive, like the maximum
    maximum: float | None = None
    choices: Sequence[str] = ()
    dynamic: bool = False  # may change while frames come in


def setting(
    default: Any,
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    dynamic: bool = False,
) -> Any:
    """Make a dataclass field with a default and its description."""
    described = Setting(description, minimum, maximum, choices, dynamic)
    return field(default=default, metadata={METADATA_KEY: described})


def group(config_class: type[Any], prefix: str = '') -> Any:
    """Make a field of the settings of another class; ``prefix`` goes before their names."""
    return field(default_factory=config_class, metadata={PREFIX_KEY: prefix})


def check_choices(config: Any) -> None:
    """Raise ValueError where a setting of a dataclass is none of its choices."""
    for one in fields(config):
        described: Setting | None = one.metadata.get(METADATA_KEY)
        value = getattr(config, one.name)
        if described is not None and described.choices and value not in described.choices:
            choices = [f"'{choice}'" for choice in described.choices]
            listed = f'{", ".join(choices[:-1])} or {choices[-1]}'
            raise ValueError(f"{one.name} is '{value}'; it must be {listed}")
