"""One training run: every setting, its default and its bounds; config_file.py reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tc_depth_ros.network.config import (
    MONODEPTH,
    MONODEPTH2,
    PAPER,
    SMALL,
    DepthConfig,
    MatchingConfig,
)
from tc_depth_training.data.augmentation import ColourJitter
from tc_depth_training.data.stretch import Stretch, StretchError
from tc_depth_training.data.topics import check_depth_topics
from tc_depth_training.losses.objective import ObjectiveConfig
from tc_depth_training.usage import UsageError, presets


class ConfigError(UsageError):
    """A configuration that cannot be used; lists every mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


def _disagreement(message: str, fields: tuple[str, ...]) -> PydanticCustomError:
    """Settings that do not go together; their names tell the reader of a file where they stand."""
    return PydanticCustomError('disagreement', message, {'fields': fields})


class DataConfig(_Section):
    """What a window of frames is."""

    height: Annotated[int, Field(ge=32, multiple_of=8)] = 192  # pixels, of the network
    width: Annotated[int, Field(ge=32, multiple_of=8)] = 256
    time_steps_s: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        0.1,
        0.17,
    )
    # Empty: the only camera of each bag. Else every bag gives one recording for each of these
    # topics that it has
    image_topics: tuple[str, ...] = ()
    camera_info_topic: str = ''  # empty: the one beside the images
    odometry_topic: str = ''  # empty: the only one, if there is one; none: go without
    # Measured depth, never learned from: it says which weights are best, and their scale
    depth_topic: str = ''  # empty: the one registered to the camera, if any; none: go without
    lidar_topic: str = ''  # empty: the only one, if there is no such depth; none: go without
    # Seconds since a bag's first image; what is outside is not used. BAG@START:END goes before
    start_s: float = 0.0
    end_s: float | None = None  # itself left out; None: to the end
    # Depth topics whose depth is learned from, as that of rendered bags; empty: none
    learned_depth_topics: tuple[str, ...] = ()
    cache: Literal['disk', 'ram', 'none'] = 'disk'  # where decoded frames are kept
    cache_dir: str = ''  # empty: tc_depth in the user's cache folder
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read windows; 0 is fastest from disk
    start_method: Literal['', 'fork', 'forkserver', 'spawn'] = ''  # of workers; empty: Python's

    @model_validator(mode='after')
    def _check(self) -> DataConfig:
        try:
            check_depth_topics(self.depth_topic, self.lidar_topic)
        except ValueError as error:
            raise _disagreement(str(error), ('depth_topic', 'lidar_topic')) from error
        try:
            _ = self.stretch
        except StretchError as error:
            raise _disagreement(str(error), ('start_s', 'end_s')) from error
        return self

    @property
    def stretch(self) -> Stretch:
        """What is used of each bag that has no stretch of its own."""
        return Stretch(self.start_s, self.end_s)


class ValidationConfig(_Section):
    """What is held out to find the best weights."""

    share: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of each recording's time; 0: nothing
    block_s: Annotated[float, Field(gt=0)] = 10.0  # at most, of one stretch held out
    every_steps: Annotated[int, Field(ge=1)] = 500
    max_windows: Annotated[int, Field(ge=1)] = 256  # judged each time, evenly spread
    # Stop after so many validations without a better one; None: never
    patience: Annotated[int, Field(ge=1)] | None = 10


class WatchConfig(_Section):
    """What a run shows on the way."""

    tensorboard: bool = True  # where it is installed
    pictures_every_steps: Annotated[int, Field(ge=1)] = 500


class NetworkConfig(_Section):
    """Which network, and where it starts from."""

    name: Literal['small', 'paper', 'monodepth', 'monodepth2'] = 'small'
    temporal: Literal['window', 'causal'] = 'window'
    spatial_attention: bool = True
    temporal_attention: bool = True
    matching: bool = False  # with the past, along the epipolar line, by the camera's motion
    imagenet: bool = True  # encoders from ImageNet, where they are EfficientNet-lite0
    # Depth that an untrained network answers everywhere; in metres where poses are metric. A
    # start far from the scene's depth warps everything out of view.
    initial_depth: Annotated[float, Field(gt=0.1, lt=100)] | None = 3.0  # None: as it comes

    def structure(self) -> DepthConfig:
        """Build the network's configuration."""
        single_frame = {'monodepth': MONODEPTH, 'monodepth2': MONODEPTH2}
        if self.name in single_frame:
            return single_frame[self.name]
        return replace(
            PAPER if self.name == 'paper' else SMALL,
            temporal=self.temporal,
            spatial_attention=self.spatial_attention,
            temporal_attention=self.temporal_attention,
            matching=MatchingConfig() if self.matching else None,
        )


SINGLE_FRAME_NETWORKS = ('monodepth', 'monodepth2')


