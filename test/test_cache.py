"""Bags to recordings: one pass, kept by content; what is wrong with a bag is said or counted."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_parts import Recorded, at, put_together, put_together_unchunked, take_apart
from conftest import shared_bag
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from tc_depth_ros.frames.preprocessing import resize_image, scaled_intrinsics
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import DataConfig
from tc_depth_training.data import cache, cache_key, frame_sink, space
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.pairing import LOOK_AHEAD, CameraInfoPairing
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Wanted, find_sources
from tc_depth_training.data.trajectory import CameraTracks
from tc_depth_training.data.windows import WindowDataset, find_windows, number_sequences
from tc_depth_training.inspect import inspect_bag
from tc_depth_training.synthetic import SyntheticView, render_recording

SECOND = 1_000_000_000
IMAGE, INFO = '/camera/color/image_raw/compressed', '/camera/color/camera_info'
DEPTH = '/camera/depth/image_rect_raw'
FRAMES = 12
SIZE = (32, 40)
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return list(render_recording(frames=FRAMES, height=64, width=80))


@pytest.fixture(scope='module')
def bag(views, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, views, image_format='png')
    return path


@pytest.fixture
def load(tmp_path) -> Callable[..., Recording]:
    """Load the only recording of a bag, with a cache of this test's own."""

    def load_one(bag: Path, pose_required: bool = False, **settings: object) -> Recording:
        values = {'height': SIZE[0], 'width': SIZE[1], 'cache_dir': str(tmp_path / 'cache')}
        data = DataConfig(**{**values, **settings})
        (recording,) = load_recordings([bag], data, pose_required, quiet=False)
        return recording

    return load_one


def images_of(recording: Recording) -> np.ndarray:
    return recording.frames.read(np.arange(len(recording)))


def kept(tmp_path: Path) -> list[str]:
    """Names of what lies in the cache folder, but for locks."""
    return sorted(p.name for p in (tmp_path / 'cache').iterdir() if p.suffix != '.lock')


# The pass


@pytest.mark.parametrize('where', ['disk', 'ram', 'none'])
def test_a_recording_holds_what_the_nodes_decoder_gives(bag, views, load, where) -> None:
    recording = load(bag, cache=where)
    with Bag(bag) as opened:
        frames = list(opened.frames(opened.find_camera()))
    expected = [resize_image(frame.image, SIZE) for frame in frames]
    np.testing.assert_array_equal(images_of(recording), expected)
    np.testing.assert_array_equal(recording.frames.read(np.array([7, 2])), expected[7:1:-5])
    K = scaled_intrinsics(frames[0].K, frames[0].size, SIZE).numpy()
    np.testing.assert_allclose(recording.K, np.tile(K, (FRAMES, 1, 1)), rtol=1e-6)
    assert recording.stamps_ns.tolist() == [view.stamp_ns for view in views]
    assert recording.segment.tolist() == FRAMES * [0]
    assert recording.seen is None and not recording.left_out
    np.testing.assert_allclose(
        recording.world_T_camera, [view.world_T_camera for view in views], atol=1e-9
    )


