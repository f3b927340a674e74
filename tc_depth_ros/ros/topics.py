"""The quality of service of the node's topics, which the user may override for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

# Inputs match every publisher, outputs every subscriber (REP 2003 and RViz's defaults)
INPUT_RELIABILITY = ReliabilityPolicy.BEST_EFFORT
OUTPUT_RELIABILITY = ReliabilityPolicy.RELIABLE
QUEUE_DEPTH = 5


def subscribe(
    node: LifecycleNode,
    group: CallbackGroup,
    message_type: type[Any],
    topic: str,
    callback: Callable[[Any], None],
) -> Any:
    """Subscribe to an input; raises what rclpy does where overrides of QoS mean nothing."""
    return node.create_subscription(
        message_type,
        topic,
        callback,
        # One each: an override of one topic is written into the profile that it is given
        QoSProfile(depth=QUEUE_DEPTH, reliability=INPUT_RELIABILITY),
        callback_group=group,
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


def advertise(node: LifecycleNode, message_type: type[Any], topic: str) -> Any:
    """Advertise an output, which is silent while the node is not active; raises as subscribe."""
    return node.create_lifecycle_publisher(
        message_type,
        topic,
        QoSProfile(depth=QUEUE_DEPTH, reliability=OUTPUT_RELIABILITY),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )
