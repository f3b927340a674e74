"""How the frames of a robot stand to each other, from /tf_static and /tf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.quaternion import pose_matrix


@dataclass(frozen=True)
class Link:
    """How a child stands on its parent."""

    parent: str
    child: str
    parent_T_child: NDArray[np.float64] | None  # (4, 4); None: only /tf has it, and it may move

    @property
    def moves(self) -> bool:
        """Whether where it stands is a question of time."""
        return self.parent_T_child is None

    def __str__(self) -> str:
        """For people."""
        return f'{self.parent} -> {self.child}'


@dataclass(frozen=True)
class Chain:
    """The links between a target frame and a source frame, which meet at a common ancestor."""

    to_target: tuple[Link, ...] = ()  # from the target up to where they meet
    to_source: tuple[Link, ...] = ()  # from there down to the source

    @property
    def moving(self) -> tuple[Link, ...]:
        """Those that move, in this order."""
        return tuple(link for link in self.to_target + self.to_source if link.moves)

    def transform(self, moving: Sequence[NDArray[np.float64]] = ()) -> NDArray[np.float64]:
        """
        Transform ``target_T_source``, (4, 4).

        :param moving: parent_T_child of each link that moves, at one time, (4, 4)
        """
        moved = iter(moving)
        target_T_source = np.eye(4)
        for link in self.to_target:
            target_T_source = target_T_source @ np.linalg.inv(_at(link, moved))
        for link in self.to_source:
            target_T_source = target_T_source @ _at(link, moved)
        return target_T_source


def _at(link: Link, moved: Iterator[NDArray[np.float64]]) -> NDArray[np.float64]:
    return next(moved) if link.parent_T_child is None else link.parent_T_child


class TransformTree:
    """The links of a bag as they become known, by tf2_msgs/TFMessage-shaped objects."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}  # by child

    def add_constant(self, message: Any) -> None:
        """Take a message of /tf_static; a later transform replaces an earlier."""
        for stamped in message.transforms:
            shift, turn = stamped.transform.translation, stamped.transform.rotation
            parent_T_child = pose_matrix(
                np.array([shift.x, shift.y, shift.z]), np.array([turn.x, turn.y, turn.z, turn.w])
            )
            parent, child = ends(stamped)
            self._links[child] = Link(parent, child, parent_T_child)

    def add_moving(self, message: Any) -> None:
        """Take a message of /tf: it links what nothing linked before."""
        for stamped in message.transforms:
            parent, child = ends(stamped)
            self._links.setdefault(child, Link(parent, child, None))

    def chain(self, target: str, source: str) -> Chain | None:
        """Find the links from a target to a source frame; None where nothing links the two."""
        above_target, above_source = self._above(target), self._above(source)
        meeting = next((frame for frame in above_target if frame in above_source), None)
        if meeting is None:
            return None
        up = above_target[: above_target.index(meeting)]
        down = above_source[: above_source.index(meeting)][::-1]
        return Chain(
            tuple(self._links[frame] for frame in up), tuple(self._links[frame] for frame in down)
        )

    def listed(self, moves: bool) -> str:
        """List the links that move, or those that do not, for a message."""
        return ', '.join(str(x) for x in self._links.values() if x.moves == moves) or 'nothing'

    def _above(self, frame: str) -> list[str]:
        """A frame, its parent, and so on."""
        frames = [frame.lstrip('/')]
        # A loop is no tree, but a bag may hold one; each frame is passed once
        while (link := self._links.get(frames[-1])) and link.parent not in frames:
            frames.append(link.parent)
        return frames


def ends(stamped: Any) -> tuple[str, str]:
    """Parent and child of a geometry_msgs/TransformStamped-shaped object."""
    return stamped.header.frame_id.lstrip('/'), stamped.child_frame_id.lstrip('/')
