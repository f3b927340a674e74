"""What a network is made of: the two named configurations and everything they may vary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

EncoderName = Literal['drn_c_26', 'efficientnet_lite0']
PyramidName = Literal['resnet18', 'efficientnet_lite0']  # encoders down to 1/32
TemporalMode = Literal['window', 'causal']

# The paper's K in units of the image: fx / width, fy / height, cx / width, cy / height (SPEC 1.3)
KITTI_ATTENTION_INTRINSICS = (0.58, 1.92, 0.5, 0.5)


def _check_range(min_depth: float, max_depth: float) -> None:
    if not 0 < min_depth < max_depth:
        raise ValueError(
            f'min_depth {min_depth} and max_depth {max_depth} must satisfy '
            '0 < min_depth < max_depth'
        )


@dataclass(frozen=True)
class MatchingConfig:
    """How the target is matched with keyframes along the epipolar line; see matching.py."""

    channels: int = 16  # of the matching features at 1/4
    hypotheses: int = 32  # depths tried in each cell
    max_factor: float = 3.0  # between the single frame's depth and the farthest tried
    hidden: int = 32  # channels that look at the volume
    views: int = 2  # keyframes matched with, at most

    def __post_init__(self) -> None:
        """Refuse values that no volume can be built from."""
        if self.channels < 1 or self.hidden < 2 or self.hypotheses < 2 or self.views < 1:
            raise ValueError(
                f'matching has channels {self.channels}, hidden {self.hidden}, hypotheses '
                f'{self.hypotheses} and views {self.views}; the least are 1, 2, 2 and 1'
            )
        if not self.max_factor > 1:
            raise ValueError(f'matching.max_factor is {self.max_factor}; it must be above 1')


@dataclass(frozen=True)
class TCDepthConfig:
    """
    Structure of the depth network.

    ``temporal`` says what past frames show to the deeper attention blocks: ``window`` (the
    paper's) recomputes them with every new frame, ``causal`` keeps what they were when newest.
    ``attention_intrinsics`` replaces the camera's K inside the spatial attention, in units of the
    image size; weights imported from the authors need it, since they were trained so. Either
    attention can be left out, to see what it is worth.
    """

    model: ClassVar[str] = 'tc_depth'

    encoder: EncoderName = 'efficientnet_lite0'
    channels: int = 128  # of the attended features at 1/8
    key_channels: int = 64  # of the temporal attention
    blocks: int = 1  # spatial + temporal attention, in series
    coarse_channels: int = 128  # hidden, of the coarse depth head
    coarse_bins: int = 256  # linear in inverse depth
    decoder_channels: tuple[int, int, int, int] = (16, 32, 64, 96)  # at 1/1, 1/2, 1/4, 1/8
    min_depth: float = 0.1  # network units (metres once trained with metric poses)
    max_depth: float = 100.0
    kernel_sigma: float = 0.25  # network units; the kernel is exp(-distance / (2 sigma))
    temporal: TemporalMode = 'window'
    attention_intrinsics: tuple[float, float, float, float] | None = None
    spatial_attention: bool = True
    temporal_attention: bool = True
    matching: MatchingConfig | None = None  # None: as the paper, the camera's motion is not used

    def __post_init__(self) -> None:
        """Refuse values that no network can be built from."""
        _check_range(self.min_depth, self.max_depth)
        if self.blocks < 1:
            raise ValueError(f'blocks is {self.blocks}; at least 1 attention block is needed')
        if self.kernel_sigma <= 0:
            raise ValueError(f'kernel_sigma is {self.kernel_sigma}; it must be positive')


@dataclass(frozen=True)
class MonodepthConfig:
    """Structure of the single-frame network that teaches; see monodepth.py."""

    model: ClassVar[str] = 'monodepth'

    encoder: PyramidName = 'efficientnet_lite0'
    # at 1/1, 1/2, 1/4, 1/8, 1/16
    decoder_channels: tuple[int, int, int, int, int] = (16, 32, 64, 128, 256)
    min_depth: float = 0.1
    max_depth: float = 100.0

    def __post_init__(self) -> None:
        """Refuse an empty range of depths."""
        _check_range(self.min_depth, self.max_depth)


DepthConfig = TCDepthConfig | MonodepthConfig


def depth_config_to_dict(config: DepthConfig) -> dict[str, Any]:
    """Plain values for JSON, and which model they are of."""
    return {'model': config.model, **asdict(config)}


def depth_config_from_dict(values: dict[str, Any]) -> DepthConfig:
    """Build from parsed JSON, whose lists become tuples; unknown keys raise TypeError."""
    frozen: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    # Files written when there was one model do not name it
    model = frozen.pop('model', TCDepthConfig.model)
    if model not in MODELS:
        raise ValueError(f"model is '{model}'; it must be one of {', '.join(MODELS)}")
    if frozen.get('matching') is not None:
        frozen['matching'] = MatchingConfig(**frozen['matching'])
    return MODELS[model](**frozen)


@dataclass(frozen=True)
class PoseNetConfig:
    """Structure of the pose network."""

    encoder: PyramidName = 'efficientnet_lite0'


PAPER = TCDepthConfig(
    encoder='drn_c_26',
    channels=512,
    blocks=3,
    coarse_channels=256,
    decoder_channels=(16, 32, 64, 128),
)
SMALL = TCDepthConfig()
MONODEPTH = MonodepthConfig()
# The structure of Monodepth2 (Godard et al., ICCV 2019), the paper's teacher
MONODEPTH2 = MonodepthConfig(encoder='resnet18')
MODELS: dict[str, type[DepthConfig]] = {c.model: c for c in (TCDepthConfig, MonodepthConfig)}
