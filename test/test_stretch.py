"""A stretch of a bag through every front door: what is outside it is as if it were not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bag_parts import at, put_together, take_apart
from test_network import TINY, lively

from tc_depth_ros.network.checkpoint import (
    WeightsInfo,
    load_weights,
    read_weights_info,
    save_weights,
)
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.config import DataConfig
from tc_depth_training.config_file import load_config
from tc_depth_training.data import bag as bag_module
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.cache_key import cache_key, key_of_bag
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Wanted, cut_to_stretch, find_sources
from tc_depth_training.data.stretch import WHOLE, BagPart, Stretch, StretchError, parse_bag
from tc_depth_training.evaluation.sequence import Topics, read_sequence
from tc_depth_training.synthetic import SyntheticView, render_recording
from tc_depth_training.train import train

FRAMES, PERIOD_NS = 24, 100_000_000
SIZE = (48, 64)
IMAGE, ODOMETRY = '/camera/color/image_raw/compressed', '/odom'
TINY_RUN = [
    'data.height=48',
    'data.width=64',
    'data.time_steps_s=[0.1]',
    'network.imagenet=false',
    'network.initial_depth=4.5',
    'loss.scales=[0]',
    'validation.share=0.2',
    'validation.every_steps=2',
    'watch.tensorboard=false',
    'warm_up_steps=2',
    'batch_size=2',
    'save_every_steps=1',
    'pose=odometry',
]


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(FRAMES, height=120, width=160)


@pytest.fixture(scope='module')
def bag(views: list[SyntheticView], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, views)
    return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'w.safetensors'
    save_weights(path, lively(TINY), WeightsInfo(TINY, *SIZE, metric=True))
    return path


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp('cache')
        patch.setenv('XDG_CACHE_HOME', str(root))
        yield root / 'tc_depth'


def cut_bag(path: Path, views: list[SyntheticView]) -> Path:
    """A bag that never had the rest."""
    write_bag(path, views)
    return path


def stamps(views: list[SyntheticView]) -> list[int]:
    return [view.stamp_ns for view in views]


def written(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob('*.npy'))


def load(*bags: Path | BagPart, **settings: Any) -> list[Recording]:
    data = DataConfig(**{'height': SIZE[0], 'width': SIZE[1], 'cache': 'ram', **settings})
    return load_recordings(bags, data, pose_required=False)


def settings(*more: str) -> list[str]:
    return [part for value in [*TINY_RUN, *more] for part in ('--set', value)]


# What is asked for


@pytest.mark.parametrize(
    ('text', 'path', 'stretch'),
    [
        ('room', 'room', None),
        ('room@2:4.5', 'room', Stretch(2.0, 4.5)),
        ('a/room@:42', 'a/room', Stretch(0.0, 42.0)),
        ('room@42:', 'room', Stretch(42.0)),
        ('room@:', 'room', WHOLE),
        ('me@home@1:2', 'me@home', Stretch(1.0, 2.0)),
        ('me@home/room', 'me@home/room', None),
        ('me@home', 'me@home', None),
        ('@1:2', '@1:2', None),
    ],
)
def test_a_bag_may_carry_its_stretch(text: str, path: str, stretch: Stretch | None) -> None:
    assert parse_bag(text) == BagPart(Path(path), stretch)


def test_what_exists_by_that_name_is_a_path(tmp_path: Path) -> None:
    odd = tmp_path / 'room@1:2'
    assert parse_bag(str(odd)) == BagPart(tmp_path / 'room', Stretch(1.0, 2.0))
    odd.mkdir()
    assert parse_bag(str(odd)) == BagPart(odd)
    assert parse_bag(f'{odd}@3:') == BagPart(odd, Stretch(3.0))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('room@x:4', "'x:4' is no stretch: give BAG@START:END"),
        ('room@1:2:3', "'1:2:3' is no stretch"),
        ('room@-1:4', 'the start of a stretch is -1 s: give the seconds since the first image'),
        ('room@nan:', 'the start of a stretch is nan s'),
        ('room@:inf', 'the end of a stretch is inf s'),
        ('room@4:4', 'starts at 4 s and ends at 4 s: give an end after its start'),
        ('room@4:3.5', 'starts at 4 s and ends at 3.5 s'),
    ],
)
def test_what_is_no_stretch_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(StretchError) as refused:
        parse_bag(text)
    assert str(refused.value).startswith(f'{text}: ') and words in str(refused.value)


def test_one_number_behind_a_bag_is_no_stretch(bag: Path) -> None:
    with pytest.raises(StretchError, match="'42' is no stretch"):
        parse_bag(f'{bag}@42')


@pytest.mark.parametrize(
    ('stretch', 'words', 'argument'),
    [
        (Stretch(0, 42), '0 to 42 s', '@0:42'),
        (Stretch(1234.5678, 2000), '1234.5678 to 2000 s', '@1234.5678:2000'),
        (Stretch(42), 'from 42 s on', '@42:'),
        (WHOLE, 'from 0 s on', '@0:'),
    ],
)
def test_a_stretch_is_said_and_read_back(stretch: Stretch, words: str, argument: str) -> None:
    assert (str(stretch), stretch.argument()) == (words, argument)
    assert parse_bag(f'room{argument}').stretch == stretch


# Which frames


@pytest.mark.parametrize('where', ['disk', 'ram', 'none'])
@pytest.mark.parametrize(
    ('stretch', 'first', 'last'),
    [
        (Stretch(0.3, 0.7), 3, 6),  # the start is in, the end is not
        (Stretch(0.300000001, 0.700000001), 4, 7),
        (Stretch(0.0, 0.35), 0, 3),
        (Stretch(2.25), 23, 23),
        (Stretch(2.0, 1e300), 20, 23),
    ],
)
def test_a_frame_is_in_from_the_start_to_before_the_end(
    bag: Path, views: list[SyntheticView], stretch: Stretch, first: int, last: int, where: str
) -> None:
    (recording,) = load(BagPart(bag, stretch), cache=where)
    inside = views[first : last + 1]
    assert recording.stamps_ns.tolist() == stamps(inside)
    assert not recording.left_out
    poses = np.stack([view.world_T_camera for view in inside])
    np.testing.assert_allclose(recording.world_T_camera, poses, atol=1e-9)
    (whole,) = load(bag)
    np.testing.assert_array_equal(
        recording.frames.read(np.arange(len(recording))),
        whole.frames.read(np.arange(first, last + 1)),
    )
    if where != 'none':
        assert recording.depth is not None and len(recording.depth) == len(inside)
        assert recording.depth_rows.tolist() == list(range(len(inside)))


def test_time_begins_at_the_earliest_stamp_and_not_at_the_recorders(
    bag: Path, views: list[SyntheticView], tmp_path: Path
) -> None:
    """The first two images come in the wrong order, all three seconds after they were taken."""
    messages = [replace(m, log_ns=m.log_ns + 3_000_000_000) for m in take_apart(bag)]
    first, second = [i for i, m in enumerate(messages) if m.topic == IMAGE][:2]
    messages[first], messages[second] = (
        replace(messages[second], log_ns=messages[first].log_ns),
        replace(messages[first], log_ns=messages[second].log_ns),
    )
    late = put_together(tmp_path / 'late', messages)
    (recording,) = load(BagPart(late, Stretch(0.0, 0.2)))
    assert recording.stamps_ns.tolist() == stamps(views[:2])


@pytest.fixture
def between(bag: Path, tmp_path: Path) -> Path:
    """A bag whose odometry is stamped half way between the images."""
    messages = [
        replace(m, message=at(m.message, m.log_ns + PERIOD_NS // 2)) if m.topic == ODOMETRY else m
        for m in take_apart(bag)
    ]
    return put_together(tmp_path / 'between', messages)


def test_odometry_is_read_beyond_the_stretch_and_measured_depth_is_not(
    between: Path, tmp_path: Path
) -> None:
    stretch = Stretch(0.3, 0.65)
    (recording,) = load(BagPart(between, stretch))
    sequence = read_sequence(between, Topics(), tmp_path, stretch)
    for poses in (recording.world_T_camera, sequence.world_T_camera):
        assert poses is not None and len(poses) == 4 and np.isfinite(poses).all()


def test_depth_stamped_outside_is_not_looked_at(bag: Path, tmp_path: Path) -> None:
    """Of a camera that falters, a frame could else be given the depth of one that is left out."""
    topic = '/camera/depth/image_rect_raw'
    moved = [
        replace(m, message=at(m.message, m.log_ns + 40_000_000)) if m.topic == topic else m
        for m in take_apart(bag)
    ]
    late = put_together(tmp_path / 'late', moved)
    stretch = Stretch(0.3, 0.62)  # the depth of 0.6 s is stamped 0.64 s
    (recording,) = load(BagPart(late, stretch))
    assert (recording.depth_rows >= 0).tolist() == [True, True, True, False]
    sequence = read_sequence(late, Topics(), tmp_path, stretch)
    assert sequence.truth is not None
    known = [bool(np.isfinite(truth).any()) for truth in sequence.truth]
    assert known == [True, True, True, False]


def test_a_stretch_without_an_image_is_refused_with_the_length_of_the_bag(bag: Path) -> None:
    words = r"/camera/color/image_raw/compressed of .*room has no image in the stretch 'from 42 s "
    words += r"on': its last image is at 2.300 s. Give .* \(--start S and --end S, or BAG@START"
    with pytest.raises(BagError, match=words):
        load(BagPart(bag, Stretch(42.0)))
    with pytest.raises(BagError, match="in the stretch '0.31 to 0.39 s'"):
        load(BagPart(bag, Stretch(0.31, 0.39)))


def test_a_clock_that_jumps_back_names_no_stretch(
    bag: Path, views: list[SyntheticView], tmp_path: Path
) -> None:
    messages = take_apart(bag)
    end_ns = messages[-1].log_ns + PERIOD_NS - messages[0].log_ns
    looped = put_together(
        tmp_path / 'looped', [*messages, *(replace(m, log_ns=m.log_ns + end_ns) for m in messages)]
    )
    with pytest.raises(BagError, match='jumps back after image 24, .*: cut the bag there'):
        load(BagPart(looped, Stretch(0.5)))
    assert len(load(looped)[0]) == 2 * FRAMES


def test_images_lost_behind_a_damage_count_where_the_stretch_reaches_there(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Bag._recorded

    def until_damage(self: Bag, *arguments: Any) -> Iterator[Any]:
        for number, item in enumerate(recorded(self, *arguments)):
            if len(arguments[0]) > 1 and number == 40:
                raise bag_module.BagDamaged('damaged')
            yield item

    (source,) = find_sources(bag, Wanted(SIZE), False, Stretch(0.5, 1.5))
    monkeypatch.setattr(Bag, '_recorded', until_damage)  # of images and depths the first 20
    assert cut_to_stretch(source, quiet=True).count == 10
    assert cut_to_stretch(replace(source, stretch=Stretch(0.5)), quiet=True).count == 15 + 4


# What it is known by


def test_two_stretches_of_a_bag_are_two_recordings(bag: Path, cache: Path) -> None:
    parts = [BagPart(bag, Stretch(0.0, 1.0)), BagPart(bag, Stretch(1.0))]
    recordings = load(*parts, cache='disk')
    assert [r.name for r in recordings] == ['room 0 to 1 s', 'room from 1 s on']
    keys = {r.key for r in (*recordings, *load(bag))}
    assert len(keys) == 3
    folders = [r.folder for r in recordings]
    assert all(folder is not None and folder.parent == cache for folder in folders)
    meta = json.loads((folders[1] / 'meta.json').read_text())
    assert (meta['start_end_s'], meta['frames_kept']) == ([1.0, None], 14)


def test_the_whole_of_a_bag_has_the_key_that_it_had(bag: Path) -> None:
    """Caches of older versions are found by it."""
    (source,) = find_sources(bag, Wanted(SIZE), False)
    assert cache_key(source) == key_of_bag(source)
    assert load(BagPart(bag, WHOLE), end_s=1.0)[0].key == load(bag)[0].key


def test_a_stretch_in_the_cache_is_not_looked_for_again(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = BagPart(bag, Stretch(0.2, 0.8))
    (first,) = load(part, cache='disk')
    monkeypatch.setattr(Bag, 'stamps_until_damage', None)
    (again,) = load(part, cache='disk')
    assert again.stamps_ns.tolist() == first.stamps_ns.tolist() and again.key == first.key


def test_a_stretch_is_of_each_bag_that_has_none_of_its_own(bag: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    write_bag(other, render_recording(6, 48, 64, seed=1))
    found = load(bag, BagPart(other, Stretch(0.1)), start_s=0.5, end_s=1.0)
    assert [(r.name, len(r)) for r in found] == [
        ('room 0.5 to 1 s', 5),
        ('other from 0.1 s on', 5),
    ]


def test_stretches_of_a_bag_may_meet_but_not_overlap(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in (WHOLE, Stretch(0.9), Stretch(0.0, 0.5)):
        with pytest.raises(BagError, match=r'room, 0\.4 to 1 s, .* overlap: give stretches'):
            load(BagPart(bag, Stretch(0.4, 1.0)), BagPart(bag, other))
    once = load(BagPart(bag, Stretch(0.4, 1.0)), bag, start_s=0.4, end_s=1.0)
    assert len(once) == 1 and 'it is used once' in capsys.readouterr().out


# predict


def test_predict_looks_at_the_stretch_alone(
    bag: Path, views: list[SyntheticView], weights: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ('options', 'behind the bag', 'cut')]
    sources = [
        [str(bag), '--start', '0.5', '--end', '1'],
        [f'{bag}@0.5:1', '--end', '0.1'],  # what is behind the bag goes before the option
        [str(cut_bag(tmp_path / 'room', views[5:10]))],
    ]
    for source, out in zip(sources, outs, strict=True):
        command = ['predict', *source, '--weights', str(weights), '--out', str(out)]
        assert main(command) == 0
        assert written(out / 'depth') == stamps(views[5:10])
    for stamp in stamps(views[5:10]):
        depths = [np.load(out / 'depth' / f'{stamp}.npy') for out in outs]
        np.testing.assert_array_equal(depths[0], depths[1])
        np.testing.assert_array_equal(depths[0], depths[2])


def test_predict_takes_a_stretch_of_a_video_but_not_of_images(
    views: list[SyntheticView],
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, video = tmp_path / 'images', tmp_path / 'video.avi'
    folder.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*'MJPG'), 10, (160, 120))
    for index, view in enumerate(views[:6]):
        cv2.imwrite(str(folder / f'{index}.png'), view.image[..., ::-1])
        writer.write(np.ascontiguousarray(view.image[..., ::-1]))
    writer.release()
    out, K = tmp_path / 'out', ['--intrinsics', '130', '130', '80', '60']
    command = ['predict', '--weights', str(weights), '--out', str(out), *K]
    assert main([*command, f'{video}@0.1:0.4']) == 0
    # A video's first frame is stamped a period
    assert written(out / 'depth') == [PERIOD_NS * n for n in (2, 3, 4)]
    assert main([*command, str(video), '--start', '9']) == 1
    assert 'its last image is at 0.500 s' in capsys.readouterr().err
    assert main([*command, str(folder), '--end', '0.3']) == 1
    assert 'folder of images, of which nothing tells the time' in capsys.readouterr().err
    assert main([*command, '--images', str(folder / '0.png'), '--end', '1']) == 2
    assert 'not of --images' in capsys.readouterr().err


# evaluate


def test_evaluate_scores_the_stretch_as_a_bag_of_its_own(
    bag: Path,
    views: list[SyntheticView],
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers, said = [], []
    for source in (
        [f'{bag}@0.5:1.2'],
        [str(bag), '--start', '0.5', '--end', '1.2'],
        [str(cut_bag(tmp_path / 'cut', views[5:12]))],
    ):
        file = tmp_path / 'out.json'
        assert main(['evaluate', *source, '--weights', str(weights), '--json', str(file)]) == 0
        numbers.append(json.loads(file.read_text()))
        said.append(capsys.readouterr().out)
    assert numbers[0] == numbers[1] == numbers[2]
    assert numbers[0]['frames'] == 7
    assert said[0].startswith('room 0.5 to 1.2 s: 7 frames') and said[0] == said[1]


# refine


def test_refine_learns_and_predicts_in_the_stretch_alone(
    bag: Path, views: list[SyntheticView], weights: Path, tmp_path: Path
) -> None:
    cut = cut_bag(tmp_path / 'cut', views[5:10])
    sources = ([f'{bag}@0.5:1'], [str(bag), '--start', '0.5', '--end', '1'], [str(cut)])
    refined, depths = [], []
    for number, source in enumerate(sources):
        out = tmp_path / f'{number}.safetensors'
        command = ['refine', *source, '--weights', str(weights), '--steps', '1']
        assert main([*command, '--out', str(out)]) == 0
        refined.append(load_weights(out))
        frames = tmp_path / f'{number}'
        assert main([*command, '--per-frame', '--out', str(frames)]) == 0
        assert written(frames / 'depth') == stamps(views[5:10])
        depths.append([np.load(frames / 'depth' / f'{s}.npy') for s in stamps(views[5:10])])
    assert refined[0].info.training_data.endswith('refined on room 0.5 to 1 s')
    expected = refined[2].network.state_dict()
    for of_stretch, seen in zip(refined[:2], depths[:2], strict=True):
        for key, value in of_stretch.network.state_dict().items():
            assert torch.equal(value, expected[key]), key
        np.testing.assert_array_equal(seen, depths[2])


# train


@pytest.fixture(scope='module')
def held_out_run(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the first 1.2 s, which has done all its four steps."""
    out = tmp_path_factory.mktemp('run')
    assert main(['train', f'{bag}@:1.2', '--out', str(out), *settings('steps=4')]) == 0
    return out


