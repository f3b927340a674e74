"""The files of one cached recording, written and opened."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tc_depth_training import __version__
from tc_depth_training.data.arrange import Arrangement
from tc_depth_training.data.frame_store import DiskFrames
from tc_depth_training.data.reading import Readings
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Source

FRAMES, DEPTH, INDEX, META = 'frames.u8', 'depth.f2', 'index.npz', 'meta.json'


def write_index(
    folder: Path, source: Source, readings: Readings, arrangement: Arrangement
) -> None:
    """Write all but the pixels."""
    arrays = {
        field.name: value
        for field in fields(Arrangement)
        if isinstance(value := getattr(arrangement, field.name), np.ndarray)
    }
    write_arrays(folder / INDEX, arrays)
    meta = {
        'tool': f'tc_depth_training {__version__}',
        'bag': str(source.bag.absolute()),
        'image_topic': source.camera.image,
        'camera_info_topic': source.camera.camera_info,
        'odometry_topic': source.odometry.topic if source.odometry else None,
        'depth_topic': source.depth.topic if source.depth else None,
        'height_width': source.size,
        'start_end_s': (source.stretch.start_s, source.stretch.end_s),
        'frames_read': len(readings.stamps_ns),
        'depths_read': len(readings.depth_stamps_ns),
        'frames_kept': len(arrangement.order),
        'segments': int(arrangement.segment[-1]) + 1,
        'K': [K.tolist() for K in arrangement.K],
        'left_out': dict(arrangement.left_out),
        'first_errors': readings.errors,
    }
    with (folder / META).open('w') as file:
        json.dump(meta, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays to a file that appears whole or not at all."""
    partial = path.with_name(f'.{path.name}.{uuid4().hex}.partial')
    try:
        with partial.open('wb') as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # keywords, not allow_pickle
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read arrays; None where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def open_folder(root: Path, key: str, source: Source) -> Recording | None:
    """Open the cache of this key; None where there is none, or only a part of one."""
    for folder in root.glob(f'*-{key}'):
        arrays = read_arrays(folder / INDEX)
        try:
            meta = json.loads((folder / META).read_text())
            counts = (int(meta['frames_read']), int(meta['depths_read']))
            left_out = {str(cause): int(n) for cause, n in meta['left_out'].items()}
            frames = DiskFrames(folder / FRAMES, (counts[0], *source.size, 3))
            depth = DiskFrames(folder / DEPTH, (counts[1], *source.size), 'float16')
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        if arrays is None:
            continue
        optional: dict[str, Any] = {'seen': None, 'world_T_camera': None}
        try:
            arrangement = Arrangement(**{**optional, **arrays}, left_out=left_out)
        except TypeError:  # an array is missing
            continue
        return Recording.of(
            source, key, arrangement, frames, depth if source.depth else None, folder
        )
    return None
