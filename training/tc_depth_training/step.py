"""One training step: networks -> poses -> objective. One module with one forward."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.pose import PoseNet
from tc_depth_training.data.augmentation import ColourJitter, flip, jitter_colours
from tc_depth_training.data.windows import Batch
from tc_depth_training.losses.objective import (
    Objective,
    ObjectiveConfig,
    SourceView,
    objective,
)


class FocalFactor(nn.Module):
    """
    A factor of each recording's focal length, learned with the depth.

    With poses given, a rotation moves the image by the focal length alone, whatever the depth: a
    CameraInfo that is off by some percent shows, and would otherwise be explained by wrong depth.
    """

    def __init__(self, recordings: int) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.zeros(recordings))

    def factors(self) -> list[float]:
        """Focal length found over the focal length given, of each recording."""
        return [round(float(x), 4) for x in self.log_factor.detach().exp()]

    def forward(self, K: Tensor, recording: Tensor) -> Tensor:
        """K (B, 3, 3) with its focal lengths scaled by the factors of its recordings (B,)."""
        scale = torch.ones_like(K)
        scale[:, 0, 0] = scale[:, 1, 1] = self.log_factor[recording].exp()
        return K * scale


class TrainingModel(nn.Module):
    """The networks that learn and the loss that they learn from."""

    def __init__(
        self,
        network: DepthNetwork,
        pose_net: PoseNet | None,
        objective_config: ObjectiveConfig,
        focal_factor: FocalFactor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.pose_net = pose_net
        self.focal_factor = focal_factor
        self._objective_config = objective_config

    def forward(
        self,
        batch: Batch,
        seen: Tensor,
        target_index: int,
        single_frame: bool,
        teacher_depth: Tensor | None = None,
    ) -> Objective:
        """
        Loss of a batch.

        :param seen: the images as the networks see them, colours varied, (B, F, 3, H, W)
        :param target_index: the frame rebuilt from the others; any of them, so that a network
            that will be asked for the newest frame learns that too
        :param single_frame: show the target's neighbours as copies of the target
        :param teacher_depth: of the target, (B, 1, H, W); None: no motion consistency
        """
        shown, objective_config = seen, self._objective_config
        if single_frame:
            shown = seen[:, target_index : target_index + 1].expand_as(seen)
            # The sources' own depths are not predicted then: nothing to compare with
            objective_config = objective_config.model_copy(update={'geometric_weight': 0.0})
        output = self.network(shown, batch.K)
        sources = [
            SourceView(batch.images[:, s], s, self._source_T_target(batch, seen, target_index, s))
            for s in range(batch.images.shape[1])
            if s != target_index
        ]
        config = self.network.config
        # The network keeps the K that it will be given at run time; only the losses see the other
        K = batch.K
        if self.focal_factor is not None:
            K = self.focal_factor(K, batch.recording)
        return objective(
            output,
            batch.images[:, target_index],
            target_index,
            sources,
            K,
            (config.min_depth, config.max_depth),
            objective_config,
            teacher_depth,
        )

    def _source_T_target(self, batch: Batch, seen: Tensor, target: int, source: int) -> Tensor:
        if self.pose_net is not None:
            return self.pose_net.between(seen, target, source)
        if batch.world_T_camera is None:
            raise ValueError('pose is odometry, but the windows have no poses')
        world_T_camera = batch.world_T_camera
        return invert_transform(world_T_camera[:, source]) @ world_T_camera[:, target]


def augmented(batch: Batch, colour: ColourJitter, generator: Generator) -> tuple[Batch, Tensor]:
    """Mirror half of the batches; return them with their images in varied colours."""
    if torch.rand((), generator=generator) < 0.5:
        batch = flip(batch)
    return batch, jitter_colours(batch.images, colour, generator)
