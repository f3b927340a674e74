"""How the frames of a robot stand to each other, from /tf_static."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.quaternion import pose_matrix


@dataclass(frozen=True)
class StaticTransforms:
    """A tree of frames: each child's parent, and parent_T_child."""

    parents: dict[str, str]
    parent_T_child: dict[str, NDArray[np.float64]]  # by child, (4, 4)

    @classmethod
    def from_messages(cls, messages: Iterable[Any]) -> StaticTransforms:
        """Build from tf2_msgs/TFMessage-shaped objects; a later transform replaces an earlier."""
        parents: dict[str, str] = {}
        transforms: dict[str, NDArray[np.float64]] = {}
        for stamped in (t for message in messages for t in message.transforms):
            shift, turn = stamped.transform.translation, stamped.transform.rotation
            child = stamped.child_frame_id.lstrip('/')
            parents[child] = stamped.header.frame_id.lstrip('/')
            transforms[child] = pose_matrix(
                np.array([shift.x, shift.y, shift.z]), np.array([turn.x, turn.y, turn.z, turn.w])
            )
        return cls(parents, transforms)

    def between(self, target: str, source: str) -> NDArray[np.float64] | None:
        """Transform ``target_T_source``, (4, 4); None where no chain links the two frames."""
        root_of_target, root_T_target = self._to_root(target)
        root_of_source, root_T_source = self._to_root(source)
        if root_of_target != root_of_source:
            return None
        return np.asarray(np.linalg.inv(root_T_target) @ root_T_source)

    def links(self) -> str:
        """List the links, for a message."""
        pairs = [f'{parent} -> {child}' for child, parent in self.parents.items()]
        return ', '.join(pairs) or 'nothing'

    def _to_root(self, frame: str) -> tuple[str, NDArray[np.float64]]:
        frame, transform, walked = frame.lstrip('/'), np.eye(4), set[str]()
        # A loop is no tree, but a bag may hold one; each frame is passed once
        while frame in self.parents and frame not in walked:
            walked.add(frame)
            transform = self.parent_T_child[frame] @ transform
            frame = self.parents[frame]
        return frame, transform
