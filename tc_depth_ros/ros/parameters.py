"""ROS parameters out of the dataclasses of the classes that they configure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node

from tc_depth_ros.settings import METADATA_KEY, Setting, setting

Config = TypeVar('Config')


@dataclass(frozen=True)
class NodeConfig:
    """What the node needs to know beside what its predictor does."""

    image_transport: str = setting(
        'raw',
        "'raw' subscribes to image, 'compressed' to image/compressed",
        choices=('raw', 'compressed'),
    )
    weights: str = setting('', 'weights file (.safetensors); empty is the embedded model')
    device: str = setting('auto', 'where the network runs: auto, cpu, cuda, cuda:1, …')
    autostart: bool = setting(True, 'configure and activate at start, without a manager')

    def __post_init__(self) -> None:
        """Refuse an unknown transport."""
        if self.image_transport not in ('raw', 'compressed'):
            raise ValueError(
                f"image_transport is '{self.image_transport}'; it must be 'raw' or 'compressed'"
            )


def declare(node: Node, config_class: type[Config]) -> None:
    """Declare a parameter per field, with its default, description and range; read-only."""
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        described: Setting | None = field.metadata.get(METADATA_KEY)
        if described is None:
            declare(node, _nested(config_class, field.name))
            continue
        node.declare_parameter(field.name, field.default, _descriptor(described))


def read(node: Node, config_class: type[Config]) -> Config:
    """
    Build a config from the node's parameters.

    :raises ValueError: the values do not go together; names them and the remedy
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if METADATA_KEY in field.metadata:
            values[field.name] = node.get_parameter(field.name).value
        else:
            values[field.name] = read(node, _nested(config_class, field.name))
    return config_class(**values)


def _nested(config_class: type[Any], name: str) -> type[Any]:
    nested: type[Any] = get_type_hints(config_class)[name]
    return nested


def _descriptor(described: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=described.description, read_only=True)
    if described.choices:
        descriptor.additional_constraints = 'one of: ' + ', '.join(described.choices)
    if described.minimum is not None and described.maximum is not None:
        limits = FloatingPointRange(from_value=described.minimum, to_value=described.maximum)
        descriptor.floating_point_range = [limits]
    return descriptor
