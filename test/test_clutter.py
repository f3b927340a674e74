"""Rendered places are true to their depth and poses, and the command writes them as bags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.clutter.crossing import DEPTH_SHARE, HEIGHT_SHARE, Crossing
from tc_depth_training.clutter.motions import MOTION_KINDS, MotionKind, draw_path
from tc_depth_training.clutter.places import (
    PLACE_KINDS,
    Block,
    PlaceKind,
    draw_place,
    is_clear,
    paint_place,
)
from tc_depth_training.clutter.surfaces import (
    Scene,
    Surface,
    make_pyramid,
    render_depth,
    render_view,
)
from tc_depth_training.clutter.take import Sensor, Take, draw_take, with_crossing
from tc_depth_training.clutter.textures import TEXELS, draw_textures
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.stretch import parse_bag
from tc_depth_training.render import CAMERA, PHOTOGRAPHS, read_photographs, render
from tc_depth_training.synthetic import FIRST_STAMP_NS, SyntheticView

HEIGHT, WIDTH = 96, 128
RED = np.array([200, 0, 0], np.uint8)
# A camera at the origin that looks along the world's x.
AHEAD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
K_AHEAD = np.array([[100.0, 0, 63.5], [0, 100, 47.5], [0, 0, 1]])


@cache
def draw(place: PlaceKind, motion: MotionKind) -> Take:
    return draw_take(place, motion, 4, (HEIGHT, WIDTH), [], np.random.default_rng(5))


@cache
def see(place: PlaceKind, motion: MotionKind) -> tuple[SyntheticView, ...]:
    """What a sensor without faults has of it."""
    return tuple(draw(place, motion).views())


def carried(
    target: SyntheticView, source: SyntheticView
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Errors of a target that is rebuilt from a source, away from edges of the source's depth.

    :return: relative error of depth, and of what has none, the error of colour in grey levels
    """
    v, u = np.indices(target.depth.shape)
    rays = np.linalg.inv(target.K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    source_T_target = np.linalg.inv(source.world_T_camera) @ target.world_T_camera
    points = source_T_target[:3, :3] @ (rays * target.depth.ravel()) + source_T_target[:3, 3:]
    x, y, z = (source.K @ points).reshape(3, *target.depth.shape)
    columns, rows = (x / z).astype(np.float32), (y / z).astype(np.float32)

    def sampled(image: NDArray[Any]) -> NDArray[np.float32]:
        warped = cv2.remap(image.astype(np.float32), columns, rows, cv2.INTER_LINEAR)
        return np.asarray(warped, np.float32)

    # Inverse depth, unlike depth, is linear across the image of a plane.
    inverse = 1.0 / source.depth
    bend = np.abs(cv2.Laplacian(inverse, cv2.CV_32F)) > 0.01 * inverse
    edges = cv2.dilate(bend.astype(np.uint8), np.ones((3, 3), np.uint8))
    height, width = target.depth.shape
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    used = inside & (z > 0) & (sampled(edges) == 0)
    depth_error = np.abs(sampled(inverse) * z - 1.0)
    colour_error = np.abs(sampled(source.image) - target.image).mean(-1)
    return depth_error[used], colour_error[used & (depth_error < 0.01)]


@pytest.mark.parametrize('place', PLACE_KINDS)
@pytest.mark.parametrize('motion', ['forward', 'sideways', 'handheld', 'turn'])
def test_true_depth_and_pose_carry_one_frame_onto_another(
    place: PlaceKind, motion: MotionKind
) -> None:
    views = see(place, motion)
    for target, source in ((views[0], views[1]), (views[3], views[1])):
        depth_error, colour_error = carried(target, source)
        assert depth_error.size > 0.4 * HEIGHT * WIDTH
        assert np.median(depth_error) < 1e-6
        assert (depth_error < 0.01).mean() > 0.9  # the rest was hidden
        assert np.median(colour_error) < 4.0
        # Standing in the place of the target, the source is out by its motion.
        astray, _ = carried(target, replace(source, world_T_camera=target.world_T_camera))
        assert np.median(astray) > 1e3 * np.median(depth_error)


@pytest.mark.parametrize('place', PLACE_KINDS)
def test_every_pixel_has_a_depth_and_none_is_too_near(place: PlaceKind) -> None:
    for motion in MOTION_KINDS:
        depth = np.stack([view.depth for view in see(place, motion)])
        assert np.isfinite(depth).all()
        assert depth.min() > {'room': 0.1, 'table': 0.025, 'street': 0.25}[place]
        assert depth.max() < {'room': 12.0, 'table': 4.0, 'street': 95.0}[place]


def wall(distance_m: float, edges: NDArray[np.float64], texture: int = 0) -> Surface:
    """A parallelogram in front of AHEAD, around its axis."""
    corner = np.array([distance_m, 0.0, 0.0]) - edges.sum(1) / 2.0
    texels = np.array([[TEXELS, 0.0, 0.0], [0.0, TEXELS, 0.0]])
    return Surface(np.column_stack([edges, corner]), texture, texels, np.ones(3, np.float32))


SQUARE = np.array([[0.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])  # to the right and up; faces AHEAD


def test_depth_is_z_at_pixel_centres_and_the_nearer_surface_hides_the_other() -> None:
    textures = draw_textures(1, [], np.random.default_rng(0))
    # At 2 m, a square of 0.51 m ends at 63.5 - 12.75 and at 63.5 + 12.75 px.
    scene = Scene((wall(2.0, 0.51 * SQUARE), wall(4.0, 100.0 * SQUARE)), textures)
    depth = render_depth(scene, K_AHEAD, AHEAD, HEIGHT, WIDTH)
    near = np.zeros((HEIGHT, WIDTH), bool)
    near[35:61, 51:77] = True
    np.testing.assert_allclose(depth, np.where(near, 2.0, 4.0), rtol=1e-7)


def test_a_surface_is_seen_from_its_own_side_only() -> None:
    textures = draw_textures(1, [], np.random.default_rng(0))
    behind = Scene((wall(2.0, 100.0 * SQUARE[:, ::-1]), wall(-2.0, 100.0 * SQUARE)), textures)
    assert np.isinf(render_depth(behind, K_AHEAD, AHEAD, HEIGHT, WIDTH)).all()


def test_a_texture_lies_where_its_texels_say() -> None:
    """Half a texel and pixel are accounted for: 128 texels on 128 pixels are those texels."""
    texture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    edges = 1.28 * SQUARE  # at 1 m, from -0.5 to 127.5 px across and -16.5 to 111.5 px down
    texels = np.array([[128.0, 0.0, -0.5], [0.0, -128.0, 127.5]])
    surface = replace(wall(1.0, edges), texels=texels)
    view = render_view(
        Scene((surface,), (make_pyramid(texture),)), K_AHEAD, AHEAD, HEIGHT, WIDTH, 0
    )
    # Each pixel is the mean of four samples a quarter of a texel off its centre.
    kernel = np.array([0.125, 0.75, 0.125])
    smooth = cv2.sepFilter2D(texture.astype(np.float32), -1, kernel, kernel)
    inner = (slice(2, -2), slice(2, -2))
    wanted = smooth[16 : 16 + HEIGHT][inner]
    np.testing.assert_allclose(view.image[inner], wanted, atol=1.5)


def test_far_texture_is_averaged_rather_than_picked_from() -> None:
    """A fine check, much finer than the pixels, becomes the grey of its mean."""
    fine = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (64, 64))
    scene = Scene((wall(2.0, 2.0 * SQUARE),), (make_pyramid(np.stack(3 * [fine], -1)),))
    surface = replace(scene.surfaces[0], texels=np.diag([1024.0, 1024.0, 0.0])[:2])
    view = render_view(replace(scene, surfaces=(surface,)), K_AHEAD, AHEAD, HEIGHT, WIDTH, 0)
    middle = view.image[10:-10, 20:-20].astype(int)
    assert np.abs(middle - 127).max() <= 2


def test_distance_from_a_turned_box() -> None:
    turn, _ = cv2.Rodrigues(np.array([0.0, 0.0, np.pi / 4]))
    block = Block(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.5]), np.asarray(turn))
    points = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    np.testing.assert_allclose(block.distance(points), [0.0, 1.0 - np.sqrt(0.5), 1.5])


