"""
What each part of TC-Depth, and matching, is worth: train without it, evaluate, print one table.

``python -m tc_depth_training.ablation --out DIR [--kitchen TRAIN_BAG EVAL_BAG]``: always on the
synthetic rooms that the project renders, and on a recording of one's own if two bags of it are
given. Weights that are there already are kept, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config_file import load_config
from tc_depth_training.evaluate import evaluate
from tc_depth_training.run_folder import WEIGHTS_NAME
from tc_depth_training.synthetic import iterate_recording
from tc_depth_training.train import train

# What is left out, or added, as settings of the configuration
VARIANTS: Mapping[str, Sequence[str]] = {
    'complete': (),
    'no spatial attention': ('network.spatial_attention=false',),
    'no temporal attention': ('network.temporal_attention=false',),
    'no consistency loss': ('loss.geometric_weight=0.0',),
    'no cycle mask': ('loss.cycle_kept=1.0',),
    'with matching': ('network.matching=true',),
}
# Small and short enough for ten runs in an hour on two cores
COMMON = (
    'data.height=96',
    'data.width=128',
    'data.time_steps_s=[0.1, 0.2]',
    'loss.scales=[0, 2]',
    'pose=odometry',
    'learning_rate=3e-4',
    'validation.share=0',
    'ema_decay=null',
)
TRAINING_ROOMS, EVALUATION_ROOM, ROOM_FRAMES = (1, 2, 3), 4, 60

# Heading, and where the number is in the evaluation's JSON
COLUMNS = (
    ('Abs Rel (per image)', 'depth.median.abs_rel'),
    ('Abs Rel (global)', 'depth.global.abs_rel'),
    ('single frame', 'single_frame.depth.global.abs_rel'),
    ('TCM [m]', 'temporal.tcm_abs'),
    ('TAE', 'temporal.tae'),
    ('OPW', 'temporal.opw'),
    ('scale ratio std', 'temporal.scale_ratio_std'),
)


@dataclass(frozen=True)
class Scene:
    """A recording to train on, and one to be judged by."""

    name: str
    training: Sequence[Path]
    evaluation: Path
    settings: Sequence[str] = ()


def synthetic_scene(folder: Path) -> Scene:
    """Render rooms to train in, and another to be judged by."""
    for seed in (*TRAINING_ROOMS, EVALUATION_ROOM):
        bag = folder / f'room_{seed}'
        if not bag.exists():
            print(f'rendering room {seed} …', flush=True)
            write_bag(bag, iterate_recording(frames=ROOM_FRAMES, seed=seed))
    rooms = [folder / f'room_{seed}' for seed in TRAINING_ROOMS]
    return Scene('synthetic', rooms, folder / f'room_{EVALUATION_ROOM}')


def train_variant(scene: Scene, variant: str, seed: int, steps: int, out: Path) -> Path:
    """Train one variant, unless it is there already; returns its weights."""
    folder = out / scene.name / variant.replace(' ', '_') / f'seed_{seed}'
    weights = folder / WEIGHTS_NAME
    # The trainer writes on the way too; only a finished run is marked, others go on
    done = folder / 'done'
    if not done.exists():
        print(f'training {scene.name}, {variant}, seed {seed}', flush=True)
        sized = (f'steps={steps}', f'seed={seed}')
        overrides = [*COMMON, *scene.settings, *VARIANTS[variant], *sized]
        train(scene.training, load_config(None, overrides), folder, resume=True)
        done.touch()
    return weights


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """
    Lay out the mean over the seeds of each variant, in Markdown.

    :param results: per variant, the evaluations of its seeds
    """
    lines = [
        '| variant | ' + ' | '.join(heading for heading, _ in COLUMNS) + ' |',
        '|---|' + '---|' * len(COLUMNS),
    ]
    for variant, evaluations in results.items():
        cells = [_cell([_number(e, place) for e in evaluations]) for _, place in COLUMNS]
        lines.append(f'| {variant} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _number(evaluation: Mapping[str, Any], place: str) -> float:
    value: Any = evaluation
    for key in place.split('.'):
        value = value[key]
    return float(value)


def _cell(values: Sequence[float]) -> str:
    mean = f'{np.mean(values):.4f}'
    return mean if len(values) == 1 else f'{mean} ± {np.ptp(values) / 2:.4f}'


def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate all variants, print the tables and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--kitchen', nargs=2, type=Path, metavar=('TRAIN_BAG', 'EVAL_BAG'))
    parser.add_argument('--steps', type=int, default=400, help='of each run')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    arguments = parser.parse_args(argv)
    scenes = [synthetic_scene(arguments.out)]
    if arguments.kitchen:
        training, evaluation = arguments.kitchen
        # Its colour camera's CameraInfo is off by a tenth: see the model card
        settings = ('fit_focal_length=true',)
        scenes.append(Scene('kitchen', [training], evaluation, settings))
    for scene in scenes:
        results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for seed in arguments.seeds:
            for variant in VARIANTS:
                weights = train_variant(scene, variant, seed, arguments.steps, arguments.out)
                results[variant].append(evaluate(scene.evaluation, weights).to_dict())
        (arguments.out / f'{scene.name}.json').write_text(json.dumps(results, indent=2))
        print(f'\n{scene.name}, {arguments.steps} steps, seeds {arguments.seeds}\n')
        print(table(results), flush=True)


if __name__ == '__main__':
    main()
