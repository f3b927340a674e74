"""
New weights at run time: loaded beside the network at work, and taken over when they are ready.

A service that is to set ``weights`` first waits, as a coroutine of the executor, for a thread that
loads them. Only then are the parameters set, and the node takes what was loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from tc_depth_ros.pipeline import DepthPipeline, PipelineConfig
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_ros.ros.lifecycle import ServiceCallback
from tc_depth_ros.ros.parameters import NodeConfig, read


@dataclass(frozen=True)
class Loaded:
    """What came of loading weights."""

    weights: str  # as the parameter has it
    outcome: DepthPipeline | Exception


def load_pipeline(node: Node, changes: Mapping[str, Any] | None = None) -> DepthPipeline:
    """
    Load the weights that the node's parameters name, and warm up.

    :param changes: values of parameters by name that are to replace the node's own
    :raises ValueError: weights that cannot be used, or parameters that do not go together
    :raises Exception: what the device raises
    """
    config, pipeline_config = read(node, NodeConfig, changes), read(node, PipelineConfig, changes)
    weights = Path(config.weights) if config.weights else DEFAULT_WEIGHTS
    predictor = DepthPredictor.from_weights(
        weights, config.device, pipeline_config.predictor, config.precision
    )
    pipeline = DepthPipeline(predictor, pipeline_config)
    pipeline.warm_up()
    precision = predictor.precision
    if precision.note:
        node.get_logger().warning(precision.note)
    metric = 'metric' if predictor.info.metric else 'of unknown scale'
    node.get_logger().info(
        f'loaded {weights.name} on {predictor.device} in {precision.name}; depth is {metric}'
    )
    return pipeline


class WeightsSwap:
    """Has new weights ready before the parameter is set to them."""

    def __init__(
        self, node: Node, group: CallbackGroup, is_configured: Callable[[], bool]
    ) -> None:
        """
        Let the node's services that set parameters load weights first.

        :param group: of the callbacks that go on while such a service waits
        :param is_configured: whether a pipeline is at work; else new weights need not be loaded
        """
        self._node = node
        self._is_configured = is_configured
        self._loaded: Loaded | None = None  # waits to be taken
        self._wake = node.create_guard_condition(lambda: None, group)
        for service in node.services:
            if service.srv_type in (SetParameters, SetParametersAtomically):
                service.callback = self._load_before(service.callback)

    def take(self, changes: Mapping[str, Any]) -> DepthPipeline:
        """
        Take the pipeline that a service has loaded, or load one now; raises as load_pipeline does.

        :param changes: values by name that are about to be set, that of ``weights`` among them
        """
        loaded, self._loaded = self._loaded, None
        if loaded is None or loaded.weights != changes['weights']:
            return load_pipeline(self._node, changes)
        if isinstance(loaded.outcome, Exception):
            raise loaded.outcome
        return loaded.outcome

    def _load_before(self, set_parameters: ServiceCallback) -> ServiceCallback:
        async def loading(request: Any, response: Any) -> Any:
            weights = [p.value.string_value for p in request.parameters if p.name == 'weights']
            if weights and self._is_configured():
                self._loaded = await self._load_beside(weights[-1])
            return set_parameters(request, response)

        return loading

    def _load_beside(self, weights: str) -> Future:
        """Load in a thread of its own; the future gives what came of it, Loaded."""
        future = Future(executor=self._node.executor)

        def load() -> None:
            try:
                loaded = Loaded(weights, load_pipeline(self._node, {'weights': weights}))
            except Exception as error:  # raised where the parameters are set
                loaded = Loaded(weights, error)
            future.set_result(loaded)
            self._wake.trigger()  # or the executor would not look at the future until an image

        threading.Thread(target=load, name='tc_depth_loader', daemon=True).start()
        return future