@pytest.mark.parametrize('kind', PLACE_KINDS)
def test_no_camera_stands_in_a_box_or_near_one(kind: PlaceKind) -> None:
    place = draw_place(kind, np.random.default_rng(3))
    assert len(place.blocks) > 10
    for block in place.blocks:
        surface = block.centre + block.world_R_block @ (block.half * [1.0, 0.3, -0.2])
        assert not is_clear(place, np.stack([block.centre, block.centre]))
        assert not is_clear(place, surface[None])
    assert not is_clear(place, place.shell.high[None] + 1.0)


def test_boxes_are_closed_and_face_outwards() -> None:
    place = draw_place('room', np.random.default_rng(0))
    surfaces = paint_place(place, 8, np.random.default_rng(0))
    assert len(surfaces) == 6 * (1 + len(place.blocks))
    for i, block in enumerate(place.blocks):
        planes = np.stack([s.plane for s in surfaces[6 * i + 6 : 6 * i + 12]])
        middles = planes @ [0.5, 0.5, 1.0] - block.centre
        normals = np.cross(planes[..., 0], planes[..., 1])
        assert ((middles * normals).sum(-1) > 0.0).all()
        np.testing.assert_allclose(middles.sum(0), 0.0, atol=1e-12)
        # The volume, by the divergence theorem
        volume = (middles * normals).sum() / 3.0
        np.testing.assert_allclose(volume, 8.0 * block.half.prod())


