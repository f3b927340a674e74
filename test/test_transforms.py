"""A camera on a link that moves: where /tf has it stand at the images' stamps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from bag_parts import Recorded, at, put_together, take_apart
from numpy.typing import NDArray
from rosbags.typesys.stores import ros2_jazzy as jazzy
from test_evaluation_inputs import CAMERA_FRAME, stamped, turned

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import DataConfig
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.transform_tree import TransformTree
from tc_depth_training.evaluation.sequence import Topics, read_sequence
from tc_depth_training.synthetic import SyntheticView, render_recording

Doubles = NDArray[np.float64]
Messages = list[Recorded]
SECOND = 1_000_000_000
FRAMES = 12
BASE_T_MAST = turned((0.1, -0.2, 0.3), (0.2, 0.0, 0.9))
PAN_T_CAMERA = turned((1.2, -1.2, 1.2), (0.05, 0.02, 0.1))
# Of /tf: from before the first image to after the last, at no image's stamp
TIMES_S = np.arange(-0.08, 2.0, 0.03)


def mast_T_pan(t_s: float, rate: float) -> Doubles:
    """A head that turns at a rate in rad/s, and is lifted."""
    return turned((0, 0, rate * t_s), (0, 0, 0.2 * rate * t_s))


@dataclass(frozen=True)
class Robot:
    """What is to be recorded of a robot whose head bears the camera."""

    rate: float = 1.0  # of the head, rad/s
    all_on_tf: bool = False  # the links that stand, too
    linked: bool = True  # the head's link is recorded
    slash: str = ''  # before some frames' names
    odometry_of: str = 'base_link'
    start_x_m: float = 0.0  # of the odometry

    def links(self, stamp_ns: int) -> list[Any]:
        """Those that stand."""
        return [
            stamped(f'{self.slash}base_link', 'mast', BASE_T_MAST, stamp_ns),
            stamped(f'{self.slash}pan', CAMERA_FRAME, PAN_T_CAMERA, stamp_ns),
        ]

    def moved(self, t_s: float, stamp_ns: int) -> list[Any]:
        """What a message of /tf has; where the robot stands is of an earlier stamp."""
        pose = turned((0, 0, t_s), (t_s, 0, 0))
        transforms = [stamped('odom', 'base_link', pose, stamp_ns - 20_000_000)]
        if self.linked:
            pose = mast_T_pan(t_s, self.rate)
            transforms.append(stamped('mast', f'{self.slash}pan', pose, stamp_ns))
        return transforms + (self.links(stamp_ns) if self.all_on_tf else [])


Record = Callable[..., Messages]


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    """Slower than rendered: as long as makes a jump back no frame that is merely late."""
    rendered = list(render_recording(frames=FRAMES, height=32, width=40))
    start_ns = rendered[0].stamp_ns
    return [replace(v, stamp_ns=start_ns + 3 * (v.stamp_ns - start_ns) // 2) for v in rendered]


@pytest.fixture
def record(views, tmp_path) -> Record:
    """What a robot's recorder gets, in its order."""
    start_ns = views[0].stamp_ns

    def odometry_of(view: SyntheticView, robot: Robot) -> SyntheticView:
        head = mast_T_pan((view.stamp_ns - start_ns) / SECOND, robot.rate)
        base_T_camera = BASE_T_MAST @ head @ PAN_T_CAMERA
        start = turned((0, 0, 0), (robot.start_x_m, 0, 0))
        pose = start @ view.world_T_camera @ np.linalg.inv(base_T_camera)
        return replace(view, world_T_camera=pose)

    def make(robot: Robot, name: str) -> Messages:
        write_bag(tmp_path / f'{name}-camera', views)
        write_bag(tmp_path / f'{name}-base', [odometry_of(view, robot) for view in views])
        camera = [m for m in take_apart(tmp_path / f'{name}-camera') if m.topic != '/odom']
        odometry = [
            replace(m, message=replace(m.message, child_frame_id=robot.odometry_of))
            for m in take_apart(tmp_path / f'{name}-base')
            if m.topic == '/odom'
        ]
        stamps = [(t_s, start_ns + round(t_s * SECOND)) for t_s in TIMES_S]
        tf = [transforms('/tf', stamp, robot.moved(t_s, stamp)) for t_s, stamp in stamps]
        static = [transforms('/tf_static', start_ns, robot.links(0))] * (not robot.all_on_tf)
        return sorted(static + tf + odometry + camera, key=lambda m: m.log_ns)

    return make


def transforms(topic: str, log_ns: int, stamped: list[Any]) -> Recorded:
    message = jazzy.tf2_msgs__msg__TFMessage(stamped)
    return Recorded(topic, message.__msgtype__, log_ns, message)


