"""What a run leaves to read: its page, and the model card beside its weights."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from test_watch import disk_that_is_full_after, maps_of

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_ros.network.config import PAPER, SMALL, PoseNetConfig
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.config_file import load_config
from tc_depth_training.evaluation.depth_errors import DepthErrors, ScaledErrors
from tc_depth_training.page import Table, table
from tc_depth_training.summary import HeldOutScore, RecordingSummary, RunSummary, Sample
from tc_depth_training.synthetic import render_recording
from tc_depth_training.watch.facts import parameter_counts
from tc_depth_training.watch.log import RunHistory, RunLog, read_log
from tc_depth_training.watch.model_card import write_model_card
from tc_depth_training.watch.pictures import loss_pictures, write_training_sheet
from tc_depth_training.watch.report import write_run_report

NASTY = 'a<b>&"c|d`*e*'
VOID = {'meta', 'img', 'br', 'link', 'hr'}


class Page(HTMLParser):
    """A page as its tags and texts; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[bytes] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f'not closed: {self.open}'

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ('src', 'href'):
                kind, data = (value or '').split(',', 1)
                assert kind.startswith('data:image/'), kind
                self.pictures.append(base64.b64decode(data))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return '\n'.join(self.texts)


def errors(abs_rel: float) -> DepthErrors:
    return DepthErrors(abs_rel, 0.1, 0.5, 0.2, 0.8, 0.9, 0.95)


def summary_of(settings: Sequence[str] = (), name: str = 'kitchen') -> RunSummary:
    config = load_config(None, ['pose=odometry', 'steps=40', *settings])
    measured = ScaledErrors(errors(0.11), errors(0.123), errors(0.2))
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    depth = np.linspace(1, 4, 48 * 64, dtype=np.float32).reshape(48, 64)
    return RunSummary(
        config=config,
        info=WeightsInfo(
            SMALL,
            192,
            256,
            metric=True,
            scale_source='poses of the odometry',
            training_data=f'{name}, street',
            code_version='0.1.0',
            notes={'seed': 0, 'machine': 'x86_64'},
        ),
        recordings=(
            RecordingSummary(name, '/camera/image', 700, 1365, 130, {'static': 12, 'dark': 0}),
            RecordingSummary('street', '/left/image', 151, 240, 30, {}),
        ),
        steps=40,
        best_step=30,
        score_name='abs_rel',
        held_out=(
            HeldOutScore(name, 130, 0.051, 0.042, measured, errors(0.264), 1.02),
            HeldOutScore('street', 30, 0.071, 0.062, None, None, None),
        ),
        samples=(
            Sample(name, image, depth, depth * 1.1),
            Sample('street', image, depth, None),
        ),
        warnings=('few windows: 1605, where 5000 are better',),
        stopped='',
        duration_s=2900.0,
    )