def path(kind: MotionKind, frames: int = 30, seed: int = 0) -> NDArray[np.float64]:
    """A path at a median depth of 2 m that may lead 1 m away."""
    return draw_path(kind, frames, 2.0, 0.5, np.random.default_rng(seed))


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('kind', MOTION_KINDS)
def test_a_path_begins_at_its_first_view_and_consists_of_poses(
    kind: MotionKind, seed: int
) -> None:
    poses = path(kind, seed=seed)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    products = poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-9)
    assert path(kind, 1, seed).shape == (1, 4, 4)


@pytest.mark.parametrize('seed', range(5))
def test_a_drive_goes_along_z_and_comes_back_before_its_reach(seed: int) -> None:
    poses = path('forward', 200, seed)
    positions = poses[:, :3, 3]
    steps_m = np.linalg.norm(np.diff(positions, axis=0), axis=-1)
    assert 0.02 < np.median(steps_m) < 0.1
    own = np.einsum('nji,nj->ni', poses[:-1, :3, :3], np.diff(positions, axis=0))
    straight = steps_m > 0.8 * np.median(steps_m)  # all but where it turns round
    assert (np.abs(own[straight, 2]) > 0.99 * steps_m[straight]).all()
    assert own[0, 2] > 0.0
    assert np.linalg.norm(positions, axis=-1).max() < 1.0 + 1e-9


@pytest.mark.parametrize('seed', range(5))
def test_a_way_sideways_goes_mostly_along_x(seed: int) -> None:
    steps = np.diff(path('sideways', 10, seed)[:, :3, 3], axis=0)
    lengths = np.linalg.norm(steps, axis=-1)
    assert (np.abs(steps[:, 0]) > 0.7 * lengths).all()
    assert ((lengths > 0.019) & (lengths < 0.101)).all()


@pytest.mark.parametrize('seed', range(5))
def test_a_hand_moves_in_all_directions_and_about_all_axes(seed: int) -> None:
    poses = path('handheld', 30, seed)
    steps_m = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1)
    assert 0.01 < np.median(steps_m) < 0.2
    assert (np.ptp(poses[:, :3, 3], axis=0) > 0.01).all()
    assert (np.ptp(poses[:, [1, 2, 0], [2, 0, 1]], axis=0) > 0.001).all()


@pytest.mark.parametrize('seed', range(5))
def test_a_turn_on_the_spot_hardly_moves(seed: int) -> None:
    poses = path('turn', 30, seed)
    steps_m = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1)
    assert steps_m.max() < 0.005 * 2.0
    ahead = poses[:, :3, 2]
    angles_rad = np.arccos(np.clip((ahead[1:] * ahead[:-1]).sum(-1), -1.0, 1.0))
    assert angles_rad.mean() > 0.01