@pytest.mark.parametrize('where', ['disk', 'ram'])
def test_measured_depth_stands_at_its_frame(bag, views, load, where) -> None:
    recording = load(bag, cache=where)
    assert recording.depth_rows.tolist() == list(range(FRAMES))
    depth = recording.depth.read(recording.depth_rows)
    assert depth.shape == (FRAMES, *SIZE) and depth.dtype == np.float16
    nearest = cv2.resize(views[3].depth, SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_allclose(depth[3], nearest, rtol=1e-3, atol=1e-3)


def test_depth_without_a_frame_near_in_time_is_of_none(bag, load, tmp_path) -> None:
    messages = [
        replace(m, message=at(m.message, m.log_ns + 45_000_000)) if m.topic == DEPTH else m
        for m in take_apart(bag)
    ]
    moved = load(put_together(tmp_path / 'moved', messages), cache='ram')
    assert moved.depth_rows.tolist() == list(range(FRAMES))
    far = [
        replace(m, message=at(m.message, m.log_ns + 5 * SECOND)) if m.topic == DEPTH else m
        for m in messages
    ]
    assert load(put_together(tmp_path / 'far', far), cache='ram').depth_rows.max() == -1


def test_a_lidar_gives_depth_too(load) -> None:
    recording = load(shared_bag('kitti_lidar'), cache='ram', height=96, width=320)
    assert (recording.depth_rows >= 0).mean() > 0.9
    depth = recording.depth.read(recording.depth_rows[:1])[0]
    assert 0.02 < np.isfinite(depth).mean() < 0.6
    assert 3 < np.nanmedian(depth) < 40


STORAGES = {
    'mcap': lambda path, m: put_together(path, m),
    'mcap, zstd chunks': lambda path, m: put_together(
        path, m, StoragePlugin.MCAP, CompressionMode.STORAGE
    ),
    'mcap without chunks': lambda path, m: put_together_unchunked(path.with_suffix('.mcap'), m),
    'mcap, zstd file': lambda path, m: put_together(
        path, m, StoragePlugin.MCAP, CompressionMode.FILE
    ),
    'sqlite3': lambda path, m: put_together(path, m, StoragePlugin.SQLITE3),
    'sqlite3, zstd messages': lambda path, m: put_together(
        path, m, StoragePlugin.SQLITE3, CompressionMode.MESSAGE
    ),
}


@pytest.mark.parametrize(
    ('storage', 'compressed'),
    [*((name, True) for name in STORAGES), ('mcap', False), ('sqlite3', False)],
)
def test_every_storage_gives_the_same(views, load, tmp_path, storage, compressed) -> None:
    write_bag(tmp_path / 'plain', views[:5], image_format='png', compressed=compressed)
    path = STORAGES[storage](tmp_path / 'bag', take_apart(tmp_path / 'plain'))
    for where in ('ram', 'none'):
        recording = load(path, cache=where)
        expected = [resize_image(view.image, SIZE) for view in views[:5]]
        np.testing.assert_array_equal(images_of(recording), expected)


# Kept by content


@pytest.fixture
def passes(monkeypatch) -> list[str]:
    """Names of the bags that are read, one for each pass."""
    names, read_bag = [], cache.read_bag

    def counted(source, *rest):
        names.append(source.name)
        return read_bag(source, *rest)

    monkeypatch.setattr(cache, 'read_bag', counted)
    return names


def test_a_bag_is_read_once_and_a_copy_is_the_same(bag, load, tmp_path, passes) -> None:
    first, second = load(bag), load(bag)
    shutil.copytree(bag, tmp_path / 'copy')
    copied = load(tmp_path / 'copy')
    assert passes == ['room']
    assert copied.name == 'copy'
    for again in (second, copied):
        np.testing.assert_array_equal(images_of(again), images_of(first))
        for name in ('K', 'stamps_ns', 'segment', 'world_T_camera', 'depth_rows'):
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        assert again.left_out == first.left_out
    assert len(kept(tmp_path)) == 1


def test_what_is_asked_for_and_what_is_there_make_the_key(bag, load, tmp_path, passes) -> None:
    load(bag)
    load(bag, width=48)
    load(bag, odometry_topic='none')
    load(bag, depth_topic='none')
    messages = take_apart(bag)
    other = [m for m in messages if m.log_ns > messages[0].log_ns]
    load(put_together(tmp_path / 'other' / 'room', other))
    assert len(passes) == 5 and len(kept(tmp_path)) == 5


def test_one_byte_more_or_less_is_another_bag(bag, tmp_path) -> None:
    shutil.copytree(bag, tmp_path / 'room')
    (source,) = find_sources(tmp_path / 'room', Wanted(SIZE), False)
    data, first = tmp_path / 'room' / 'room.mcap', cache_key.cache_key(source)
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(whole)
    assert cache_key.cache_key(source) != first


@pytest.fixture
def large(bag, tmp_path) -> Path:
    """A bag beyond what is hashed whole: 70 MB behind an MCAP's beginning, and its end."""
    shutil.copytree(bag, tmp_path / 'room')
    data = tmp_path / 'room' / 'room.mcap'
    with data.open('r+b') as file:
        file.truncate(70 * 2**20)
        file.seek(0, os.SEEK_END)
        file.write((bag / 'room.mcap').read_bytes()[-10_000:])
    return data


def test_of_a_large_bag_sizes_edges_and_samples_make_the_key(bag, large, tmp_path) -> None:
    (source,) = find_sources(bag, Wanted(SIZE), False)

    def key(path: Path = large.parent) -> str:
        return cache_key.cache_key(replace(source, bag=path))

    first, size = key(), large.stat().st_size
    os.utime(large, ns=(0, 1))
    (large.parent / 'runs').mkdir()
    (large.parent / 'runs' / 'last.pt').write_bytes(b'of a run, not of the bag')
    shutil.copytree(large.parent, tmp_path / 'elsewhere')
    assert key() == key(tmp_path / 'elsewhere') == first

    between = cache_key.EDGE + (size - 2 * cache_key.EDGE) // (2 * (cache_key.BLOCKS // 2))
    for place in (0, 2**20 - 1, between, size - 2**20, size - 1):
        before = large.read_bytes()
        with large.open('r+b') as file:
            file.seek(place)
            file.write(bytes([before[place] ^ 1]))
        assert key() != first, place
        large.write_bytes(before)
    assert key() == first
    large.write_bytes(large.read_bytes() + b'0')
    assert key() != first
    (large.parent / 'metadata.yaml').write_text('another')
    second = key()
    (large.parent / 'metadata.yaml').write_text('another, too')
    assert key() != second


def test_of_a_bag_of_gigabytes_little_is_read(bag, tmp_path, monkeypatch) -> None:
    (source,) = find_sources(bag, Wanted(SIZE), False)
    for number in range(3):
        with (tmp_path / f'{number}.mcap').open('wb') as file:
            file.truncate(4 * 2**30)  # of holes
    read, sha256 = [], hashlib.sha256

    class Counted:
        def __init__(self, data: bytes) -> None:
            self._digest = sha256(data)

        def update(self, data: bytes) -> None:
            read.append(len(data))
            self._digest.update(data)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    monkeypatch.setattr(hashlib, 'sha256', Counted)
    cache_key.cache_key(replace(source, bag=tmp_path))
    assert sum(read) < 12 * 2**20


@pytest.mark.parametrize(
    ('file', 'harm'),
    [
        ('frames.u8', 'cut'),
        ('depth.f2', 'gone'),
        ('index.npz', 'cut'),
        ('index.npz', 'gone'),
        ('meta.json', 'cut'),
    ],
)
def test_half_a_cache_is_built_anew(bag, load, tmp_path, passes, file, harm) -> None:
    expected = images_of(load(bag))
    (folder,) = (tmp_path / 'cache').glob('room-*')
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    if harm == 'gone':
        (folder / file).unlink()
    np.testing.assert_array_equal(images_of(load(bag)), expected)
    assert len(passes) == 2 and (folder / file).read_bytes()[:16] == data[:16]


def test_found_windows_are_kept_too(bag, load, monkeypatch) -> None:
    first = find_windows(load(bag), [0.1, 0.15])
    monkeypatch.setattr('tc_depth_training.data.windows.flows_px', None)
    again = find_windows(load(bag), [0.1, 0.15])
    np.testing.assert_array_equal(again.indices, first.indices)
    np.testing.assert_array_equal(again.posed, first.posed)
    counts = [(w.static, w.without_pose, w.without_frame, w.sequences) for w in (first, again)]
    assert counts[0] == counts[1] and first.without_frame > 0
    with pytest.raises(TypeError):
        find_windows(load(bag), [0.3])


def load_and_count(bag: Path, root: str, results: multiprocessing.Queue) -> None:
    """In another process: load, slowly, and say how often the bag was read."""
    reads, read_bag = [], cache.read_bag

    def slow(*arguments):
        reads.append(1)
        time.sleep(0.5)
        return read_bag(*arguments)

    cache.read_bag = slow
    data = DataConfig(height=SIZE[0], width=SIZE[1], cache_dir=root)
    (recording,) = load_recordings([bag], data, False, quiet=True)
    results.put((len(reads), int(images_of(recording).sum())))


def build_slowly(bag: Path, root: Path, begun: multiprocessing.Queue) -> None:
    """In another process, as a rank that shows nothing: build, and rest before the last image."""
    append, taken = frame_sink.FileSink.append, []

    def slow(sink: frame_sink.FileSink, image: np.ndarray) -> None:
        append(sink, image)
        if image.ndim == 3:
            taken.append(1)
        if len(taken) == FRAMES - 1:
            begun.put(None)
            time.sleep(0.5)

    frame_sink.FileSink.append = slow
    data = DataConfig(height=SIZE[0], width=SIZE[1], cache_dir=str(root))
    load_recordings([bag], data, False, quiet=True)


def test_who_waits_shows_the_size_and_how_far_the_one_is_that_builds(
    bag, load, tmp_path, passes, capsys, monkeypatch
) -> None:
    """Under torchrun it may be a silent rank that comes first; the main process shows it all."""
    monkeypatch.setattr(cache, 'LOOK_EVERY_S', 0.01)
    context = multiprocessing.get_context('fork')
    begun = context.Queue()
    builder = context.Process(
        target=build_slowly, args=(bag, tmp_path / 'cache', begun), daemon=True
    )
    builder.start()
    begun.get(timeout=30)
    recording = load(bag)
    assert len(recording) == FRAMES and passes == []
    said = capsys.readouterr()
    assert f'room: {FRAMES} images become 40x32' in said.out
    counts = re.findall(rf'another process is reading room:[^\r]* (\d+)/{FRAMES} ', said.err)
    assert counts[0] == '0' and FRAMES - 4 <= int(counts[-1]) <= FRAMES


def test_of_two_processes_one_builds_and_the_other_waits(bag, tmp_path) -> None:
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    arguments = (bag, str(tmp_path / 'cache'), results)
    both = [context.Process(target=load_and_count, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    (one, one_sum), (other, other_sum) = results.get(timeout=60), results.get(timeout=60)
    for process in both:
        process.join()
    assert one + other == 1
    assert one_sum == other_sum > 0
    assert len(kept(tmp_path)) == 1


# Nothing half-written is left behind


@pytest.mark.parametrize('error', [RuntimeError('a fault'), KeyboardInterrupt()])
def test_a_pass_cut_off_leaves_nothing(bag, load, tmp_path, monkeypatch, error) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(CameraTracks, 'add', fail)
    with pytest.raises(type(error)):
        load(bag)
    assert kept(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(bag, load, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(frame_sink.FileSink, 'append', full)
    with pytest.raises(BagError, match=r'is full.*data\.cache_dir'):
        load(bag)
    assert kept(tmp_path) == []


def test_too_little_space_is_found_before_the_pass(bag, load, passes, monkeypatch) -> None:
    usage = shutil.disk_usage('/')._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    assert SIZE[0] * SIZE[1] * (3 + 2) * FRAMES == 76_800
    with pytest.raises(BagError, match=r'76.8 kB.*1.0 kB free.*data\.cache: none'):
        load(bag)
    assert passes == []


@pytest.fixture
def halves(bag, tmp_path) -> list[Path]:
    """Two bags of six images each."""
    messages = take_apart(bag)
    middle = messages[0].log_ns + SECOND * FRAMES // 20
    first = [m for m in messages if m.log_ns < middle]
    second = [m for m in messages if m.log_ns >= middle]
    return [put_together(tmp_path / name, m) for name, m in (('a', first), ('b', second))]


@pytest.mark.parametrize('where', ['disk', 'ram'])
def test_too_little_space_for_all_bags_is_found_before_the_first_pass(
    halves, tmp_path, passes, monkeypatch, capsys, where
) -> None:
    data = DataConfig(height=32, width=40, cache=where, cache_dir=str(tmp_path / 'cache'))
    free = 70_000
    usage = shutil.disk_usage('/')._replace(free=free)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    monkeypatch.setattr(space, 'free_memory', lambda: free)
    said = r'too little (space|memory): a 38\.4 kB \+ b 38\.4 kB = 76\.8 kB would'
    with pytest.raises(BagError, match=said):
        load_recordings(halves, data, False)
    assert passes == []
    load_recordings(halves[:1], data, False, quiet=True)
    if where == 'disk':  # one has its cache now
        load_recordings(halves, data, False)
        assert passes == ['a', 'b'] and 'b: 6 images' in capsys.readouterr().out


def test_frames_in_memory_are_counted_for_every_process_of_the_machine(
    halves, passes, monkeypatch
) -> None:
    data = DataConfig(height=32, width=40, cache='ram')
    monkeypatch.setattr(space, 'free_memory', lambda: 100_000)
    load_recordings(halves, data, False, quiet=True)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(
        BagError, match='76.8 kB would be held by each of 2 processes, and 100.0 kB'
    ):
        load_recordings(halves, data, False, quiet=True)
    assert len(passes) == 2


def test_what_another_process_has_built_so_far_is_not_counted_twice(
    bag, tmp_path, monkeypatch
) -> None:
    (source,) = find_sources(bag, Wanted(SIZE), False)
    (tmp_path / '.key.partial').mkdir()
    (tmp_path / '.key.partial' / 'frames.u8').write_bytes(bytes(40_000))
    usage = shutil.disk_usage('/')._replace(free=76_800 - 40_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    assert cache.find_missing({'key': source}, tmp_path) == [source]
    with pytest.raises(BagError, match='36.8 kB free'):
        cache.find_missing({'another': source}, tmp_path)


def test_all_that_will_be_read_is_said_at_once(halves, tmp_path, capsys) -> None:
    data = DataConfig(height=32, width=40, cache_dir=str(tmp_path / 'cache'))
    load_recordings(halves, data, False)
    assert capsys.readouterr().out.splitlines() == [
        'a: 6 images become 40x32, 38.4 kB',
        'b: 6 images become 40x32, 38.4 kB',
        f'76.8 kB together, kept in {tmp_path / "cache"}',
    ]
    load_recordings(halves, data, False)
    assert capsys.readouterr().out == ''


def test_a_bag_given_twice_is_used_once(halves, tmp_path, passes, capsys) -> None:
    shutil.copytree(halves[0], tmp_path / 'copy')
    data = DataConfig(height=32, width=40, cache_dir=str(tmp_path / 'cache'))
    found = load_recordings([*halves, tmp_path / 'copy', halves[1]], data, False)
    assert [r.name for r in found] == passes == ['a', 'b']
    said = capsys.readouterr().out
    assert f'{halves[0]} and {tmp_path / "copy"} hold the same: it is used once' in said
    assert f'{halves[1]} and {halves[1]} hold the same' in said


def test_a_cache_folder_that_cannot_be_made_is_named(bag, load, tmp_path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(BagError, match=r'file/cache.*data\.cache_dir'):
        load(bag, cache_dir=str(tmp_path / 'file' / 'cache'))


def build_and_halt(bag: Path, root: Path, begun: multiprocessing.Queue) -> None:
    """In another process, as of another container: build, and stop amid the pass."""

    def halt(*_: object) -> None:
        begun.put(None)
        time.sleep(60)

    frame_sink.FileSink.append = halt
    os.getpid = lambda: 1
    socket.gethostname = lambda: 'elsewhere'
    load_recordings([bag], DataConfig(height=32, width=48, cache_dir=str(root)), False, quiet=True)


def test_what_is_being_built_stays_and_what_a_killed_process_left_is_removed(
    bag, load, tmp_path
) -> None:
    """Neither host nor process number tells them apart: containers share the one or the other."""
    context = multiprocessing.get_context('fork')
    begun = context.Queue()
    arguments = (bag, tmp_path / 'cache', begun)
    builder = context.Process(target=build_and_halt, args=arguments, daemon=True)
    builder.start()
    begun.get(timeout=30)
    (tmp_path / 'cache' / '.abc.partial').mkdir()
    (being_built,) = set(kept(tmp_path)) - {'.abc.partial'}
    load(bag)
    assert [name for name in kept(tmp_path) if name.endswith('partial')] == [being_built]
    builder.kill()
    builder.join()
    load(bag, width=64)
    assert not [name for name in kept(tmp_path) if name.endswith('partial')]


def test_what_a_killed_process_left_of_the_same_bag_does_no_harm(
    bag, load, tmp_path, passes
) -> None:
    expected = images_of(load(bag))
    (folder,) = (tmp_path / 'cache').glob('room-*')
    folder.rename(tmp_path / 'cache' / f'.{folder.name.removeprefix("room-")}.partial')
    np.testing.assert_array_equal(images_of(load(bag)), expected)
    assert kept(tmp_path) == [folder.name] and len(passes) == 2


def test_the_size_is_said_before_and_meta_is_for_people(bag, load, tmp_path, capsys) -> None:
    load(bag)
    said = capsys.readouterr().out
    assert f'room: {FRAMES} images become 40x32' in said and str(tmp_path / 'cache') in said
    (folder,) = (tmp_path / 'cache').glob('room-*')
    meta = json.loads((folder / 'meta.json').read_text())
    assert meta['image_topic'] == IMAGE and meta['frames_kept'] == FRAMES
    load_recordings([bag], DataConfig(height=64, width=64, cache='ram'), False, quiet=True)
    assert capsys.readouterr() == ('', '')


# Sequences


def test_a_bag_played_in_a_loop_gives_two_segments_with_their_own_poses(
    bag, views, load, tmp_path
) -> None:
    once = take_apart(bag)
    later = 10 * SECOND

    def elsewhere(m: Recorded) -> Recorded:
        """The second time round the robot says that it stands 5 m further on."""
        message = m.message
        if m.topic == '/odom':
            position = replace(message.pose.pose.position, x=message.pose.pose.position.x + 5)
            pose = replace(message.pose.pose, position=position)
            message = replace(message, pose=replace(message.pose, pose=pose))
        return replace(m, log_ns=m.log_ns + later, message=message)

    # Long enough that the jump back is no frame that is merely late
    start = once[0].log_ns
    slow = [replace(m, message=at(m.message, 2 * m.log_ns - start)) for m in once]
    recording = load(put_together(tmp_path / 'loop', slow + [elsewhere(m) for m in slow]))
    assert recording.segment.tolist() == FRAMES * [0] + FRAMES * [1]
    assert recording.stamps_ns.tolist() == 2 * [2 * view.stamp_ns - start for view in views]
    x = recording.world_T_camera[:, 0, 3]
    np.testing.assert_allclose(x[FRAMES:], x[:FRAMES] + 5)
    assert recording.depth_rows.tolist() == list(range(2 * FRAMES))
    windows = find_windows(recording, [0.2]).indices
    assert len(windows) and (np.diff(recording.segment[windows]) == 0).all()


def test_late_and_repeated_frames_are_sorted_in_and_counted(bag, views, load, tmp_path) -> None:
    messages = take_apart(bag)
    images = [m for m in messages if m.topic == IMAGE]
    last = messages[-1].log_ns
    late = [
        replace(images[4], log_ns=last + 1),
        replace(images[6], log_ns=last + 2),
    ]
    others = [m for m in messages if m is not images[4]]
    recording = load(put_together(tmp_path / 'late', others + late))
    assert recording.stamps_ns.tolist() == [view.stamp_ns for view in views]
    assert recording.left_out == {'stamp repeated': 1}
    assert recording.sorted_in == 1
    expected = [resize_image(view.image, SIZE) for view in views]
    np.testing.assert_array_equal(images_of(recording), expected)
    np.testing.assert_allclose(recording.world_T_camera[4], views[4].world_T_camera, atol=1e-9)
    assert recording.depth_rows.tolist() == list(range(FRAMES))


def test_a_gap_ends_a_sequence(bag, load, tmp_path) -> None:
    messages = take_apart(bag)
    start = messages[0].log_ns
    gap = [m for m in messages if not start + 0.35 * SECOND < m.log_ns < start + 0.65 * SECOND]
    recording = load(put_together(tmp_path / 'gap', gap))
    assert number_sequences(recording, 0.1).tolist() == 4 * [0] + 5 * [1]
    assert recording.segment.max() == 0


def test_a_change_of_the_camera_begins_a_segment(views, load, tmp_path) -> None:
    """The size and K change midway, then K alone."""
    write_bag(tmp_path / 'large', views[:4], image_format='png')
    small = [
        replace(
            view,
            image=resize_image(view.image, (48, 60)),
            depth=view.depth[:48, :60],
            K=np.diag([40.0, 40, 1] if number < 8 else [50.0, 50, 1]),
        )
        for number, view in enumerate(views[4:], 4)
    ]
    write_bag(tmp_path / 'small', small, image_format='png')
    both = [m for name in ('large', 'small') for m in take_apart(tmp_path / name)]
    recording = load(put_together(tmp_path / 'both', both), depth_topic='none')
    assert recording.segment.tolist() == 4 * [0] + 4 * [1] + 4 * [2]
    assert recording.camera.tolist() == recording.segment.tolist()
    focal = recording.K[:, 0, 0]
    assert focal[4] == pytest.approx(40 * SIZE[1] / 60) and focal[8] == pytest.approx(50 * 2 / 3)
    assert focal[0] == pytest.approx(views[0].K[0, 0] / 2)
    assert find_windows(recording, [0.1]).indices[:, 0].tolist() == [0, 1, 4, 5, 8, 9]


@pytest.mark.parametrize('delay_ms', [20, 250])
def test_a_camera_info_that_comes_after_its_image_is_still_its_own(
    views, load, tmp_path, delay_ms
) -> None:
    changing = [replace(v, K=np.diag([40.0 + i, 40 + i, 1])) for i, v in enumerate(views)]
    write_bag(tmp_path / 'bag', changing, image_format='png')
    messages = [
        replace(m, log_ns=m.log_ns + delay_ms * 1_000_000) if m.topic == INFO else m
        for m in take_apart(tmp_path / 'bag')
    ]
    late = put_together(tmp_path / 'late', sorted(messages, key=lambda m: m.log_ns))
    for where in ('ram', 'none'):
        recording = load(late, cache=where)
        np.testing.assert_allclose(recording.K[:, 0, 0], (40 + np.arange(FRAMES)) / 2)
    np.testing.assert_array_equal(
        images_of(recording), [resize_image(v.image, SIZE) for v in views]
    )


def test_an_image_waits_for_its_camera_info_but_not_for_long(bag) -> None:
    messages = take_apart(bag)
    images, infos = ([m.message for m in messages if m.topic == t] for t in (IMAGE, INFO))
    pairing = CameraInfoPairing(infos[0])
    pairing.add_image(images[3], 1)
    assert not list(pairing.settled())
    pairing.add_info(infos[2])
    assert not list(pairing.settled())
    pairing.add_info(infos[3])
    (pair,) = pairing.settled()
    assert pair.image is images[3] and pair.camera_info is infos[3]
    for image in images[4:]:
        pairing.add_image(image, 2)
        list(pairing.settled())
    assert len(list(pairing.rest())) == min(LOOK_AHEAD, len(images) - 4)


def test_a_camera_info_that_is_published_once_serves_all(bag, views, load, tmp_path) -> None:
    messages = take_apart(bag)
    infos = [m for m in messages if m.topic == INFO]
    once = [m for m in messages if m not in infos[:-1]]
    recording = load(put_together(tmp_path / 'once', once), cache='ram')
    assert len(recording) == FRAMES
    np.testing.assert_allclose(recording.K[:, 0, 0], views[0].K[0, 0] / 2, rtol=1e-6)


# What is wrong with a bag


def changed(bag: Path, path: Path, topic: str, number: int, **fields: object) -> Path:
    """A copy of a bag, in which one message of a topic, or all from -1, says something else."""
    messages, seen = take_apart(bag), 0
    for place, m in enumerate(messages):
        if m.topic == topic:
            if number in (seen, -1):
                messages[place] = replace(m, message=replace(m.message, **fields))
            seen += 1
    return put_together(path, messages)


def test_an_image_that_cannot_be_decoded_is_counted(bag, views, load, tmp_path) -> None:
    for where in ('disk', 'none'):
        path = changed(
            bag, tmp_path / where, IMAGE, 3, data=np.frombuffer(b'\xff\xd8 no', np.uint8)
        )
        for _ in range(2):  # from the cache too
            recording = load(path, cache=where)
            assert recording.left_out == {'not decoded': 1}
        left = [v for i, v in enumerate(views) if i != 3]
        assert recording.stamps_ns.tolist() == [v.stamp_ns for v in left]
        np.testing.assert_array_equal(
            images_of(recording), [resize_image(v.image, SIZE) for v in left]
        )


def test_dark_images_and_unfit_camera_infos_are_counted(bag, views, load, tmp_path) -> None:
    black = np.asarray(cv2.imencode('.png', np.zeros((64, 80, 3), np.uint8))[1]).ravel()
    path = changed(bag, tmp_path / 'dark', IMAGE, 2, data=black)
    path = changed(path, tmp_path / 'zero', INFO, 5, k=np.zeros(9), p=np.zeros(12))
    path = changed(path, tmp_path / 'size', INFO, 7, width=96)
    assert load(path).left_out == {'dark': 1, 'CameraInfo unusable': 2}


def test_a_camera_that_was_never_calibrated_is_one_error(bag, load, tmp_path) -> None:
    path = changed(bag, tmp_path / 'zero', INFO, -1, k=np.zeros(9), p=np.zeros(12))
    with pytest.raises(BagError, match=r'12 CameraInfo unusable.*calibrate the camera') as caught:
        load(path)
    assert str(path) in str(caught.value) and kept(tmp_path) == []


def test_a_bag_without_camera_info_says_so(bag, load, tmp_path) -> None:
    messages = [m for m in take_apart(bag) if m.topic != INFO]
    with pytest.raises(BagError, match='no camera_info topic: record one'):
        load(put_together(tmp_path / 'bare', messages))


@pytest.mark.parametrize('harm', ['a chunk is damaged', 'messages are missing'])
def test_of_a_bag_damaged_midway_what_came_before_is_kept(
    synthetic_views, load, tmp_path, harm
) -> None:
    path = tmp_path / 'bag'
    write_bag(path, synthetic_views, compressed=False)
    data = path / 'bag.mcap'
    if harm == 'messages are missing':
        put_together_unchunked(data, take_apart(path)[:-7])
    else:
        messages = take_apart(path)
        shutil.rmtree(path)
        put_together(path, messages, StoragePlugin.MCAP, CompressionMode.STORAGE)
        chunks = data.read_bytes().split(ZSTD_MAGIC)
        assert len(chunks) > 3
        data.write_bytes(ZSTD_MAGIC.join(chunks[:3]) + bytes(4) + ZSTD_MAGIC.join(chunks[3:]))
    for _ in range(2):  # from the cache too
        recording = load(path, depth_topic='none')
        assert 3 < len(recording) < 9
        assert recording.left_out == {'lost where the bag is damaged': 9 - len(recording)}


@pytest.mark.parametrize(
    ('harm', 'remedy'),
    [('no metadata', 'ros2 bag reindex'), ('no footer', 'mcap recover')],
)
def test_a_bag_that_cannot_be_opened_says_what_may_mend_it(
    bag, load, tmp_path, harm, remedy
) -> None:
    path = shutil.copytree(bag, tmp_path / 'broken')
    if harm == 'no metadata':
        (path / 'metadata.yaml').unlink()
    else:
        data = path / 'room.mcap'
        data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(BagError, match=remedy):
        load(path)


def test_the_last_bag_is_looked_at_before_the_first_is_read(bag, tmp_path, passes) -> None:
    bare = put_together(tmp_path / 'bare', [m for m in take_apart(bag) if m.topic != INFO])
    data = DataConfig(height=SIZE[0], width=64, cache='ram')
    with pytest.raises(BagError, match='bare'):
        load_recordings([bag, bare], data, False, quiet=True)
    assert passes == []


# What is nice to have


def test_odometry_that_cannot_be_used_is_missed_only_where_it_is_needed(
    bag, load, tmp_path, capsys
) -> None:
    path = changed(bag, tmp_path / 'base', '/odom', -1, child_frame_id='base_link')
    assert load(path).world_T_camera is None
    assert 'base goes without odometry' in capsys.readouterr().out
    with pytest.raises(BagError, match='base_link'):
        load(path, pose_required=True)
    two = [replace(m, topic='/odom2') for m in take_apart(bag) if m.topic == '/odom']
    path = put_together(tmp_path / 'two', sorted(take_apart(bag) + two, key=lambda m: m.log_ns))
    assert load(path).world_T_camera is None
    assert load(path, odometry_topic='/odom2').world_T_camera is not None
    with pytest.raises(BagError, match='2 odom topics'):
        load(path, pose_required=True)


def test_without_odometry_a_bag_is_refused_where_poses_are_needed(bag, load, tmp_path) -> None:
    path = put_together(tmp_path / 'bare', [m for m in take_apart(bag) if m.topic != '/odom'])
    assert load(path).world_T_camera is None
    with pytest.raises(
        BagError, match='no odom topic: record nav_msgs/Odometry, or .*pose: learned'
    ):
        load(path, pose_required=True)


def test_depth_of_another_shape_is_left(bag, load, tmp_path, capsys) -> None:
    recording = load(changed(bag, tmp_path / 'narrow', DEPTH, -1, width=40))
    assert recording.depth_rows.max() == -1 and recording.depth is None
    said = capsys.readouterr().out
    assert 'goes without depth images' in said and 'of another shape' in said


def test_only_what_a_bent_lens_saw_is_seen(bag, load, tmp_path) -> None:
    path = changed(bag, tmp_path / 'bent', INFO, -1, d=np.array([0.3, 0.1, 0, 0, 0]))
    with Bag(path) as opened:
        frame = next(opened.frames(opened.find_camera()))
    in_full = frame.seen.reshape(SIZE[0], 2, SIZE[1], 2).all(axis=(1, 3))
    for where in ('disk', 'ram', 'none'):
        recording = load(path, cache=where)
        np.testing.assert_array_equal(recording.seen[0], in_full)
        expected = resize_image(frame.image, SIZE)
        np.testing.assert_array_equal(recording.frames.read(np.array([0]))[0], expected)
        batch = WindowDataset([recording], [find_windows(recording, [0.1])])[0]
        np.testing.assert_array_equal(batch.seen[0, 0], in_full)
    assert 0 < in_full.mean() < 1


def test_each_image_is_rectified_by_its_own_camera_info(bag, load, tmp_path) -> None:
    path = changed(bag, tmp_path / 'bent', INFO, 4, d=np.array([0.3, 0.1, 0, 0, 0]))
    recording = load(path, cache='none', depth_topic='none')
    assert recording.camera.tolist() == [*4 * [0], 1, *7 * [0]]
    assert recording.segment.tolist() == [*4 * [0], 1, *7 * [2]]
    with Bag(path) as opened:
        frames = list(opened.frames(opened.find_camera()))
    expected = [resize_image(frame.image, SIZE) for frame in frames]
    np.testing.assert_array_equal(images_of(recording), expected)
    assert recording.seen[0].all() and not recording.seen[1].all()


def test_two_cameras_of_different_size_are_two_recordings(views, load, tmp_path) -> None:
    write_bag(tmp_path / 'left', views, camera='/left', image_format='png', depth=False)
    small = [replace(v, image=v.image[::2, ::2], depth=v.depth[::2, ::2]) for v in views]
    write_bag(
        tmp_path / 'right', small, camera='/right', compressed=False, depth=False, odometry=False
    )
    messages = take_apart(tmp_path / 'left') + take_apart(tmp_path / 'right')
    both = put_together(tmp_path / 'both', sorted(messages, key=lambda m: m.log_ns))
    topics = ('/left/color/image_raw/compressed', '/right/color/image_raw', '/front')
    data = DataConfig(height=SIZE[0], width=64, image_topics=topics, cache='ram')
    recordings = load_recordings([both, tmp_path / 'left'], data, False, quiet=True)
    assert [r.name for r in recordings] == [f'both{topics[0]}', f'both{topics[1]}', 'left']
    assert [r.image_topic for r in recordings] == [topics[0], topics[1], topics[0]]
    dataset = WindowDataset(recordings, [find_windows(r, [0.1]) for r in recordings])
    batch = dataset.__getitems__([0, len(dataset) - 1])
    assert batch.images.shape == (2, 3, 3, SIZE[0], 64) and batch.recording.tolist() == [0, 2]
    with pytest.raises(BagError, match=f'none of the image topics /front; .*{topics[0]}'):
        load(both, image_topics=('/front',))


@pytest.mark.parametrize(('topic', 'is_camera'), [('/ir/image', True), ('/ir/depth', False)])
def test_16_bits_of_grey_are_a_camera_unless_the_name_says_depth(
    bag, load, tmp_path, capsys, topic, is_camera
) -> None:
    messages = []
    for m in take_apart(bag):
        if m.topic == DEPTH:
            messages.append(replace(m, topic=topic, message=replace(m.message, encoding='mono16')))
        elif m.topic == INFO:
            messages += [m, replace(m, topic='/ir/camera_info')]
    path = put_together(tmp_path / 'grey', messages)
    with Bag(path) as opened:
        assert [t.is_camera for t in opened.topics() if t.name == topic] == [is_camera]
    if is_camera:
        assert len(load(path, cache='ram')) > 0
        assert 'taken as grey images' in capsys.readouterr().out


def test_two_bags_of_one_name_are_told_apart(bag, tmp_path) -> None:
    put_together(tmp_path / 'other' / 'room', take_apart(bag)[3:])
    bags, data = [bag, tmp_path / 'other' / 'room'], DataConfig(height=32, width=32, cache='ram')
    names = [r.name for r in load_recordings(bags, data, False, quiet=True)]
    assert names == [str(path) for path in bags]


def test_a_bag_that_is_open_is_not_read_after_a_fork(bag, load, monkeypatch) -> None:
    frames = load(bag, cache='none').frames
    (opened,) = (value for value in vars(frames).values() if hasattr(value, 'opened'))
    before = frames.read(np.array([3]))
    first = opened.opened
    frames.read(np.array([4]))
    assert opened.opened is first
    process = os.getpid()
    monkeypatch.setattr(os, 'getpid', lambda: process + 1)
    np.testing.assert_array_equal(frames.read(np.array([3])), before)
    assert opened.opened is not first


def test_a_run_outlives_its_cache_folder(bag, load, tmp_path) -> None:
    recording = load(bag)
    expected = images_of(load(bag, cache='ram'))
    windows = find_windows(recording, [0.1])
    shutil.rmtree(tmp_path / 'cache')
    dataset = WindowDataset([recording], [windows])
    images = dataset.__getitems__([0, 5]).images.numpy().transpose(0, 1, 3, 4, 2)
    np.testing.assert_array_equal(images, expected[windows.indices[[0, 5]]])
    assert dataset.truth(3, 0) is not None


def test_a_recording_on_disk_is_small_to_send(bag, load) -> None:
    recording = load(bag)
    dataset = WindowDataset([recording], [find_windows(recording, [0.1])])
    sent = pickle.dumps(dataset)
    assert len(sent) < 20_000
    assert pickle.loads(sent)[0].images.equal(dataset[0].images)


def test_inspect_tells_of_gaps_and_of_what_is_left_out(bag, tmp_path) -> None:
    path = changed(bag, tmp_path / 'bag', IMAGE, 5, data=np.zeros(9, np.uint8))
    said = inspect_bag(path, [0.1, 0.2])
    for words in (
        '11 frames at 10.0 Hz, 1 gaps, the longest 0.20 s',
        'left out: 1 not decoded',
        '2 sequences for windows of 0.1 s: 0 jumps of the clock, 0 changes of CameraInfo',
        'windows of 0.1 s: 7 usable, 0 static',
        'windows are few to train on alone',
    ):
        assert words in said
    assert not list((Path(os.environ['XDG_CACHE_HOME'])).glob('tc_depth/bag-*'))
