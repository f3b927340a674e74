"""One training run, as YAML says it: checked on reading, unknown keys refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tc_depth_ros.network.config import MONODEPTH, MONODEPTH2, PAPER, SMALL, DepthConfig
from tc_depth_training.losses.objective import ObjectiveConfig


class ConfigError(ValueError):
    """A configuration that cannot be used; lists every mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class DataConfig(_Section):
    """What a window of frames is."""

    height: Annotated[int, Field(ge=32, multiple_of=8)] = 192  # pixels, of the network
    width: Annotated[int, Field(ge=32, multiple_of=8)] = 256
    time_steps_s: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        0.1,
        0.17,
    )
    image_topic: str = ''  # empty: the only one there is
    camera_info_topic: str = ''
    odometry_topic: str = ''


class NetworkConfig(_Section):
    """Which network, and where it starts from."""

    name: Literal['small', 'paper', 'monodepth', 'monodepth2'] = 'small'
    temporal: Literal['window', 'causal'] = 'window'
    spatial_attention: bool = True
    temporal_attention: bool = True
    imagenet: bool = True  # encoders from ImageNet, where they are EfficientNet-lite0
    # Depth that an untrained network answers everywhere; in metres where poses are metric. A
    # start far from the scene's depth warps everything out of view.
    initial_depth: Annotated[float, Field(gt=0.1, lt=100)] = 3.0

    def structure(self) -> DepthConfig:
        """Build the network's configuration."""
        single_frame = {'monodepth': MONODEPTH, 'monodepth2': MONODEPTH2}
        if self.name in single_frame:
            return single_frame[self.name]
        return replace(
            PAPER if self.name == 'paper' else SMALL,
            temporal=self.temporal,
            spatial_attention=self.spatial_attention,
            temporal_attention=self.temporal_attention,
        )


class TrainingConfig(_Section):
    """One training run."""

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: ObjectiveConfig = ObjectiveConfig()
    pose: Literal['learned', 'odometry'] = 'learned'
    # Learn a factor of K's focal length too, for a CameraInfo that is only roughly right
    fit_focal_length: bool = False
    steps: Annotated[int, Field(ge=1)] = 2000
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warm_up_steps: Annotated[int, Field(ge=0)] = 50
    colour_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    # Share of the steps that show the network its target alone, as it is at start or after a gap
    single_frame_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: int = 0
    device: str = 'auto'

    @model_validator(mode='after')
    def _check_focal_length(self) -> TrainingConfig:
        if self.fit_focal_length and self.pose == 'learned':
            raise ValueError(
                'fit_focal_length needs pose: odometry, or nothing fixes the rotation'
            )
        return self


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """
    Read a configuration.

    :param path: YAML, or None for the defaults
    :param overrides: ``a.b=value`` each, read as YAML
    :raises ConfigError: unknown keys and wrong values, all at once
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.exists():
            raise ConfigError(f'configuration {path} does not exist')
        values = _parse(path.read_text(), str(path)) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds no 'key: value' lines but {values!r}")
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f"--set {override}: expected 'key=value', as in steps=500")
        _assign(values, key.split('.'), _parse(text, f'--set {override}'))
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        problems = [
            f'{".".join(str(part) for part in e["loc"])}: {e["msg"]} (is {e["input"]!r})'
            for e in error.errors()
        ]
        raise ConfigError(
            f'{path or "configuration"} has {len(problems)} mistakes:\n  ' + '\n  '.join(problems)
        ) from error


def _parse(text: str, origin: str) -> Any:
    try:
        return YAML(typ='safe').load(text)
    except YAMLError as error:
        raise ConfigError(f'{origin} is not YAML: {error}') from error


def _assign(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{key}' is a value, not a section")
    values[keys[-1]] = value