@pytest.fixture(scope='module')
def history(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    """The log of a real run of three steps, gone on with by hand to 40."""
    folder = tmp_path_factory.mktemp('run')
    write_bag(folder / 'room', render_recording(frames=12, height=120, width=160))
    settings = [
        *('data.height=48', 'data.width=64', 'data.time_steps_s=[0.1]', 'loss.scales=[0]'),
        *('network.imagenet=false', 'pose=odometry', 'batch_size=2', 'steps=3'),
    ]
    arguments = [part for setting in settings for part in ('--set', setting)]
    assert main(['train', str(folder / 'room'), '--out', str(folder / 'out'), *arguments]) == 0
    real = read_log(folder / 'out' / 'log.jsonl').training
    assert real['total'].steps.tolist() == [1, 2, 3]
    with RunLog(folder / 'log.jsonl', None) as log:
        for step in range(1, 41):
            values = {name: float(curve.values[step % 3]) for name, curve in real.items()}
            log.write(step, {**values, 'learning_rate': 1e-4 * step})
            if step % 10 == 0:
                log.validation(step, {'abs_rel': 0.1 + abs(step - 30) / 100, 'photometric': 0.05})
        log.warn(35, 'the auto mask keeps 3 % of the pixels')
    return read_log(folder / 'log.jsonl')


def test_the_report_says_what_a_run_came_to(tmp_path: Path, history: RunHistory) -> None:
    write_training_sheet(tmp_path, 40, loss_pictures(maps_of()))
    path = write_run_report(tmp_path, summary_of(), history)
    assert path == tmp_path / 'report.html'
    page = Page(path.read_text())
    assert page.tags.count('h1') == 1
    for words in (
        'Training on kitchen, street',
        'step 30',
        'the best of those looked at by abs_rel on 160 held-out windows',
        '4.1 million parameters',
        '40 steps of 4 windows in 48 min',
        'Depth is in metres; known from: poses of the odometry',
        'The best constant depth gives 0.264: it sees depth',
        'few windows: 1605',
        'Step 35: the auto mask keeps 3 % of the pixels',
        'all images scaled by one factor',
        'static (12)',
        'height: 192',
        'machine: x86_64',
    ):
        assert words in page.text, words
    for cell in ('0.110', '0.123', '0.200', '0.264', '0.051', '0.062', '1365'):
        assert cell in page.texts, cell
    assert '0 dark' not in page.text

    drawn = [data for data in page.pictures if data.startswith(b'<?xml')]
    titles = {text for data in drawn for text in svg_texts(data)}
    logged = {'Loss', 'Pixels that the auto mask keeps', 'Learning rate', 'abs_rel'}
    assert titles >= logged | {'kept: step 30', 'step', 'share'}
    # There was no teacher
    assert not titles & {'Motion loss', 'Pixels where the teacher agrees'}
    sheets = [cv2.imdecode(np.frombuffer(d, np.uint8), 1) for d in page.pictures if d not in drawn]
    # Samples with truth, samples without, and the pictures of the losses
    assert [sheet.shape[1] for sheet in sheets] == [4 * 400, 2 * 400, 5 * 320]


def svg_texts(data: bytes) -> list[str]:
    return [node.text or '' for node in ElementTree.fromstring(data).iter() if node.text]


def test_names_cannot_break_the_page_or_the_card(tmp_path: Path, history: RunHistory) -> None:
    summary = replace(summary_of(name=NASTY), warnings=(NASTY,), stopped=NASTY)
    page = Page(write_run_report(tmp_path, summary, history).read_text())
    assert page.tags.count('b') == 4, 'those of the headline'
    assert f'Training on {NASTY}, street' in page.text
    assert NASTY in page.texts
    card = write_model_card(tmp_path, summary, 'weights.safetensors').read_text()
    assert '<b>' not in card.split('```')[2]
    rows = [line for line in card.splitlines() if line.startswith('| a')]
    assert len(rows) == 6 and all('a&lt;b&gt;&amp;"c\\|d\\`\\*e\\*' in row for row in rows)


def test_a_run_without_anything_held_out_says_so(tmp_path: Path) -> None:
    nothing = RunHistory({}, {}, ())
    bare = replace(summary_of(), held_out=(), samples=(), warnings=(), score_name='', best_step=40)
    page = Page(write_run_report(tmp_path, bare, nothing).read_text())
    assert 'was not measured' in page.text
    assert 'The weights of the last step, 40' in page.text
    assert not page.pictures
    card = write_model_card(tmp_path, bare, 'w.safetensors').read_text()
    assert 'was not measured' in card and 'never compared with measured depth' in card


def test_weights_no_better_than_a_constant_are_called_so(
    tmp_path: Path, history: RunHistory
) -> None:
    summary = summary_of()
    bad = replace(summary.held_out[0], constant=errors(0.1))
    summary = replace(summary, held_out=(bad,))
    assert 'do not use it' in write_run_report(tmp_path, summary, history).read_text()
    assert 'do not use it' in write_model_card(tmp_path, summary, 'w.safetensors').read_text()


def test_depth_without_unit_is_scaled_to_its_truth_in_the_samples(
    tmp_path: Path, history: RunHistory
) -> None:
    """The truth is 1.1 of the depth: scaled by that, no error is left; metric depth keeps it."""
    shown = {}
    for metric in (True, False):
        summary = summary_of()
        summary = replace(summary, info=replace(summary.info, metric=metric))
        page = Page(write_run_report(tmp_path, summary, history).read_text())
        assert ('up to an unknown factor' in page.text) == (not metric)
        data = next(data for data in page.pictures if data.startswith(b'\xff\xd8'))
        sheet = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]
        shown[metric] = sheet[-100, 3 * 400 + 200].astype(int)
    dark_blue = np.array([13, 8, 135])  # the map's colour of no error
    assert np.abs(shown[False] - dark_blue).max() < 12
    assert np.abs(shown[True] - dark_blue).max() > 30