@pytest.fixture
def load(tmp_path) -> Callable[..., Recording]:
    """Write messages as a bag, and load it with a cache of this test's own."""

    def load_one(messages: Messages, name: str = 'bag', **settings: object) -> Recording:
        values = {'height': 32, 'width': 64, 'cache_dir': str(tmp_path / 'cache')}
        path = put_together(tmp_path / name, messages)
        (recording,) = load_recordings([path], DataConfig(**{**values, **settings}), True, True)
        return recording

    return load_one


def known(recording: Recording) -> list[bool]:
    return (~np.isnan(recording.world_T_camera).any(axis=(1, 2))).tolist()


def truth(views: list[SyntheticView]) -> Doubles:
    return np.stack([view.world_T_camera for view in views])


ROBOTS = {
    'head': Robot(),
    'leading slashes': Robot(slash='/'),
    'no /tf_static': Robot(all_on_tf=True),
    'links that stand on /tf alone': Robot(rate=0.0, all_on_tf=True),
}


@pytest.mark.parametrize('robot', ROBOTS)
def test_poses_of_a_camera_on_a_moving_head_come_back(record, load, views, robot) -> None:
    recording = load(record(ROBOTS[robot], 'robot'), cache='ram')
    np.testing.assert_allclose(recording.world_T_camera, truth(views), atol=1e-9)


def test_an_evaluation_sees_the_same(record, views, tmp_path) -> None:
    path = put_together(tmp_path / 'bag', record(Robot(), 'robot'))
    sequence = read_sequence(path, Topics(), tmp_path)
    np.testing.assert_allclose(sequence.world_T_camera, truth(views), atol=1e-9)


def test_odometry_of_the_head_is_climbed_down_from(views, record, load, tmp_path) -> None:
    """The camera stands on the base, and what is odometry's is on the head."""
    start_ns = views[0].stamp_ns
    messages = record(Robot(odometry_of='pan'), 'robot')
    base_T_camera = turned((0.3, 0.1, 0), (0.1, 0.2, 0.3))
    links = [
        stamped('base_link', 'mast', BASE_T_MAST),
        stamped('base_link', CAMERA_FRAME, base_T_camera),
    ]
    kept = [m for m in messages if m.topic != '/tf_static']
    recording = load([transforms('/tf_static', start_ns, links), *kept], cache='ram')
    for view, pose in zip(views, recording.world_T_camera, strict=True):
        head = BASE_T_MAST @ mast_T_pan((view.stamp_ns - start_ns) / SECOND, 1.0)
        world_T_pan = view.world_T_camera @ np.linalg.inv(head @ PAN_T_CAMERA)
        np.testing.assert_allclose(
            pose, world_T_pan @ np.linalg.inv(head) @ base_T_camera, atol=1e-9
        )


def test_where_tf_has_a_gap_or_ended_frames_have_no_pose(record, load, views) -> None:
    start_ns = views[0].stamp_ns

    def silent(m: Recorded) -> bool:
        t_s = (m.log_ns - start_ns) / SECOND
        return m.topic == '/tf' and (0.4 < t_s < 0.8 or t_s > 1.4)

    recording = load([m for m in record(Robot(), 'robot') if not silent(m)], cache='ram')
    t_s = np.array([view.stamp_ns - start_ns for view in views]) / SECOND
    expected = ~((t_s > 0.41) & (t_s < 0.79)) & (t_s < 1.39)
    assert known(recording) == expected.tolist() and 3 < expected.sum() < FRAMES - 3
    np.testing.assert_allclose(
        recording.world_T_camera[expected], truth(views)[expected], atol=1e-9
    )


def test_late_and_repeated_transforms_are_sorted_in(record, load, views) -> None:
    messages = record(Robot(), 'robot')
    moving = [m for m in messages if m.topic == '/tf']
    late = [replace(m, log_ns=m.log_ns + 300_000_000) for m in moving[3::4]]
    again = [replace(m, log_ns=m.log_ns + 100_000_000) for m in moving[1::5]]
    others = [m for m in messages if m not in moving[3::4]]
    mixed = sorted([*others, *late, *again], key=lambda m: m.log_ns)
    recording = load(mixed, cache='ram')
    np.testing.assert_allclose(recording.world_T_camera, truth(views), atol=1e-9)


def test_each_lap_of_a_loop_has_its_own_transforms(record, load, views) -> None:
    """The second time round the robot stands 5 m further on, and its head turns the other way."""
    there, back = record(Robot(), 'there'), record(Robot(rate=-2.0, start_x_m=5.0), 'back')
    later = [replace(m, log_ns=m.log_ns + 10 * SECOND) for m in back]
    recording = load(there + later, cache='ram')
    assert recording.segment.tolist() == FRAMES * [0] + FRAMES * [1]
    expected = np.concatenate([truth(views), truth(views)])
    expected[FRAMES:, 0, 3] += 5
    np.testing.assert_allclose(recording.world_T_camera, expected, atol=1e-9)