@pytest.mark.parametrize('seed', range(5))
def test_a_camera_that_stops_has_equal_poses_then_and_moves_otherwise(seed: int) -> None:
    poses = path('stop', 30, seed)
    still = (poses[1:] == poses[:-1]).all((1, 2))
    assert 9 <= still.sum() <= 20
    assert np.ptp(np.flatnonzero(still)) == still.sum() - 1  # in one piece
    moving_m = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1)[~still]
    assert moving_m.min() > 1e-3


@pytest.fixture(scope='module')
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bags by the command, one of each place."""
    out = tmp_path_factory.mktemp('rendered') / 'out'
    sizes = ['--scenes', '3', '--frames', '3', '--size', '48', '64']
    assert main(['render', str(out), *sizes, '--seed', '4']) == 0
    return out


def frames_of(bag: Path) -> list[NDArray[np.uint8]]:
    with Bag(bag) as opened:
        return [frame.image for frame in opened.frames(opened.find_camera())]


def test_the_command_writes_bags_with_camera_depth_and_odometry(rendered: Path) -> None:
    assert sorted(p.name for p in rendered.iterdir()) == [f'scene_000{i}' for i in range(3)]
    for path in rendered.iterdir():
        with Bag(path) as bag:
            camera = bag.find_camera()
            assert camera.image == f'{CAMERA}/color/image_raw/compressed'
            frames = list(bag.frames(camera))
            maps = list(bag.depth_maps(f'{CAMERA}/depth/image_rect_raw'))
            odometry = bag.trajectory(bag.find_optional('odom'), frames[0].frame_id)
        stamps = [FIRST_STAMP_NS + i * 100_000_000 for i in range(3)]
        assert [f.stamp_ns for f in frames] == [m.stamp_ns for m in maps] == stamps
        for frame, measured in zip(frames, maps, strict=True):
            assert frame.image.shape == (48, 64, 3)
            assert measured.depth.shape == (48, 64)
            assert np.isfinite(measured.depth).all()
            assert odometry.at(frame.stamp_ns) is not None


def test_a_bag_s_depth_is_exact_for_its_poses(rendered: Path) -> None:
    with Bag(rendered / 'scene_0001') as bag:
        frames = list(bag.frames(bag.find_camera()))
        maps = list(bag.depth_maps(f'{CAMERA}/depth/image_rect_raw'))
        odometry = bag.trajectory('/odom', frames[0].frame_id)
    views = []
    for frame, measured in zip(frames, maps, strict=True):
        pose = odometry.at(frame.stamp_ns)
        assert pose is not None
        views.append(SyntheticView(frame.image, measured.depth, pose, frame.K, frame.stamp_ns))
    depth_error, _ = carried(views[0], views[2])
    assert depth_error.size > 0.2 * 48 * 64
    assert np.median(depth_error) < 1e-5


def test_a_seed_gives_the_same_bags_again_and_another_seed_other_ones(
    rendered: Path, tmp_path: Path
) -> None:
    again = render(tmp_path / 'again', scenes=1, frames=3, size=(48, 64), seed=4)
    other = render(tmp_path / 'other', scenes=1, frames=3, size=(48, 64), seed=5)
    first = (rendered / 'scene_0000' / 'scene_0000.mcap').read_bytes()
    assert (again[0] / 'scene_0000.mcap').read_bytes() == first
    assert not np.array_equal(frames_of(other[0])[0], frames_of(rendered / 'scene_0000')[0])
    assert not np.array_equal(*(frames_of(rendered / f'scene_000{i}')[0] for i in (0, 1)))


def test_the_sensor_changes_every_frame_a_little() -> None:
    exposed = draw('room', 'stop').views(np.random.default_rng(0))
    pairs = zip(see('room', 'stop'), exposed, strict=True)
    differences = np.stack([b.image.astype(float) - a.image for a, b in pairs])
    assert (np.abs(differences).mean((1, 2, 3)) > 0.3).all()
    assert np.abs(differences).mean() < 20.0


CROSSED = [
    *((place, 'handheld') for place in PLACE_KINDS),
    *(('room', motion) for motion in MOTION_KINDS if motion != 'handheld'),
]
crossed_takes = pytest.mark.parametrize(('place', 'motion'), CROSSED)


@cache
def draw_crossed(place: PlaceKind, motion: MotionKind) -> Take:
    take = draw_take(place, motion, 16, (HEIGHT, WIDTH), [], np.random.default_rng(5))
    return with_crossing(take, np.random.default_rng(6))


@cache
def crossed_depths(
    place: PlaceKind, motion: MotionKind
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depths (N, H, W) in m as they are recorded, and those of the place alone."""
    take = draw_crossed(place, motion)
    recorded = [view.depth for view in take.views()]
    alone = [render_depth(take.scene, take.K, pose, HEIGHT, WIDTH) for pose in take.world_T_camera]
    return np.stack(recorded), np.stack(alone)