class TrainingConfig(_Section):
    """One training run."""

    preset: str = 'small'  # what all that is not given was taken from
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: ObjectiveConfig = ObjectiveConfig()
    colour: ColourJitter = ColourJitter()
    validation: ValidationConfig = ValidationConfig()
    watch: WatchConfig = WatchConfig()
    # Weights file to start from; 'default' is the embedded model; empty: ImageNet or nothing
    init: str = ''
    # Whose motion the losses use: a network's, the bag's, or the bag's where it fits the images,
    # from which a network learns that is used where it does not
    pose: Literal['learned', 'odometry', 'both'] = 'learned'
    # What learns: all; or matching alone, on top of the weights of init
    learns: Literal['all', 'matching'] = 'all'
    # Learn a factor of K's focal length too, for a CameraInfo that is only roughly right
    fit_focal_length: bool = False
    # Weights file, or folder of a run with save_every_epoch; empty: no motion consistency
    teacher: str = ''
    teacher_epochs: Annotated[int, Field(ge=1)] = 20  # the first, in which it is heard
    steps: Annotated[int, Field(ge=1)] | None = 2000
    epochs: Annotated[int, Field(ge=1)] | None = None  # in place of steps
    save_every_epoch: bool = False
    save_every_steps: Annotated[int, Field(ge=1)] = 200  # the state that --resume goes on from
    batch_size: Annotated[int, Field(ge=1)] = 4  # windows of a step, over all processes
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    schedule: Literal['cosine', 'step'] = 'cosine'
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = (15, 20)  # epochs, of schedule: step
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.25  # of the learning rate, at each milestone
    warm_up_steps: Annotated[int, Field(ge=0)] = 50
    gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0  # None: not clipped
    # Whose frame is rebuilt from the others: any, or the one in the middle alone
    target: Literal['random', 'centre'] = 'random'
    # Share of the steps that show the network its target alone, as it is at start or after a gap
    single_frame_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Running mean of the weights, which is what is written; None: the weights as they are
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = 'auto'
    # Of the networks; the losses are float32 always. auto: half precision on CUDA
    precision: Literal['auto', 'float32', 'bfloat16', 'float16'] = 'auto'

    @field_validator('preset')
    @classmethod
    def _is_there(cls, preset: str) -> str:
        if preset not in presets():
            raise ValueError(f'unknown; there are {", ".join(presets())}')
        return preset

    @model_validator(mode='before')
    @classmethod
    def _let_epochs_replace_steps(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {'steps': None, **values} if values.get('epochs') is not None else values

    @model_validator(mode='before')
    @classmethod
    def _suit_single_frames(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A network of single frames is trained as Monodepth2 is, unless told otherwise."""
        network, loss = (values.get(key) or {} for key in ('network', 'loss'))
        if isinstance(network, dict) and network.get('name') in SINGLE_FRAME_NETWORKS:
            suited = {'single_frame_share': 0.0, **values}
            if isinstance(loss, dict):
                suited['loss'] = {'geometric_weight': 0.0, **loss}
            return suited
        return values

    @model_validator(mode='after')
    def _check(self) -> TrainingConfig:
        if self.fit_focal_length and self.pose == 'learned':
            raise _disagreement(
                'fit_focal_length needs pose: odometry, or nothing fixes the rotation',
                ('fit_focal_length', 'pose'),
            )
        if self.learns == 'matching' and not (self.network.matching and self.init):
            raise _disagreement(
                'learns: matching needs network.matching: true and init, the weights to build on',
                ('learns', 'network', 'init'),
            )
        if self.data.learned_depth_topics and self.pose == 'learned':
            raise _disagreement(
                'data.learned_depth_topics is depth in metres: it needs pose: odometry or both',
                ('data', 'pose'),
            )
        if 0 not in self.loss.scales:
            raise _disagreement(
                f'loss.scales {list(self.loss.scales)} should hold 0, the size that depth is '
                'asked for',
                ('loss',),
            )
        if (self.steps is None) == (self.epochs is None):
            raise _disagreement(
                f'steps {self.steps} and epochs {self.epochs}: give one of the two',
                ('steps', 'epochs'),
            )
        return self


def flat_settings(config: BaseModel) -> dict[str, Any]:
    """Every setting by its dotted key, as ``data.height``, in the order of the models."""
    flat: dict[str, Any] = {}
    for key, value in config:
        if isinstance(value, BaseModel):
            flat |= {f'{key}.{below}': inner for below, inner in flat_settings(value).items()}
        else:
            flat[key] = value
    return flat


def differences(a: TrainingConfig, b: TrainingConfig) -> list[str]:
    """Dotted keys of the settings that differ."""
    ours, theirs = flat_settings(a), flat_settings(b)
    return [key for key in ours if ours[key] != theirs[key]]
