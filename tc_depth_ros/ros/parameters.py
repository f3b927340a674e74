"""ROS parameters out of the dataclasses of the classes that they configure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from tc_depth_ros.settings import METADATA_KEY, PREFIX_KEY, Setting, check_choices, setting

Config = TypeVar('Config')


@dataclass(frozen=True)
class NodeConfig:
    """What the node needs to know beside what its pipeline does."""

    image_transport: str = setting(
        'raw',
        "'raw' subscribes to image, 'compressed' to image/compressed",
        choices=('raw', 'compressed'),
    )
    rectify: str = setting(
        'auto',
        "whether to undistort images by their CameraInfo; 'auto': unless the topic's name says "
        'that they are rectified (image_rect)',
        choices=('auto', 'always', 'never'),
    )
    weights: str = setting(
        '', 'weights file (.safetensors); empty is the embedded model', dynamic=True
    )
    device: str = setting('auto', 'where the network runs: auto, cpu, cuda, cuda:1, …')
    precision: str = setting(
        'auto',
        "of the network: 'auto' is float16 on CUDA where a check finds it as good, else float32",
        choices=('auto', 'float32', 'float16', 'bfloat16'),
    )
    image_timeout_s: float = setting(
        5.0, 'without an image for longer is an error, s', 0.1, 3600.0
    )
    autostart: bool = setting(True, 'configure and activate at start, without a manager')

    def __post_init__(self) -> None:
        """Refuse what is none of the choices."""
        check_choices(self)


class _Parameter(NamedTuple):
    name: str
    default: Any
    described: Setting


def declare(node: Node, config_class: type[Any]) -> None:
    """Declare a parameter per setting, with its default, description and range."""
    for name, default, described in _parameters(config_class):
        node.declare_parameter(name, default, _descriptor(described, default))


def dynamic_names(config_class: type[Any]) -> set[str]:
    """Names of the parameters that may change while frames come in."""
    return {p.name for p in _parameters(config_class) if p.described.dynamic}


def read(
    node: Node,
    config_class: type[Config],
    changes: Mapping[str, Any] | None = None,
    prefix: str = '',
) -> Config:
    """
    Build a config from the node's parameters.

    :param changes: values by name that are to replace the node's own
    :raises ValueError: the values do not go together; names them and the remedy
    """
    changes = changes or {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if METADATA_KEY in field.metadata:
            name = prefix + field.name
            values[field.name] = changes.get(name, node.get_parameter(name).value)
        else:
            nested = _nested(config_class, field.name)
            values[field.name] = read(node, nested, changes, prefix + _prefix(field))
    return config_class(**values)


def _parameters(config_class: type[Any], prefix: str = '') -> Iterator[_Parameter]:
    for field in dataclasses.fields(config_class):
        described: Setting | None = field.metadata.get(METADATA_KEY)
        if described is None:
            nested = _nested(config_class, field.name)
            yield from _parameters(nested, prefix + _prefix(field))
        else:
            yield _Parameter(prefix + field.name, field.default, described)


def _prefix(field: dataclasses.Field[Any]) -> str:
    prefix: str = field.metadata.get(PREFIX_KEY, '')
    return f'{prefix}.' if prefix else ''


def _nested(config_class: type[Any], name: str) -> type[Any]:
    nested: type[Any] = get_type_hints(config_class)[name]
    return nested


def _descriptor(described: Setting, default: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=described.description, read_only=not described.dynamic
    )
    if described.choices:
        descriptor.additional_constraints = 'one of: ' + ', '.join(described.choices)
    if described.minimum is not None and described.maximum is not None:
        if isinstance(default, int):
            limits = IntegerRange(
                from_value=int(described.minimum), to_value=int(described.maximum), step=1
            )
            descriptor.integer_range = [limits]
        else:
            limits = FloatingPointRange(from_value=described.minimum, to_value=described.maximum)
            descriptor.floating_point_range = [limits]
    return descriptor
