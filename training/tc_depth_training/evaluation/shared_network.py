"""One network for several streams that go through the frames of a sequence in step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from tc_depth_ros.network.build import DepthNetwork

Answer = TypeVar('Answer')
# What a stream asks of either kind of network
ASKED = ('encode', 'attend_window', 'decoder', 'predict')


def share(network: DepthNetwork) -> DepthNetwork:
    """
    Make a copy of a network that remembers its last answers.

    Several streams take each frame in turn. The first one computes, and the others get the same
    answer if they ask for the same. Inputs are compared by their values.

    :return: a network with the same parameters; the one given is not changed
    """
    shared = copy(network)
    asked = (name for name in ASKED if hasattr(network, name))
    vars(shared).update({name: _remembering(getattr(network, name)) for name in asked})
    return shared


def _remembering(function: Callable[..., Answer]) -> Callable[..., Answer]:
    last: tuple[Any, Answer] | None = None

    def answer(*arguments: object, **options: object) -> Answer:
        nonlocal last
        asked = (*arguments, *options.items())
        if last is None or not _same(asked, last[0]):
            last = asked, function(*arguments, **options)
        return last[1]

    return answer


def _same(one: object, other: object) -> bool:
    """Whether two arguments are equal; frames that are encoded are so if they are one object."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (isinstance(one, int | str) and one == other)
