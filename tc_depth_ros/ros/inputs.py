"""The node's subscriptions: images, each with the CameraInfo that it goes with; and odometry."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from tc_depth_ros.frames.camera_info import CameraInfoBuffer
from tc_depth_ros.frames.frame import stamp_ns


@dataclass(frozen=True)
class Arrival:
    """An image that came in, with the intrinsics it goes with."""

    image: Image | CompressedImage
    camera_info: CameraInfo
    arrived_s: float  # monotonic


@dataclass(frozen=True)
class Listener:
    """Who is told of what comes in."""

    received: Callable[[], None]  # an image, whatever becomes of it
    arrived: Callable[[Arrival], None]
    dropped: Callable[[str], None]  # an image, and the cause
    complain: Callable[[str], None]  # what is missing, and the remedy
    odometry: Callable[[Odometry], None]


class Inputs:
    """Subscribes, and pairs images with their CameraInfo."""

    def __init__(
        self,
        subscribe: Callable[[type[Any], str, Callable[[Any], None]], Any],
        unsubscribe: Callable[[Any], object],
        transport: str,
        listener: Listener,
    ) -> None:
        """
        Begin to listen.

        :param subscribe: makes a subscription of a message type, a topic and a callback
        :param unsubscribe: destroys one
        :param transport: 'raw' or 'compressed'
        """
        self._subscribe, self._unsubscribe = subscribe, unsubscribe
        self._listener = listener
        self._follows_odometry = False
        self._infos = CameraInfoBuffer()
        self._early: Image | CompressedImage | None = None  # an image before any CameraInfo
        kind, topic = (
            (CompressedImage, '/compressed') if transport == 'compressed' else (Image, '')
        )
        camera_info = subscribe(CameraInfo, 'camera_info', self._on_camera_info)
        self._camera_info_topic = camera_info.topic_name
        self._subscriptions = [
            camera_info,
            subscribe(kind, f'image{topic}', self._on_image),
        ]

    def follow_odometry(self) -> None:
        """Subscribe the odometry too, if it is not yet."""
        if not self._follows_odometry:
            self._follows_odometry = True
            subscription = self._subscribe(Odometry, 'odom', self._listener.odometry)
            self._subscriptions.append(subscription)

    def close(self) -> None:
        """Stop to listen; an image that still waits for its CameraInfo is dropped."""
        for subscription in self._subscriptions:
            self._unsubscribe(subscription)
        if self._take_early() is not None:
            self._listener.dropped('no camera_info')

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._infos.add(message)
        early = self._take_early()
        if early is not None:
            self._listener.complain('')  # it can only have been the missing CameraInfo
            self._arrive(early, message)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._listener.received()
        info = self._infos.match(stamp_ns(message.header))
        if info is not None:
            self._arrive(message, info)
            return
        replaced, self._early = self._early, message
        if replaced is not None:
            self._listener.dropped('no camera_info')
            self._listener.complain(
                f'images arrive, but no CameraInfo on {self._camera_info_topic}: publish it, or '
                'remap camera_info'
            )

    def _take_early(self) -> Image | CompressedImage | None:
        early, self._early = self._early, None
        return early

    def _arrive(self, image: Image | CompressedImage, info: CameraInfo) -> None:
        self._listener.arrived(Arrival(image, info, time.monotonic()))
