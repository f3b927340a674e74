"""One training step: networks -> poses -> objective. One module with one forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.matching import Match, MatchView
from tc_depth_ros.network.output import DepthOutput
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.data.windows import Batch
from tc_depth_training.losses.matching import Matched, disturbed, inexact
from tc_depth_training.losses.objective import Objective, ObjectiveConfig, objective
from tc_depth_training.losses.pose import pose_loss
from tc_depth_training.losses.rebuilding import SourceView

PoseSource = Literal['learned', 'odometry', 'both']
Learns = Literal['all', 'matching']


def scale_focal_length(K: Tensor, factor: Tensor | float) -> Tensor:
    """K (B, 3, 3) with its focal lengths multiplied by a factor, or by one for each, (B,)."""
    scale = torch.ones_like(K)
    scale[:, 0, 0] = scale[:, 1, 1] = factor
    return K * scale


class FocalFactor(nn.Module):
    """
    A factor of each recording's focal length, learned with the depth.

    With poses given, a rotation moves the image by the focal length alone, whatever the depth: a
    CameraInfo that is off by some percent shows, and would otherwise be explained by wrong depth.
    """

    def __init__(self, recordings: int) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.zeros(recordings))

    @classmethod
    def of(cls, factors: Sequence[float]) -> FocalFactor:
        """The factors that are known already, one for each recording."""
        known = cls(len(factors))
        known.begin_at(factors)
        return known

    def begin_at(self, factors: Sequence[float]) -> None:
        """Learn on from these factors, one for each recording."""
        with torch.no_grad():
            self.log_factor.copy_(torch.tensor(factors).log())

    def factors(self) -> list[float]:
        """Focal length found over the focal length given, of each recording."""
        return [round(float(x), 4) for x in self.log_factor.detach().exp()]

    def forward(self, K: Tensor, recording: Tensor) -> Tensor:
        """K (B, 3, 3) with its focal lengths scaled by the factors of its recordings (B,)."""
        return scale_focal_length(K, self.log_factor[recording].exp())


class TrainingModel(nn.Module):
    """The networks that learn and the loss that they learn from."""

    def __init__(
        self,
        network: DepthNetwork,
        pose_net: PoseNet | None,
        objective_config: ObjectiveConfig,
        pose: PoseSource = 'learned',
        focal_factor: FocalFactor | None = None,
        network_dtype: torch.dtype = torch.float32,
        learns: Learns = 'all',
    ) -> None:
        """
        Join networks and loss; heads that the loss does not use are frozen.

        :param pose: whose motion the losses use: the pose network's; the bag's, windows without
            which are left out; or the bag's, from which the pose network learns, and the pose
            network's where the bag has none
        :param network_dtype: that the networks compute in; what they answer, and all losses, are
            float32
        :param learns: 'matching' leaves all but the matching as it is
        :raises ValueError: the parts do not go together
        """
        super().__init__()
        if (pose_net is None) != (pose == 'odometry'):
            has = 'no pose network' if pose_net is None else 'a pose network'
            raise ValueError(f'pose is {pose}, but there is {has}')
        freeze_unused_heads(network, objective_config.scales)
        self.network = network
        self.pose_net = pose_net
        self.pose: PoseSource = pose
        self.focal_factor = focal_factor
        self.network_dtype = network_dtype
        self.learns: Learns = learns
        self._objective_config = objective_config
        if learns == 'matching':
            self._freeze_all_but_matching()

    def train(self, mode: bool = True) -> TrainingModel:
        """Switch to training; what does not learn stays as it is, BatchNorm's means too."""
        super().train(mode)
        if self.learns == 'matching':
            self._matcher().train(mode)
            for module in (*self.network.children(), self.pose_net):
                if module is not None and module is not self._matcher():
                    module.eval()
        return self

    def forward(
        self,
        batch: Batch,
        shown: Tensor,
        target_index: int,
        single_frame: bool,
        teacher_depth: Tensor | None = None,
    ) -> Objective:
        """
        Loss of a batch.

        :param shown: the images as the networks see them, colours varied, (B, F, 3, H, W)
        :param target_index: the frame rebuilt from the others; any of them, so that a network
            that will be asked for the newest frame learns that too
        :param single_frame: show the target's neighbours as copies of the target
        :param teacher_depth: of the target, (B, 1, H, W); None: no motion consistency
        """
        objective_config = self._objective_config
        if single_frame:
            # The sources' own depths are not predicted then: nothing to compare with
            objective_config = objective_config.model_copy(update={'geometric_weight': 0.0})
        with torch.autocast(shown.device.type, enabled=False):
            output = self._predict(shown, batch.K, target_index if single_frame else None)
            sources, pose = self._sources(batch, shown, target_index)
            config = self.network.config
            # The network keeps the K that it will be given at run time; only the losses see the
            # other
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
                self._usable(batch),
                pose,
                self._match(batch, output, target_index, sources, K, single_frame),
                batch.depth[:, target_index, None].float() if batch.depth.numel() else None,
            )

    def predict(self, images: Tensor, K: Tensor) -> DepthOutput:
        """Depth of all frames (B, F, 3, H, W) of windows, by the networks' precision, float32."""
        with self._networks(images):
            output = self.network(images, K)
        coarse = output.coarse_inverse_depth
        return DepthOutput(
            tuple(disparity.float() for disparity in output.disparities),
            None if coarse is None else coarse.float(),
            output.match_inputs,
        )

    def _match(
        self,
        batch: Batch,
        output: DepthOutput,
        target: int,
        sources: Sequence[SourceView],
        K: Tensor,
        single_frame: bool,
    ) -> Matched | None:
        """
        Match the target with the other frames; None: the network does not match.

        Where the target is shown alone, its copies do not show the window's motion: that motion
        counts as wrong.
        """
        if output.match_inputs is None:
            return None
        known = batch.posed if self.pose == 'odometry' else torch.ones_like(batch.posed)
        known = known & (not single_frame)
        motions = [source.source_T_target.detach() for source in sources]
        shown, right = motions, known
        if self.training:
            config = self._objective_config
            shown = inexact(motions, config.inexact_motion_share)
            shown, right = disturbed(shown, config.wrong_motion_share, known)
        others = [source.index for source in sources]
        corrected, match = self._match_frame(
            output, target, dict(zip(others, shown, strict=True)), K
        )
        first, *rest = zip(others, motions, strict=True)
        target_T_first = invert_transform(first[1])
        seen_from_first = {target: target_T_first, **{s: T @ target_T_first for s, T in rest}}
        source, _ = self._match_frame(output, first[0], seen_from_first, K)
        return Matched(corrected, match.log_factor.float(), right, source)

    def _match_frame(
        self, output: DepthOutput, index: int, motions: Mapping[int, Tensor], K: Tensor
    ) -> tuple[Tensor, Match]:
        """
        Match one frame of a window with others.

        :param motions: ``other_T_frame`` by the other's index, (B, 4, 4)
        :return: its disparity (B, 1, H, W), and the match
        """
        inputs = output.match_inputs
        assert isinstance(self.network, TCDepth) and inputs is not None
        views = [MatchView(inputs.features[:, i], motion) for i, motion in motions.items()]
        features, context = inputs.features[:, index], inputs.context[:, index]
        disparity = output.disparities[0][:, index].detach()
        with self._networks(disparity):
            corrected, match = self.network.match(disparity, features, context, views, K.detach())
        return corrected.float(), match

    def _matcher(self) -> nn.Module:
        assert isinstance(self.network, TCDepth)
        assert self.network.matcher is not None
        return self.network.matcher

    def _freeze_all_but_matching(self) -> None:
        if not isinstance(self.network, TCDepth) or self.network.matcher is None:
            raise ValueError('learns is matching, but the network does not: set network.matching')
        self.requires_grad_(False)
        self._matcher().requires_grad_(True)

    @torch.no_grad()
    def answer(self, batch: Batch, target: int) -> Tensor:
        """Disparity (B, 1, H, W) of one frame of windows: matched, if the network matches."""
        output = self.predict(batch.images, batch.K)
        if output.match_inputs is None:
            return output.disparities[0][:, target]
        sources, _ = self._sources(batch, batch.images, target)
        motions = {source.index: source.source_T_target for source in sources}
        disparity, _ = self._match_frame(output, target, motions, batch.K)
        return disparity

    def learned_motion(self, images: Tensor, target: int, source: int) -> Tensor:
        """``source_T_target`` (B, 4, 4) by the pose network, in its unit."""
        assert self.pose_net is not None
        with self._networks(images):
            return self.pose_net.between(images, target, source)

    def _predict(self, shown: Tensor, K: Tensor, alone: int | None) -> DepthOutput:
        """:param alone: frame to be shown in place of all others; None: each as it is"""
        if alone is not None:
            shown = shown[:, alone : alone + 1].expand_as(shown)
        return self.predict(shown, K)

    def _sources(
        self, batch: Batch, shown: Tensor, target: int
    ) -> tuple[list[SourceView], Tensor | None]:
        """The other frames with the motion that the losses use, and the pose network's loss."""
        others = [s for s in range(batch.images.shape[1]) if s != target]
        motions, pose = [], None
        if self.pose != 'learned':
            motions = known = [known_motion(batch, target, s) for s in others]
        if self.pose != 'odometry':
            motions = learned = [self.learned_motion(shown, target, s) for s in others]
        if self.pose == 'both':
            pose = pose_loss(learned, known, batch.posed)
            posed = batch.posed[:, None, None]
            motions = [torch.where(posed, a, b) for a, b in zip(known, learned, strict=True)]
        views = zip(others, motions, strict=True)
        return [SourceView(batch.images[:, s], s, motion) for s, motion in views], pose

    def _usable(self, batch: Batch) -> Tensor | None:
        """Pixels to learn from, 1 = usable, (B, 1, H, W); None: all, which is the usual case."""
        usable = batch.seen
        if self.pose == 'odometry':
            usable = usable & batch.posed[:, None, None, None]
        # One wait for a GPU that has, at the start of a step, nothing of this step to do yet
        return None if bool(usable.all()) else usable.to(batch.images.dtype)

    def _networks(self, images: Tensor) -> torch.autocast:
        reduced = self.network_dtype != torch.float32
        return torch.autocast(images.device.type, self.network_dtype, enabled=reduced)


def known_motion(batch: Batch, target: int, source: int) -> Tensor:
    """``source_T_target`` (B, 4, 4) by the bag's odometry; the identity where it has none."""
    world_T_camera = batch.world_T_camera
    motion = invert_transform(world_T_camera[:, source]) @ world_T_camera[:, target]
    still = torch.eye(4, dtype=motion.dtype, device=motion.device)
    return torch.where(batch.posed[:, None, None], motion, still)


def freeze_unused_heads(network: DepthNetwork, scales: Sequence[int]) -> None:
    """
    Let the disparity heads of other scales learn nothing; every other parameter has a gradient.

    DistributedDataParallel waits for the gradient of all that may learn.
    """
    for scale, head in enumerate(network.decoder.disparity):
        if scale not in scales:
            head.requires_grad_(False)