def test_the_model_card_says_what_the_weights_are(tmp_path: Path) -> None:
    settings = [
        'network.temporal=causal',
        'warm_up_steps=1',
        'loss.scales=[0, 2]',
        'validation.patience=null',
        'fit_focal_length=true',
        'learning_rate=1e-5',
        'data.lidar_topic=true points',
    ]
    summary = summary_of(settings)
    path = write_model_card(tmp_path, summary, 'weights.safetensors')
    assert path == tmp_path / 'README.md'
    card = path.read_text()
    for words in (
        '# Model card: weights.safetensors',
        '4.1 million parameters; no pose network',
        '| kitchen | 1365 | /camera/image | those of your recordings: fill in |',
        'Apache-2.0; trained on ImageNet',
        "the motion of the camera is the recordings' odometry",
        '| kitchen | all images scaled by one factor | 0.123 |',
        '| kitchen | the best constant depth | 0.264 |',
        'The held-out frames are of those recordings',
        'known from: poses of the odometry',
        'tc_depth_training 0.1.0',
    ):
        assert words in card, words
    # The command, read by a shell, asks for the very run
    command = shlex.split(re.findall(r'```\n(.*?)\n```', card, re.DOTALL)[0].replace('\\\n', ''))
    assert command[:4] == ['tc-depth', 'train', 'kitchen', 'street']
    assert command[4:6] == ['--config', 'small']
    overrides = [
        after for before, after in zip(command, command[1:], strict=False) if before == '--set'
    ]
    assert load_config(None, [f'preset={command[5]}', *overrides]) == summary.config


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (['init=default'], 'non-commercial use only'),
        (['init=runs/old.safetensors'], 'runs/old.safetensors, whose terms it inherits'),
        (['network.imagenet=false'], 'no other data is in it'),
    ],
)
def test_the_card_names_the_start(tmp_path: Path, settings: list[str], words: str) -> None:
    summary = summary_of(settings)
    before = replace(summary.info, training_data='an office', notes={'steps': 1500})
    card = write_model_card(tmp_path, summary, 'w.safetensors', before).read_text()
    assert words in card
    assert ('trained on an office; steps 1500' in card) == bool(summary.config.init)


def test_an_encoder_without_imagenet_weights_does_not_claim_them(tmp_path: Path) -> None:
    summary = summary_of(['network.name=paper'])
    info = replace(summary.info, network=PAPER, pose=PoseNetConfig('resnet18'))
    card = write_model_card(tmp_path, replace(summary, info=info), 'w.safetensors').read_text()
    assert 'no other data is in it' in card and 'ImageNet' not in card
    assert parameter_counts(info)[0] == 29_281_319


def test_a_full_disk_leaves_no_half_report(tmp_path: Path, history: RunHistory) -> None:
    summary = summary_of()
    write_model_card(tmp_path, summary, 'w.safetensors')
    old = (tmp_path / 'README.md').read_bytes()
    with disk_that_is_full_after(500):
        for write in (
            lambda: write_run_report(tmp_path, summary, history),
            lambda: write_model_card(tmp_path, summary, 'other.safetensors'),
        ):
            with pytest.raises(OSError, match='cannot write'):
                write()
    assert [path.name for path in tmp_path.iterdir()] == ['README.md']
    assert (tmp_path / 'README.md').read_bytes() == old


def test_numbers_stand_right_and_texts_left() -> None:
    markup = table(Table(('name', 'count'), (('a', 1), ('b', None))))
    assert '<td>a</td><td class="n">1</td>' in markup and '<td class="n">–</td>' in markup
    assert 'name' in table(Table(('name', 'count'), ()))