def recordings_of(out: Path) -> list[str]:
    lines = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    (told,) = [line['recordings'] for line in lines if 'recordings' in line]
    return list(told)


def test_training_sees_the_stretch_as_a_bag_of_its_own(
    held_out_run: Path, views: list[SyntheticView], tmp_path: Path
) -> None:
    cut = cut_bag(tmp_path / 'cut', views[:12])
    train([cut], load_config(None, [*TINY_RUN, 'steps=4']), tmp_path / 'out')
    of_stretch, of_cut = (
        torch.load(folder / 'last.pt', weights_only=True)['learner']['model']
        for folder in (held_out_run, tmp_path / 'out')
    )
    assert all(torch.equal(value, of_cut[name]) for name, value in of_stretch.items())
    (line,) = recordings_of(held_out_run)
    assert line.removeprefix('room 0 to 1.2 s') == recordings_of(tmp_path / 'out')[0][3:]


def test_the_stretch_is_named_by_weights_log_model_card_and_report(held_out_run: Path) -> None:
    info = read_weights_info(held_out_run / 'weights.safetensors')
    assert info.training_data == 'room 0 to 1.2 s'
    assert recordings_of(held_out_run)[0].startswith('room 0 to 1.2 s: 12 frames, ')
    card = (held_out_run / 'README.md').read_text()
    assert 'tc-depth train room@0:1.2 --config small' in card
    assert '| room 0 to 1.2 s |' in card and 'It has seen room 0 to 1.2 s and nothing' in card
    assert 'room 0 to 1.2 s' in (held_out_run / 'report.html').read_text()


