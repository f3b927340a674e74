"""What the diagnostics show of the last estimate, and what in it is to be doubted."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tc_depth_ros.pipeline import DepthPipeline, Estimate
from tc_depth_ros.scale.estimator import ScaleState
from tc_depth_ros.temporal.consistency import Consistency


def facts_of(pipeline: DepthPipeline | None, last: Estimate | None) -> dict[str, str]:
    """Names, units and numbers for people."""
    facts = {'memory (MB)': f'{_resident_mb():.0f}'}
    if pipeline is not None:
        predictor = pipeline.predictor
        facts |= {'device': predictor.device, 'precision': predictor.precision.name}
        facts |= {'weights metric': str(predictor.info.metric)}
        if predictor.precision.difference:
            facts['self-check difference'] = f'{predictor.precision.difference:.4f}'
        if predictor.device.startswith('cuda'):
            facts['GPU memory (MB)'] = f'{torch.cuda.memory_allocated(predictor.device) / 1e6:.0f}'
    return facts if last is None else facts | _of_estimate(last)


def warnings_of(last: Estimate | None, jump: Consistency | None) -> list[str]:
    """
    Sentences on what is published but to be doubted.

    :param jump: of the latest pair of frames, since the last report, whose scales differ
    """
    warnings: list[str] = []
    if jump is not None:
        warnings.append(
            f'the scale of depth jumped by {100 * (jump.scale_ratio - 1):+.0f} % from one frame '
            'to the next'
        )
    if last is None:
        return warnings
    if last.scale.state is ScaleState.STALE:
        warnings.append(f'the scale is held, not confirmed any more: {last.scale.refusal}')
    elif last.scale.source not in ('none', 'fixed') and last.scale.state != ScaleState.TRACKING:
        warnings.append(f'the scale is not known yet: {last.scale.refusal}')
    return warnings


def _of_estimate(last: Estimate) -> dict[str, str]:
    scale, consistency = last.scale, last.consistency
    facts = {
        'mode': 'multi-frame' if last.frames_used > 1 else f'single-frame ({last.continuity})',
        'frames used': str(last.frames_used),
        'keyframes matched': str(last.keyframes_used),
        'motion source': last.location.source,
        'metric': str(scale.metric),
        'scale source': scale.source,
        'scale state': scale.state.value,
        'scale factor': f'{scale.factor:.4f}',
        'scale deviation': f'{scale.deviation:.4f}',
    }
    if last.location.refusal:
        facts['motion source: why not odometry'] = last.location.refusal
    if consistency is not None:
        facts |= {
            'consistency: median disagreement': f'{consistency.disagreement:.4f}',
            'consistency: scale ratio': f'{consistency.scale_ratio:.4f}',
            'consistency: inconsistent share': f'{consistency.inconsistent_share:.4f}',
        }
    return facts


def _resident_mb() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6