def half_of(crossing: Crossing) -> NDArray[np.float64]:
    """Half sizes (3,) in m of an object, along its own axes."""
    corners = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    half: NDArray[np.float64] = np.max([f.plane @ corners for f in crossing.faces], (0, 2))
    return half


@crossed_takes
def test_an_object_comes_from_one_side_and_leaves_on_the_other(
    place: PlaceKind, motion: MotionKind
) -> None:
    recorded, alone = crossed_depths(place, motion)
    moved = recorded != alone
    seen = moved.any((1, 2))
    assert 3 <= seen.sum() < len(seen)
    columns = [np.flatnonzero(mask.any(0)).mean() / WIDTH for mask in moved[seen]]
    low, high = sorted((columns[0], columns[-1]))
    assert low < 0.35
    assert high > 0.65


@crossed_takes
def test_where_an_object_is_seen_depth_is_that_of_its_box_and_nearer_than_the_place(
    place: PlaceKind, motion: MotionKind
) -> None:
    take = draw_crossed(place, motion)
    assert take.crossing is not None
    half = half_of(take.crossing)
    recorded, alone = crossed_depths(place, motion)
    assert (recorded <= alone).all()
    for step, world_T_object in enumerate(take.crossing.world_T_object):
        frame = take.crossing.first + step
        rows, columns = np.nonzero(recorded[frame] < alone[frame])
        rays = np.stack([columns, rows, np.ones_like(rows)]) * recorded[frame, rows, columns]
        points = np.eye(4)[:, [3] * len(rows)]
        points[:3] = np.linalg.inv(take.K) @ rays
        own = np.linalg.inv(world_T_object) @ take.world_T_camera[frame] @ points
        # On the surface of a box, one coordinate is half a size, and none is more.
        out = (np.abs(own[:3]) / half[:, None]).max(0)
        np.testing.assert_allclose(out, 1.0, rtol=1e-3)


@crossed_takes
def test_an_object_is_nearer_than_most_and_as_high_as_a_part_of_the_image(
    place: PlaceKind, motion: MotionKind
) -> None:
    take = draw_crossed(place, motion)
    assert take.crossing is not None
    _, alone = crossed_depths(place, motion)
    camera_T_world = np.linalg.inv(take.world_T_camera)
    whole = 0
    for step, world_T_object in enumerate(take.crossing.world_T_object):
        frame = take.crossing.first + step
        middle = camera_T_world[frame] @ world_T_object[:, 3]
        assert DEPTH_SHARE[0] * 0.9 < middle[2] / np.median(alone) < DEPTH_SHARE[1] * 1.1
        scene = Scene(take.crossing.surfaces(frame), take.scene.textures)
        depth = render_depth(scene, take.K, take.world_T_camera[frame], HEIGHT, WIDTH)
        mask = np.isfinite(depth)
        if mask.any() and not mask[:, [0, -1]].any() and not mask[[0, -1]].any():
            whole += 1
            height = mask.any(1).sum() / HEIGHT
            assert HEIGHT_SHARE[0] - 0.02 < height < HEIGHT_SHARE[1] + 0.02
    assert whole > 0


def before_a_wall(*others: Surface, step_m: float = 0.0) -> Take:
    """A camera that goes to the right in front of a wall at 4 m."""
    poses = np.tile(AHEAD, (12, 1, 1))
    poses[:, 1, 3] -= step_m * np.arange(12)
    textures = draw_textures(9, [], np.random.default_rng(0))
    scene = Scene((wall(4.0, 100.0 * SQUARE), *others), textures)
    sensor = Sensor(np.ones((12, 3)), 0.0, 0.0)
    return Take('room', 'sideways', scene, K_AHEAD, poses, (HEIGHT, WIDTH), sensor)


