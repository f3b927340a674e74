"""Which of a bag's topics measures depth, and how it comes to fit the rectified image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_parts import Recorded, put_together, take_apart
from numpy.typing import NDArray

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import DataConfig
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.depth_source import find_depth_images
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
    assert '\nmeasured depth: none' in inspect_bag(without, [0.1])
    assert re.search('measured depth: not usable: .*align_depth', inspect_bag(unaligned, [0.1]))


def test_a_topic_that_is_named_is_taken_at_its_word(unaligned) -> None:
    with Bag(unaligned) as bag:
        camera = bag.find_camera()
        found = find_depth_images(bag, camera, DEPTH)
        assert found is not None and found.topic == DEPTH
        assert find_depth_images(bag, camera, 'none') is None


def test_two_that_both_fit_are_to_be_chosen_from(recorded, tmp_path) -> None:
    messages = [*recorded, *(renamed(m, ALIGNED) for m in recorded if m.topic == DEPTH)]
    with Bag(put_together(tmp_path / 'bag', messages)) as bag:
        camera = bag.find_camera()
        with pytest.raises(BagError, match=f'2 depth topics .*{ALIGNED}.*--depth TOPIC'):
            find_depth_images(bag, camera)
        found = find_depth_images(bag, camera, ALIGNED)
        assert found is not None and found.is_raw


def test_where_the_camera_says_no_frame_any_depth_will_do(recorded, tmp_path) -> None:
    silent = [m if m.topic in (DEPTH, '/odom') else of_frame(m, '') for m in recorded]
    with Bag(put_together(tmp_path / 'bag', silent)) as bag:
        assert find_depth_images(bag, bag.find_camera()) is not None


@pytest.mark.parametrize('frame_id', ['', '/camera_color_optical_frame'])
def test_a_frame_that_is_not_said_or_has_a_slash_is_no_other(recorded, tmp_path, frame_id) -> None:
    messages = [of_frame(m, frame_id) if m.topic == DEPTH else m for m in recorded]
    with Bag(put_together(tmp_path / 'bag', messages)) as bag:
        assert find_depth_images(bag, bag.find_camera()) is not None


def test_depth_recorded_raw_and_compressed_is_one_depth(recorded, tmp_path) -> None:
    twin = next(m for m in recorded if m.topic == '/camera/color/image_raw/compressed')
    compressed = replace(twin.message, format='32FC1; compressedDepth png')
    messages = [*recorded, replace(twin, topic=f'{DEPTH}/compressedDepth', message=compressed)]
    with Bag(put_together(tmp_path / 'bag', messages)) as bag:
        found = find_depth_images(bag, bag.find_camera())
        assert found is not None and found.topic == DEPTH


def test_two_topics_by_name_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match='measured by /a or by /b, not both'):
        DataConfig(depth_topic='/a', lidar_topic='/b')
    assert DataConfig(depth_topic='/a', lidar_topic='none').depth_topic == '/a'
