"""Which of a bag's topics measures depth, and how it comes to fit the rectified image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_parts import Recorded, put_together, take_apart
from numpy.typing import NDArray
from test_data import merge
from test_evaluation_inputs import LIDAR, lidar_bag, write_static_transforms

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import ConfigError, DataConfig
from tc_depth_training.config_file import load_config
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.depth_source import FoundDepth, find_depth
from tc_depth_training.data.load import load_recordings
from tc_depth_training.evaluation.sequence import Topics, read_sequence
from tc_depth_training.inspect import inspect_bag
from tc_depth_training.synthetic import SyntheticView, render_recording

DEPTH, INFO = '/camera/depth/image_rect_raw', '/camera/color/camera_info'
ALIGNED = '/camera/aligned_depth_to_color/image_raw'  # as a RealSense names it
OWN_FRAME = 'camera_depth_optical_frame'
D = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
SIZE = (64, 80)

ReadDepth = Callable[[Path], NDArray[np.float32]]


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return list(render_recording(frames=6, height=SIZE[0], width=SIZE[1]))


@pytest.fixture(scope='module')
def recorded(views, tmp_path_factory) -> list[Recorded]:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, views, image_format='png', depth_encoding='32FC1')
    return take_apart(path)


def trained_on(bag: Path) -> NDArray[np.float32]:
    """Measured depth as training judges by it, (N, H, W)."""
    data = DataConfig(height=SIZE[0], width=SIZE[1], cache='ram')
    (recording,) = load_recordings([bag], data, pose_required=False, quiet=True)
    assert recording.depth is not None
    return recording.depth.read(recording.depth_rows).astype(np.float32)


@pytest.fixture
def evaluated(tmp_path: Path) -> ReadDepth:
    """Measured depth as ``tc-depth evaluate`` has it, (N, H, W)."""

    def read(bag: Path) -> NDArray[np.float32]:
        sequence = read_sequence(bag, Topics(), tmp_path)
        assert sequence.truth is not None
        return sequence.truth

    return read


@pytest.fixture(params=['trained on', 'evaluated'])
def read(request: pytest.FixtureRequest, evaluated: ReadDepth) -> ReadDepth:
    return trained_on if request.param == 'trained on' else evaluated


def distorted(m: Recorded) -> Recorded:
    return replace(m, message=replace(m.message, d=D)) if m.topic == INFO else m


def renamed(m: Recorded, topic: str) -> Recorded:
    return replace(m, topic=topic) if m.topic == DEPTH else m


def of_frame(m: Recorded, frame_id: str) -> Recorded:
    header = replace(m.message.header, frame_id=frame_id)
    return replace(m, message=replace(m.message, header=header))


# Rectification


def test_depth_of_a_raw_image_is_rectified_as_the_image_is(
    recorded, views, read, tmp_path
) -> None:
    bag = put_together(tmp_path / 'raw', [renamed(distorted(m), ALIGNED) for m in recorded])
    depth = read(bag)
    for view, found in zip(views, depth, strict=True):
        u, v = cv2.initUndistortRectifyMap(view.K, D, None, view.K, SIZE[::-1], cv2.CV_32FC1)
        nearest = view.depth[
            np.rint(v).astype(int).clip(0, SIZE[0] - 1),
            np.rint(u).astype(int).clip(0, SIZE[1] - 1),
        ]
        seen = np.isfinite(found)
        assert seen.mean() > 0.8
        same = np.isclose(found, nearest, rtol=2e-3)
        assert same[seen].mean() > 0.97  # the others lie between two pixels
        assert not np.isclose(found, view.depth, rtol=2e-3)[seen].mean() > 0.9


def test_smaller_depth_is_brought_to_the_image_before_it_is_rectified(
    recorded, read, tmp_path
) -> None:
    def halved(m: Recorded) -> Recorded:
        if m.topic != DEPTH:
            return m
        depth = np.frombuffer(m.message.data, '<f4').reshape(SIZE)[::2, ::2]
        data = np.frombuffer(depth.tobytes(), np.uint8)
        size = {'height': SIZE[0] // 2, 'width': SIZE[1] // 2, 'step': 2 * SIZE[1]}
        return replace(m, message=replace(m.message, data=data, **size))

    raw = [renamed(distorted(m), ALIGNED) for m in recorded]
    whole = read(put_together(tmp_path / 'whole', raw))
    half = read(
        put_together(tmp_path / 'half', [renamed(distorted(halved(m)), ALIGNED) for m in recorded])
    )
    np.testing.assert_array_equal(np.isfinite(half), np.isfinite(whole))
    assert np.nanmedian(np.abs(half / whole - 1)) < 0.01


def test_depth_that_says_it_is_rectified_is_taken_as_it_is(
    recorded, views, read, tmp_path
) -> None:
    bag = put_together(tmp_path / 'rectified', [distorted(m) for m in recorded])
    np.testing.assert_allclose(read(bag), [view.depth for view in views], rtol=1e-3)


def test_each_frame_has_its_own_camera(recorded, views, read, tmp_path) -> None:
    """A CameraInfo that changes on the way changes how depth is rectified from there on."""
    third = views[3].stamp_ns
    changed = [renamed(distorted(m) if m.log_ns >= third else m, ALIGNED) for m in recorded]
    depth = read(put_together(tmp_path / 'changed', changed))
    as_it_is = [np.allclose(d, v.depth, rtol=1e-3) for d, v in zip(depth, views, strict=True)]
    assert as_it_is == 3 * [True] + 3 * [False]


# Which topic


def test_of_several_depths_the_one_of_the_cameras_frame_is_taken(
    recorded, read, views, tmp_path
) -> None:
    both = [m for m in recorded if m.topic != DEPTH]
    for m in recorded:
        if m.topic == DEPTH:
            own = replace(m.message, data=np.zeros_like(m.message.data))
            both += [replace(m, topic=ALIGNED), of_frame(replace(m, message=own), OWN_FRAME)]
    depth = read(put_together(tmp_path / 'both', sorted(both, key=lambda m: m.log_ns)))
    np.testing.assert_allclose(depth, [view.depth for view in views], rtol=1e-3)


@pytest.fixture
def unaligned(recorded, tmp_path) -> Path:
    """A RealSense as it comes: depth of its own frame only."""
    messages = [of_frame(m, OWN_FRAME) if m.topic == DEPTH else m for m in recorded]
    return put_together(tmp_path / 'unaligned', messages)


def test_depth_of_another_frame_is_refused_with_the_remedy(unaligned, evaluated) -> None:
    with pytest.raises(BagError) as caught:
        evaluated(unaligned)
    for words in (DEPTH, OWN_FRAME, 'camera_color_optical_frame', 'align_depth', '--depth none'):
        assert words in str(caught.value)


def test_training_goes_on_without_depth_of_another_frame_and_says_so(unaligned, capsys) -> None:
    data = DataConfig(height=SIZE[0], width=SIZE[1], cache='ram')
    (recording,) = load_recordings([unaligned], data, pose_required=False)
    assert recording.depth is None
    said = capsys.readouterr().out
    assert 'unaligned goes without depth images' in said and 'align_depth' in said


def test_inspect_says_what_measures_depth_or_why_nothing_does(
    recorded, unaligned, tmp_path
) -> None:
    fitting = inspect_bag(put_together(tmp_path / 'fitting', recorded), [0.1])
    assert f'\nmeasured depth: {DEPTH}' in fitting
    without = put_together(tmp_path / 'without', [m for m in recorded if m.topic != DEPTH])
    assert inspect_bag(without, [0.1]).endswith('\nmeasured depth: none')
    said = inspect_bag(unaligned, [0.1])
    assert re.search('measured depth: none\n  passed over: depth images: .*align_depth', said)


def found_in(path: Path, messages: list[Recorded], depth: str = '', **options: Any) -> FoundDepth:
    with Bag(put_together(path, messages)) as bag:
        return find_depth(bag, bag.find_camera(), depth, **options)


def test_where_depth_does_not_fit_a_lidar_does_and_all_say_so(
    views, unaligned, tmp_path, evaluated, capsys
) -> None:
    both = merge(tmp_path / 'both', (lidar_bag(tmp_path, views), ''), (unaligned, 'depth'))
    assert f'measured depth: {LIDAR}\n  passed over: depth' in inspect_bag(both, [0.1])
    assert np.isfinite(evaluated(both)).any() and np.isfinite(trained_on(both)).any()
    assert 'passing over depth images' in capsys.readouterr().err
    with Bag(both) as bag:
        found = find_depth(bag, bag.find_camera()).source
        assert found is not None and found.camera_T_points is not None
        assert found.count == len(views)
        # What is named is not replaced
        assert find_depth(bag, bag.find_camera(), '/x').source is None


def test_a_topic_that_is_named_is_taken_at_its_word_and_alone(unaligned) -> None:
    with Bag(unaligned) as bag:
        camera = bag.find_camera()
        found = find_depth(bag, camera, DEPTH)
        assert found.source is not None and found.source.topic == DEPTH
        # But of several cameras it is one's only
        of_several = find_depth(bag, camera, DEPTH, vouched=False)
        assert of_several.source is None and OWN_FRAME in of_several.passed_over[0]
        assert find_depth(bag, camera, 'none') == FoundDepth(None, ())
        assert "no depth topic '/x'" in find_depth(bag, camera, '/x').passed_over[0]


def test_of_several_cameras_a_depth_that_is_named_is_one_cameras(views, tmp_path, capsys) -> None:
    for name in ('/front', '/rear'):
        write_bag(tmp_path / name[1:], views, camera=name)
    path = merge(tmp_path / 'both', (tmp_path / 'front', ''), (tmp_path / 'rear', 'rear'))
    images = tuple(f'{name}/color/image_raw/compressed' for name in ('/front', '/rear'))
    named = '/front/depth/image_rect_raw'
    data = DataConfig(
        height=SIZE[0], width=SIZE[1], cache='ram', image_topics=images, depth_topic=named
    )
    front, rear = load_recordings([path], data, pose_required=False)
    assert front.depth is not None and rear.depth is None
    assert f'{images[1]} goes without depth images' in capsys.readouterr().out


def test_two_that_both_fit_are_to_be_chosen_from(recorded, tmp_path) -> None:
    messages = [*recorded, *(renamed(m, ALIGNED) for m in recorded if m.topic == DEPTH)]
    (reason,) = found_in(tmp_path / 'bag', messages).passed_over
    assert re.search(f'2 depth topics .*{ALIGNED}.*--depth TOPIC', reason)
    chosen = found_in(tmp_path / 'again', messages, ALIGNED).source
    assert chosen is not None and chosen.is_raw


@pytest.mark.parametrize(
    ('of_camera', 'of_info', 'of_depth', 'fits'),
    [
        ('a', 'a', '', True),
        ('a', 'a', '/a', True),
        ('/a', '/a', 'a', True),
        ('', '', 'a', True),
        ('', 'a', 'a', True),
        ('', 'b', 'a', False),
        ('b', 'b', 'a', False),
    ],
)
def test_frames_are_compared_by_name(
    recorded, tmp_path, of_camera, of_info, of_depth, fits
) -> None:
    frames = {DEPTH: of_depth, INFO: of_info, '/odom': 'world'}
    messages = [of_frame(m, frames.get(m.topic, of_camera)) for m in recorded]
    assert (found_in(tmp_path / 'bag', messages).source is not None) == fits


@pytest.mark.parametrize(('apart_m', 'fits'), [(0.0, True), (0.015, False)])
def test_frames_of_one_place_are_one(views, unaligned, tmp_path, apart_m, fits) -> None:
    pose = np.eye(4)
    pose[0, 3] = apart_m
    link = ('camera_color_optical_frame', OWN_FRAME, pose)
    static = write_static_transforms(tmp_path / 'static', link)
    path = merge(tmp_path / 'bag', (unaligned, ''), (static, ''))
    with Bag(path) as bag:
        assert (find_depth(bag, bag.find_camera()).source is not None) == fits


def info_of_depth(recorded: list[Recorded], topic: str, **changes: Any) -> list[Recorded]:
    """A CameraInfo beside the depth, of its first message."""
    info = next(m for m in recorded if m.topic == INFO)
    beside = f'{topic.rpartition("/")[0]}/camera_info'
    return [replace(info, topic=beside, message=replace(info.message, **changes))]


def test_the_camera_info_beside_says_whether_depth_is_rectified(recorded, tmp_path) -> None:
    name = '/zed/depth/depth_registered'
    messages = [renamed(distorted(m), name) for m in recorded]
    for folder, d, is_raw in (('straight', np.zeros(5), False), ('bent', D, True)):
        beside = info_of_depth(recorded, name, d=d)
        found = found_in(tmp_path / folder, [*messages, *beside]).source
        assert found is not None and found.is_raw == is_raw
    # image_proc's rectified topics keep D
    by_name = [*(distorted(m) for m in recorded), *info_of_depth(recorded, DEPTH, d=D)]
    found = found_in(tmp_path / 'by_name', by_name).source
    assert found is not None and not found.is_raw
    silent = info_of_depth(recorded, name, k=np.zeros(9), p=np.zeros(12))
    found = found_in(tmp_path / 'silent', [*messages, *silent]).source
    assert found is not None and found.is_raw


def test_depth_of_another_focal_length_does_not_fit(recorded, tmp_path) -> None:
    K = next(m for m in recorded if m.topic == INFO).message.k
    for folder, factor, fits in (('same', 1.02, True), ('other', 1.4, False)):
        beside = info_of_depth(
            recorded, DEPTH, k=K * np.array([factor, 1, 1, 1, factor, 1, 1, 1, 1])
        )
        found = found_in(tmp_path / folder, [*recorded, *beside])
        assert (found.source is not None) == fits
        assert fits or 'focal length' in found.passed_over[0]
    half = info_of_depth(recorded, DEPTH, k=K / 2, width=SIZE[1] // 2, height=SIZE[0] // 2)
    assert found_in(tmp_path / 'half', [*recorded, *half]).source is not None


def test_depth_recorded_raw_and_compressed_is_one_depth(recorded, tmp_path) -> None:
    twin = next(m for m in recorded if m.topic == '/camera/color/image_raw/compressed')
    name = f'{DEPTH}/compressedDepth'
    compressed = replace(twin.message, format='32FC1; compressedDepth png')
    messages = [*recorded, replace(twin, topic=name, message=compressed)]
    found = found_in(tmp_path / 'bag', messages).source
    assert found is not None and found.topic == DEPTH
    assert 'is compressed depth' in found_in(tmp_path / 'named', messages, name).passed_over[0]


def test_two_topics_by_name_are_refused_where_they_stand(tmp_path) -> None:
    file = tmp_path / 'c.yaml'
    file.write_text('data:\n  height: 96\n  depth_topic: /a\n  lidar_topic: /b\n')
    with pytest.raises(ConfigError, match=r'lines? 3.*measured by /a or by /b, not both.*none'):
        load_config(file, [])
    file.write_text('data:\n  depth_topic: /a\n  lidar_topic: none\n')
    assert load_config(file, []).data.depth_topic == '/a'