@pytest.mark.parametrize('step_m', [0.0, 0.25])
def test_an_object_moves_by_itself_rather_than_with_what_stands_still(step_m: float) -> None:
    """At 0.25 m a frame, the view passes what stands 2 m away within some ten frames."""
    take = before_a_wall(step_m=step_m)
    for seed in range(8):
        crossing = with_crossing(take, np.random.default_rng(seed)).crossing
        assert crossing is not None
        positions = crossing.world_T_object[:, :3, 3]
        steps_m = np.diff(positions, axis=0)
        np.testing.assert_allclose(steps_m, np.tile(steps_m[0], (len(steps_m), 1)), atol=1e-9)
        frames = len(positions)
        way_m = np.linalg.norm(steps_m[0]) * frames
        across_m = take.size[1] / take.K[0, 0] * DEPTH_SHARE[0] * 4.0
        assert way_m > 0.6 * across_m


def test_little_of_an_object_is_hidden() -> None:
    """A fence at 0.7 m, nearer than any object, hides all below the image's middle."""
    fence = wall(0.7, np.array([[0.0, 0.0], [-100.0, 0.0], [0.0, 1.0]]))
    fence.plane[2, 2] -= 0.515
    take = before_a_wall(fence)
    for seed in range(6):
        crossing = with_crossing(take, np.random.default_rng(seed)).crossing
        assert crossing is not None
        own, shown = 0, 0
        for frame in range(crossing.first, crossing.first + len(crossing.world_T_object)):
            depths = [
                render_depth(Scene(surfaces, ()), K_AHEAD, AHEAD, HEIGHT, WIDTH)
                for surfaces in (crossing.surfaces(frame), take.scene.surfaces)
            ]
            own += np.isfinite(depths[0]).sum()
            shown += (depths[0] < depths[1]).sum()
        assert shown > 0.6 * own > 0


