"""Windows of three frames, chosen by time; those left out, and why; and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tc_depth_training.data.cache_files import read_arrays, write_arrays
from tc_depth_training.data.motion import STATIC_FLOW_PX, flows_px
from tc_depth_training.data.recording import Recording

FRAMES = 3
TOLERANCE = 0.25  # of a time step: how far off its time a frame may be
GAP = 1.5  # periods, or time steps where they are longer: this far apart, a sequence ends
FEW_WINDOWS = 1000  # from which a network learns little that holds elsewhere
UNFIT = 0.9  # share of windows without a frame in time, from which a time step does not fit
VERSION = 2  # of how windows are found; part of the name under which they are kept


@dataclass(frozen=True)
class Windows:
    """Windows found in a recording, and why others were left out."""

    indices: NDArray[np.int64]  # (M, 3) into the recording, in time order
    posed: NDArray[np.bool_]  # (M,): the bag knows the poses of all three frames
    static: int = 0  # left out: the camera stood still
    without_pose: int = 0  # left out: no odometry at one of the stamps
    without_frame: int = 0  # left out: no frame near enough to one of its times
    sequences: int = 1  # stretches without a gap

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.indices)

    def joined(self, others: Windows) -> Windows:
        """These, and others of the same recording."""
        indices = np.concatenate([self.indices, others.indices])
        return replace(self, indices=indices, posed=np.concatenate([self.posed, others.posed]))

    def only(self, chosen: NDArray[np.bool_]) -> Windows:
        """The chosen ones, (M,)."""
        return replace(self, indices=self.indices[chosen], posed=self.posed[chosen])


def find_windows(
    recording: Recording,
    time_steps_s: Sequence[float],
    pose_required: bool = False,
    quiet: bool = False,
) -> Windows:
    """
    All windows of three frames that are a time step apart, and of one segment.

    Frames are paired by stamp, so a 30 Hz bag gives the same windows as a 10 Hz one. A window
    whose best frames miss their time by more than a quarter of the step has a gap and is left out.
    What was found once is kept beside the frames.

    :param time_steps_s: between neighbouring frames; each gives windows of its own
    :param pose_required: leave out windows whose motion is not known
    """
    if recording.folder is None:
        return _search(recording, time_steps_s, pose_required, quiet)
    asked = repr((VERSION, tuple(time_steps_s), pose_required, STATIC_FLOW_PX))
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    path = recording.folder / f'windows-{name}.npz'
    kept = read_arrays(path)
    if kept is not None:
        return Windows(kept['indices'], kept['posed'], *kept['counts'].tolist())
    windows = _search(recording, time_steps_s, pose_required, quiet)
    counts = np.array(
        [windows.static, windows.without_pose, windows.without_frame, windows.sequences]
    )
    arrays = {'indices': windows.indices, 'posed': windows.posed, 'counts': counts}
    try:
        write_arrays(path, arrays)
    except OSError as error:  # they are found anew next time
        if not quiet:
            print(f'{recording.name}: its windows cannot be kept: {error}', flush=True)
    return windows


def _search(
    recording: Recording, time_steps_s: Sequence[float], pose_required: bool, quiet: bool
) -> Windows:
    sequence = number_sequences(recording, min(time_steps_s))
    bounds = np.flatnonzero(np.diff(recording.segment, prepend=-1, append=-1))
    candidates, without_frame = [], 0
    for step_s in time_steps_s:
        for start, end in zip(bounds[:-1], bounds[1:], strict=True):
            spaced, missed = _spaced(recording.stamps_ns[start:end], step_s)
            candidates.append(start + spaced)
            without_frame += missed
    indices = np.concatenate(candidates)
    posed: NDArray[np.bool_] = np.zeros(len(indices), dtype=np.bool_)
    if recording.world_T_camera is not None:
        known = np.asarray(np.isfinite(recording.world_T_camera).all(axis=(1, 2)))
        posed = known[indices].all(axis=1)
    usable = posed if pose_required else np.ones_like(posed)
    moving = usable.copy()
    moving[usable] = _moving(recording, indices[usable], quiet)
    return Windows(
        indices[moving],
        posed[moving],
        int((usable & ~moving).sum()),
        int((~usable).sum()),
        without_frame,
        int(sequence[-1]) + 1,
    )


def fitting_time_step(recording: Recording, found: Windows, time_steps_s: Sequence[float]) -> str:
    """Say which time step fits the camera, where those of these windows do not; else nothing."""
    asked = found.without_frame + found.without_pose + found.static + len(found)
    if not asked or found.without_frame < UNFIT * asked:
        return ''
    period_s = recording.period_ns * 1e-9
    step_s = period_s * max(1, round(min(time_steps_s) / period_s))
    return (
        f'the camera of {recording.name} gives a frame every {period_s:.2f} s: a time step that '
        f"fits is --set 'data.time_steps_s=[{step_s:.3g}]'"
    )


def number_sequences(recording: Recording, step_s: float) -> NDArray[np.int64]:
    """Number the stretches without a gap for windows of this time step, (N,)."""
    longest_ns = GAP * max(recording.period_ns, step_s * 1e9)
    apart = np.diff(recording.stamps_ns) > longest_ns
    ends = apart | (np.diff(recording.segment) != 0)
    return np.concatenate([[0], np.cumsum(ends)])


def _spaced(stamps_ns: NDArray[np.int64], step_s: float) -> tuple[NDArray[np.int64], int]:
    """Windows (M, 3) of frames whose stamps increase, and how many more there is time for."""
    if len(stamps_ns) < FRAMES:
        return np.empty((0, FRAMES), dtype=np.int64), 0
    offsets = np.arange(FRAMES) * round(step_s * 1e9)
    wanted = stamps_ns[:, None] + offsets  # (N, 3)
    after = np.searchsorted(stamps_ns, wanted).clip(1, len(stamps_ns) - 1)
    before = after - 1
    nearer = wanted - stamps_ns[before] < stamps_ns[after] - wanted
    found = np.where(nearer, before, after)
    off = np.abs(stamps_ns[found] - wanted)
    punctual = (off <= TOLERANCE * step_s * 1e9).all(axis=1)
    missed = ~punctual & (wanted[:, -1] <= stamps_ns[-1])
    return found[punctual].astype(np.int64), int(missed.sum())


def _moving(recording: Recording, windows: NDArray[np.int64], quiet: bool) -> NDArray[np.bool_]:
    """Whether the camera moves in both steps of each window (M, 3)."""
    pairs = np.concatenate([windows[:, :2], windows[:, 1:]])
    distinct, place = np.unique(pairs, axis=0, return_inverse=True)
    flows = flows_px(recording, distinct, quiet)
    moves = flows[place.reshape(2, -1)] > STATIC_FLOW_PX
    return np.asarray(moves.all(axis=0))


@dataclass(frozen=True)
class Batch:
    """Windows of frames as tensors; B windows of F = 3 frames."""

    images: Tensor  # (B, F, 3, H, W), RGB; uint8 as read, float in [0, 1] after `to`
    K: Tensor  # (B, 3, 3), pixels of H x W
    world_T_camera: Tensor  # (B, F, 4, 4), in the first frame's camera; identity where not posed
    posed: Tensor  # (B,) bool: the bag knows the motion
    # (B, 1, H, W) bool: False where rectification left black, in all frames of the window alike
    seen: Tensor
    recording: Tensor  # (B,) int64, which of the run's recordings
    window: Tensor  # (B,) int64, number within the dataset
    # Depth to learn from, (B, F, H, W) float16, z in m, NaN where unknown; (B, F, 0, 0): none is
    depth: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device, its images as float in [0, 1]."""
        moved = {name: x.to(device, non_blocking=True) for name, x in vars(self).items()}
        images = moved.pop('images')
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return Batch(images, **moved)

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads by itself; DataLoader calls it."""
        return Batch(**{name: x.pin_memory() for name, x in vars(self).items()})


class WindowDataset(Dataset[Batch]):
    """Windows of several recordings, numbered through; an item is a batch of one."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        windows: Sequence[Windows],
        learned_depth_topics: Collection[str] = (),
    ) -> None:
        """
        Serve the windows of each recording.

        :param learned_depth_topics: measured depth of these topics goes into the batches
        :raises ValueError: not as many windows as recordings
        """
        if len(recordings) != len(windows):
            raise ValueError(f'{len(recordings)} recordings, but windows of {len(windows)}')
        self.recordings, self.windows = tuple(recordings), tuple(windows)
        self._learned_depth_topics = learned_depth_topics
        self._ends = np.cumsum([len(w) for w in windows])

    def __len__(self) -> int:
        """Count the windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def posed(self) -> NDArray[np.bool_]:
        """Of which windows the bag knows the motion, by number, (M,)."""
        return np.concatenate([windows.posed for windows in self.windows])

    def only(self, chosen: NDArray[np.bool_]) -> WindowDataset:
        """The chosen ones, (M,), numbered anew."""
        parts = np.split(chosen, self._ends[:-1])
        kept = [w.only(part) for w, part in zip(self.windows, parts, strict=True)]
        return WindowDataset(self.recordings, kept, self._learned_depth_topics)

    def recording_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the recordings that windows are of, (M,)."""
        return np.searchsorted(self._ends, numbers, side='right')

    def truth(self, number: int, frame: int) -> NDArray[np.float32] | None:
        """Measured depth of a frame of a window, (H, W), z in m, NaN where unknown; None: none."""
        which = int(self.recording_of(np.array(number)))
        recording, windows = self.recordings[which], self.windows[which]
        index = windows.indices[number - (self._ends[which] - len(windows)), frame]
        row = recording.depth_rows[index]
        if recording.depth is None or row < 0:
            return None
        return np.asarray(recording.depth.read(np.array([row]))[0], dtype=np.float32)

    def stamps_ns(self, frame: int) -> NDArray[np.int64]:
        """Stamps of one frame of each window, by number, (M,)."""
        pairs = zip(self.recordings, self.windows, strict=True)
        return np.concatenate([r.stamps_ns[w.indices[:, frame]] for r, w in pairs])

    def __getitem__(self, number: int) -> Batch:
        """Read one window."""
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Read windows by their numbers, in this order."""
        chosen = np.asarray(numbers, dtype=np.int64)
        which = self.recording_of(chosen)
        height, width = self.recordings[0].size
        images = np.empty((len(chosen), FRAMES, 3, height, width), dtype=np.uint8)
        K = np.empty((len(chosen), 3, 3), dtype=np.float32)
        poses = np.tile(np.eye(4, dtype=np.float32), (len(chosen), FRAMES, 1, 1))
        posed = np.zeros(len(chosen), dtype=np.bool_)
        seen = np.ones((len(chosen), 1, height, width), dtype=np.bool_)
        topics = self._learned_depth_topics
        depth_size = (height, width) if topics else (0, 0)
        depth = np.full((len(chosen), FRAMES, *depth_size), np.nan, np.float16)
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            recording, windows = self.recordings[number], self.windows[number]
            rows = chosen[places] - (self._ends[number] - len(windows))
            indices = windows.indices[rows]
            pixels = recording.frames.read(indices.ravel())
            images[places] = pixels.reshape(*indices.shape, height, width, 3).transpose(
                0, 1, 4, 2, 3
            )
            K[places] = recording.K[indices[:, 0]]
            posed[places] = windows.posed[rows]
            if recording.world_T_camera is not None:
                known = windows.posed[rows]
                poses[places[known]] = _relative(recording.world_T_camera[indices[known]])
            if recording.seen is not None:
                seen[places, 0] = recording.seen[recording.camera[indices[:, 0]]]
            if recording.depth_topic in topics:
                depth[places] = _depth(recording, indices)
        arrays = (images, K, poses, posed, seen, which.astype(np.int64), chosen, depth)
        return Batch(*map(torch.from_numpy, arrays))


def _depth(recording: Recording, indices: NDArray[np.int64]) -> NDArray[np.float16]:
    """Measured depth (B, F, H, W) of frames (B, F), NaN where there is none."""
    rows = recording.depth_rows[indices]
    depth = np.full((*indices.shape, *recording.size), np.nan, np.float16)
    if recording.depth is not None and (rows >= 0).any():
        depth[rows >= 0] = recording.depth.read(rows[rows >= 0])
    return depth


def _relative(world_T_camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses (B, F, 4, 4) in the first frame's camera: a map may be kilometres wide."""
    return np.asarray(np.linalg.inv(world_T_camera[:, :1]) @ world_T_camera)