def test_a_frame_that_nothing_links_is_named_with_the_links_there_are(record, load) -> None:
    with pytest.raises(BagError) as caught:
        load(record(Robot(linked=False), 'robot'))
    for words in (
        "/odom needs the transform between 'base_link' and 'camera_color_optical_frame'",
        '/tf_static links base_link -> mast, pan -> camera_color_optical_frame',
        'and /tf, in its first 10 s, odom -> base_link:',
        'record /tf_static and /tf',
    ):
        assert words in str(caught.value)


def test_for_a_link_not_all_of_tf_is_searched(record, load) -> None:
    messages = record(Robot(), 'robot')
    first = next(m for m in messages if m.topic == '/tf')
    unlinked = transforms('/tf', first.log_ns - 11 * SECOND, first.message.transforms[:1])
    with pytest.raises(BagError, match='in its first 10 s, odom -> base_link'):
        load([unlinked, *messages], 'late')
    soon = replace(unlinked, log_ns=first.log_ns - 9 * SECOND)
    assert all(known(load([soon, *messages], 'soon')))


def test_transforms_of_another_time_are_refused(record, load, tmp_path) -> None:
    def elsewhen(m: Recorded) -> Recorded:
        moved = [at(x, m.log_ns + 60 * SECOND) for x in m.message.transforms]
        return transforms('/tf', m.log_ns, moved)

    messages = [elsewhen(m) if m.topic == '/tf' else m for m in record(Robot(), 'robot')]
    with pytest.raises(BagError, match='/odom with mast -> pan of /tf of .* does not overlap'):
        load(messages)
    with pytest.raises(BagError, match=r'/odom with /tf of .* it is stamped 1700000059\.920 to'):
        read_sequence(tmp_path / 'bag', Topics(), tmp_path)


def test_other_transforms_make_another_cache(record, load, views, tmp_path) -> None:
    messages = record(Robot(), 'robot')
    assert load(messages, 'one/bag').key == load(messages, 'copy/bag').key

    def otherwise(m: Recorded) -> Recorded:
        odometry, head, *rest = m.message.transforms
        shift = replace(head.transform.translation, y=3.0)
        head = replace(head, transform=replace(head.transform, translation=shift))
        return transforms('/tf', m.log_ns, [odometry, head, *rest])

    changed = load([otherwise(m) if m.topic == '/tf' else m for m in messages], 'other/bag')
    assert len(list((tmp_path / 'cache').glob('*/meta.json'))) == 2
    assert known(changed) == FRAMES * [True]
    off_m = np.linalg.norm((changed.world_T_camera - truth(views))[:, :3, 3], axis=1)
    np.testing.assert_allclose(off_m, 3.0)


def test_the_bag_is_passed_once(record, load, monkeypatch) -> None:
    """Of /tf no more is looked at before than what makes the chain whole."""
    messages, read, recorded = record(Robot(), 'robot'), list[str](), Bag._recorded

    def counted(self: Bag, topics: Collection[str], *args: Any) -> Iterator[Any]:
        for item in recorded(self, topics, *args):
            read.append(item[1])
            yield item

    monkeypatch.setattr(Bag, '_recorded', counted)
    load(messages)
    assert read.count('/tf') == 1 + len(TIMES_S)
    assert read.count('/odom') == 1 + FRAMES


def test_no_more_is_read_where_the_links_stand(record, load, monkeypatch) -> None:
    messages, topics = record(Robot(rate=0.0), 'robot'), set[str]()
    static = [*Robot().links(0), stamped('mast', 'pan', np.eye(4))]
    recorded = Bag._recorded

    def noted(self: Bag, asked: Collection[str], *args: Any) -> Iterator[Any]:
        for item in recorded(self, asked, *args):
            topics.add(item[1])
            yield item

    monkeypatch.setattr(Bag, '_recorded', noted)
    recording = load([transforms('/tf_static', messages[0].log_ns - 1, static), *messages])
    assert all(known(recording)) and '/tf' not in topics


def test_only_what_tf_static_lacks_moves_and_a_loop_ends() -> None:
    tree = TransformTree()
    tree.add_constant(transforms('', 0, [stamped('base', 'mast', BASE_T_MAST)]).message)
    moving = [stamped(*ends, np.eye(4)) for ends in (('hall', 'mast'), ('mast', 'pan'))]
    tree.add_moving(transforms('', 0, moving).message)
    assert [str(link) for link in tree.chain('base', 'pan').moving] == ['mast -> pan']
    assert tree.chain('hall', 'pan') is None
    tree.add_moving(transforms('', 0, [stamped('pan', 'base', np.eye(4))]).message)
    assert tree.chain('base', 'hall') is None
    head = turned((0, 0, 1), (1, 2, 3))
    np.testing.assert_allclose(tree.chain('base', 'pan').transform([head]), BASE_T_MAST @ head)