def test_where_no_object_can_be_seen_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fence at 0.7 m, nearer than any object, hides the middle of the image."""
    fence = wall(0.7, np.array([[0.0, 0.0], [-100.0, 0.0], [0.0, 0.29]]))
    take = before_a_wall(fence)
    monkeypatch.setattr('tc_depth_training.clutter.take.TRIES_OF_A_CROSSING', 40)
    with pytest.raises(RuntimeError, match='take another seed, or none with --crossing 0'):
        with_crossing(take, np.random.default_rng(0))


def test_a_crossing_leaves_the_rest_of_the_views_as_it_is() -> None:
    take = draw_crossed('room', 'stop')
    views = take.views(np.random.default_rng(0))
    without = replace(take, crossing=None).views(np.random.default_rng(0))
    recorded, alone = crossed_depths('room', 'stop')
    for a, b, far in zip(views, without, recorded == alone, strict=True):
        # Four pixels for the blur, and the one whose samples the object has in part
        beyond = cv2.erode(far.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool)
        assert beyond.sum() > 0.3 * beyond.size
        np.testing.assert_array_equal(a.image[beyond], b.image[beyond])
        np.testing.assert_array_equal(a.world_T_camera, b.world_T_camera)


def test_an_object_has_a_texture_that_shows_something() -> None:
    take = replace(draw_crossed('room', 'stop'), crossing=None)
    grey = make_pyramid(np.full((TEXELS, TEXELS, 3), 99, np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (TEXELS, TEXELS, 3)).astype(np.uint8)
    # The last one is the sky's, and no object's.
    textures = (grey, make_pyramid(noise), grey, grey, make_pyramid(noise))
    walls = tuple(replace(surface, texture=0) for surface in take.scene.surfaces)
    plain = replace(take, scene=Scene(walls, textures))
    for seed in range(6):
        crossing = with_crossing(plain, np.random.default_rng(seed)).crossing
        assert crossing is not None
        assert {face.texture for face in crossing.faces} == {1}


def bytes_of(bags: list[Path]) -> list[bytes]:
    return [(bag / f'{bag.name}.mcap').read_bytes() for bag in bags]


def test_the_share_says_in_how_many_scenes_an_object_crosses(tmp_path: Path) -> None:
    none, half, every = (
        bytes_of(render(tmp_path / str(share), scenes=3, frames=1, size=(48, 64), crossing=share))
        for share in (0.0, 0.5, 1.0)
    )
    assert all(a != b for a, b in zip(none, every, strict=True))
    crossed = [scene in every for scene in half]
    assert 0 < sum(crossed) < 3
    expected = [b if c else a for a, b, c in zip(none, every, crossed, strict=True)]
    assert half == expected


def test_the_command_passes_the_share_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['render', str(tmp_path / 'out'), '--crossing', '2.5']) == 1
    assert '--crossing is 2.5: give a share of the scenes' in capsys.readouterr().err


def test_with_no_share_the_views_are_those_of_the_take(tmp_path: Path) -> None:
    rendered = render(tmp_path / 'out', scenes=1, frames=3, size=(48, 64), seed=4, crossing=0.0)
    rng = np.random.default_rng([4, 0])
    take = draw_take(PLACE_KINDS[0], MOTION_KINDS[0], 3, (48, 64), [], rng)
    again = tmp_path / 'again' / 'scene_0000'
    write_bag(again, take.views(rng), camera=CAMERA, depth_encoding='32FC1')
    assert bytes_of(rendered) == bytes_of([again])


def red_bag(path: Path, frames: int, camera: str = '/camera') -> Path:
    """Photographs of nothing but red noise."""

    def views() -> Iterator[SyntheticView]:
        rng = np.random.default_rng(0)
        for i in range(frames):
            image = (rng.uniform(0.3, 1.0, (60, 80, 1)) * RED).astype(np.uint8)
            yield SyntheticView(
                image,
                np.ones((60, 80), np.float32),
                np.eye(4),
                np.eye(3) * 60,
                FIRST_STAMP_NS + i * 100_000_000,
            )

    write_bag(path, views(), camera=camera, image_format='png', depth=False)
    return path


def test_frames_of_bags_become_textures(rendered: Path, tmp_path: Path) -> None:
    bag = red_bag(tmp_path / 'red', 3)
    render(tmp_path / 'out', [bag], scenes=3, frames=1, size=(48, 64), seed=4)

    def share_of_red(folder: Path) -> float:
        images = np.stack([frames_of(folder / f'scene_000{i}')[0] for i in range(3)]).astype(int)
        return float((images[..., 0] > 3 * images[..., 1:].max(-1)).mean())

    assert share_of_red(tmp_path / 'out') > share_of_red(rendered) + 0.3


def test_photographs_are_taken_evenly(tmp_path: Path) -> None:
    assert len(read_photographs(red_bag(tmp_path / 'few', 3))) == 3
    assert len(read_photographs(red_bag(tmp_path / 'many', PHOTOGRAPHS + 15))) == PHOTOGRAPHS


def test_photographs_are_of_the_stretch_asked_for(tmp_path: Path) -> None:
    bag = red_bag(tmp_path / 'red', 8)
    every, some = read_photographs(bag), read_photographs(parse_bag(f'{bag}@0.2:0.5'))
    np.testing.assert_array_equal(some, every[2:5])
    with pytest.raises(BagError, match='no image in the stretch'):
        read_photographs(parse_bag(f'{bag}@7:'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'scenes': 0}, '--scenes is 0: give at least 1'),
        ({'frames': -2}, '--frames is -2: give at least 1'),
        ({'size': (192, 8)}, '--size is 8: give at least 16'),
        ({'seed': -1}, '--seed is -1: give at least 0'),
        ({'crossing': 1.5}, '--crossing is 1.5: give a share of the scenes, from 0 to 1'),
        ({'crossing': -0.1}, '--crossing is -0.1: give a share of the scenes, from 0 to 1'),
        ({'crossing': float('nan')}, '--crossing is nan: give a share'),
    ],
)
def test_impossible_wishes_are_refused_by_name(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        render(tmp_path / 'out', **options)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match='exists already: remove it or choose another folder'):
        render(tmp_path)
    assert main(['render', str(tmp_path)]) == 1
    assert f'{tmp_path} exists already' in capsys.readouterr().err


def test_a_bag_without_a_camera_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='does not exist'):
        render(tmp_path / 'out', [tmp_path / 'nowhere'])
    assert not (tmp_path / 'out').exists()