def test_options_stand_for_all_bags_and_are_kept_for_resume(
    bag: Path, tmp_path: Path, held_out_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / 'other', tmp_path / 'out'
    write_bag(other, render_recording(14, 120, 160, seed=1))
    # All of the other; in their order, what is at the end is the whole of a bag, too
    bags = [str(bag), f'{other}@:']
    stretch = ['--start', '0', '--end', '1.2']
    assert main(['train', *bags, *stretch, '--out', str(out), *settings('steps=2')]) == 0
    names = [line.partition(',')[0] for line in recordings_of(out)]
    assert names == ['room 0 to 1.2 s: 12 frames', 'other: 14 frames']
    config = load_config(out / 'config.yaml')
    assert (config.data.start_s, config.data.end_s) == (0.0, 1.2)
    card = (out / 'README.md').read_text()
    assert 'train room other@0: --config small' in card and '--set data.end_s=1.2' in card
    assert main(['train', *bags, '--out', str(out), '--resume']) == 0
    capsys.readouterr()
    assert main(['train', *bags, '--out', str(out), '--resume', '--end', '1.3']) == 2
    assert 'data.end_s was 1.2, is 1.3' in capsys.readouterr().err


def test_a_run_goes_on_with_its_stretch_and_no_other(
    bag: Path, held_out_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (held_out_run / 'log.jsonl').read_text()
    command = ['train', '--out', str(held_out_run), '--resume']
    assert main([*command, f'{bag}@0:1.2']) == 0
    assert (held_out_run / 'log.jsonl').read_text() == before
    for other in (str(bag), f'{bag}@:1.1', f'{bag}@0.1:1.2'):
        assert main([*command, other]) != 0
        assert 'begun with other data' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--start', '-1'], 'the start of a stretch is -1 s'),
        (['--start', '2', '--end', '1'], 'starts at 2 s and ends at 1 s'),
        (['--end', 'nan'], 'nan'),
        (['--end', '0'], 'starts at 0 s and ends at 0 s'),
    ],
)
@pytest.mark.parametrize('command', ['train', 'evaluate', 'predict', 'refine'])
def test_every_command_refuses_what_is_no_stretch(
    bag: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
    words: str,
) -> None:
    more = {
        'train': ['--out', str(tmp_path), *settings('steps=1')],
        'evaluate': ['--weights', str(weights)],
        'predict': ['--weights', str(weights), '--out', str(tmp_path)],
        'refine': ['--weights', str(weights), '--out', str(tmp_path / 'w')],
    }[command]
    assert main([command, str(bag), *options, *more]) == 2
    assert words in capsys.readouterr().err
    assert main([command, f'{bag}@3:', *more]) == 1
    assert 'its last image is at 2.300 s' in capsys.readouterr().err
