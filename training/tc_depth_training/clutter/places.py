"""Draw places to stand in: rooms, tables and streets, as turned boxes within a shell."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.random import Generator

from tc_depth_training.clutter.surfaces import Surface, shade
from tc_depth_training.clutter.textures import TEXELS
from tc_depth_training.synthetic import Doubles

PlaceKind = Literal['room', 'table', 'street']
Face = tuple[Doubles, Doubles, Doubles]  # corner (3,), edges (3, 2) and normal (3,)
PLACE_KINDS: tuple[PlaceKind, ...] = get_args(PlaceKind)

# Walls reach beyond their edges by this share, behind each other, so that no ray slips through.
OVERLAP = 0.01
FLOOR = 4  # of the six faces of a shell


@dataclass(frozen=True)
class Block:
    """A turned box."""

    centre: Doubles  # (3,) m
    half: Doubles  # (3,) half of its size along its own axes, m
    world_R_block: Doubles  # (3, 3)

    def distance(self, points: Doubles) -> Doubles:
        """Distance of points (N, 3) in m from the box, (N,); 0 within it."""
        own = np.abs((points - self.centre) @ self.world_R_block)
        distance: Doubles = np.linalg.norm(np.maximum(own - self.half, 0.0), axis=-1)
        return distance


@dataclass(frozen=True)
class Region:
    """An axis-aligned range of points, (3,) and (3,) in m."""

    low: Doubles
    high: Doubles

    def draw(self, rng: Generator) -> Doubles:
        """A point within."""
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class Place:
    """What surrounds the camera, and where it may stand and look."""

    kind: PlaceKind
    shell: Region
    blocks: tuple[Block, ...]
    eyes: Region
    targets: Region
    clearance_m: float  # between the camera and anything
    median_m: tuple[float, float]  # that the median depth of a view should be between
    reach: float  # how far a path may lead, as a multiple of the median depth
    tile_m: float  # what the texture of a large surface covers
    sky: bool = False  # whether all of the shell but its floor is sky


def _turn(axis: Doubles | tuple[float, float, float], angle_rad: float) -> Doubles:
    rotation, _ = cv2.Rodrigues(angle_rad * np.asarray(axis, np.float64))
    return np.asarray(rotation, np.float64)


def _any_turn(rng: Generator) -> Doubles:
    axis = rng.normal(size=3)
    return _turn(axis / np.linalg.norm(axis), rng.uniform(0.0, np.pi))


def _log_uniform(low: float, high: float, rng: Generator, count: int = 3) -> Doubles:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def _size(low: float, high: float, rng: Generator) -> Doubles:
    """Half sizes of a box; one in three is a board, one in six a pole."""
    half = 0.5 * _log_uniform(low, high, rng)
    form = rng.uniform()
    if form < 1 / 3:
        half[rng.integers(3)] = 0.02 * half.max()
    elif form < 1 / 2:
        thin = rng.choice(3, 2, replace=False)
        half[thin] = rng.uniform(0.03, 0.08) * half.max()
    return half


def _standing(x_m: float, y_m: float, floor_m: float, half: Doubles, rng: Generator) -> Block:
    """A box on the floor, turned about the vertical; one in five leans."""
    rotation = _turn((0.0, 0.0, 1.0), rng.uniform(0.0, 2.0 * np.pi))
    if rng.uniform() < 0.2:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        lean = _turn((np.cos(angle), np.sin(angle), 0.0), rng.uniform(0.1, 0.6))
        rotation = lean @ rotation
    below = np.abs(rotation[2]) @ half
    return Block(np.array([x_m, y_m, floor_m + below]), half, rotation)


def _level(low: Iterable[float], high: Iterable[float]) -> Block:
    """A box that is not turned, between two corners."""
    lowest, highest = np.array([*low]), np.array([*high])
    return Block((lowest + highest) / 2.0, (highest - lowest) / 2.0, np.eye(3))


def _stacked(below: Block, rng: Generator) -> Block:
    """A smaller box on top of another one."""
    top_m = below.centre[2] + np.abs(below.world_R_block[2]) @ below.half
    half = below.half.max() * rng.uniform(0.15, 0.6, 3)
    return _standing(below.centre[0], below.centre[1], top_m, half, rng)


def _pieces(
    count: int, area: Region, sizes_m: tuple[float, float], rng: Generator
) -> Iterator[Block]:
    """Boxes that stand on an area's floor, one in five with another on top."""
    for _ in range(count):
        x, y, _ = area.draw(rng)
        piece = _standing(x, y, area.low[2], _size(*sizes_m, rng), rng)
        yield piece
        if rng.uniform() < 0.2:
            yield _stacked(piece, rng)


def _floating(
    count: int, area: Region, sizes_m: tuple[float, float], rng: Generator
) -> Iterator[Block]:
    """Boxes and boards in the air, turned any way."""
    for _ in range(count):
        yield Block(area.draw(rng), _size(*sizes_m, rng), _any_turn(rng))


def _pictures(
    count: int, shell: Region, sizes_m: tuple[float, float], rng: Generator
) -> Iterator[Block]:
    """Boards flat on the four walls of a shell."""
    for _ in range(count):
        wall = int(rng.integers(2))
        half = 0.5 * _log_uniform(*sizes_m, rng)
        half[wall] = 0.02 * half.max()
        centre = shell.draw(rng)
        centre[wall] = (shell.low, shell.high)[rng.integers(2)][wall]
        yield Block(centre, half, _turn(np.eye(3)[wall], rng.normal(0.0, 0.1)))


def _room(rng: Generator) -> Place:
    """A room of 3 to 9 m, furnished; the camera looks any way from anywhere."""
    length, width, height = rng.uniform((3.0, 3.0, 2.3), (9.0, 7.0, 3.3))
    shell = Region(np.array([0.0, -width / 2, 0.0]), np.array([length, width / 2, height]))
    blocks = [
        *_pieces(int(rng.integers(8, 24)), shell, (0.15, 1.6), rng),
        *_floating(int(rng.integers(2, 10)), shell, (0.15, 0.9), rng),
        *_pictures(int(rng.integers(3, 14)), shell, (0.3, 1.5), rng),
    ]
    eyes = Region(shell.low + [0.3, 0.3, 0.5], shell.high - [0.3, 0.3, 0.4])
    targets = Region(shell.low, shell.high - [0.0, 0.0, 0.6 * height])
    return Place('room', shell, tuple(blocks), eyes, targets, 0.2, (1.0, 7.0), 0.5, 2.5)


def _table(rng: Generator) -> Place:
    """Small things on a table, seen from 0.3 to 1 m; its top is at z = 0."""
    shell = Region(-rng.uniform((1.0, 1.0, 0.5), (1.5, 1.6, 0.8)), rng.uniform(0.7, 1.5, 3))
    half = rng.uniform((0.3, 0.4), (0.55, 0.9))
    top = Region(np.array([*-half, 0.0]), np.array([*half, 0.0]))
    things = Region(top.low, top.high + [0.0, 0.0, 0.35])
    blocks = [
        _level([*-half, -0.03], [*half, 0.0]),
        *_pieces(int(rng.integers(10, 30)), top, (0.03, 0.3), rng),
        *_floating(int(rng.integers(2, 12)), things, (0.03, 0.2), rng),
        *_pieces(int(rng.integers(2, 7)), shell, (0.2, 0.8), rng),
        *_pictures(int(rng.integers(2, 9)), shell, (0.1, 0.8), rng),
    ]
    eyes = Region(np.array([-0.9, -0.7, 0.1]), np.array([-0.15, 0.7, 0.65]))
    targets = Region(np.array([-0.1, -0.3, 0.0]), np.array([0.4, 0.3, 0.15]))
    return Place('table', shell, tuple(blocks), eyes, targets, 0.05, (0.25, 1.5), 0.5, 0.7)


def _facades(side: int, shell: Region, rng: Generator) -> Iterator[Block]:
    """Houses along one side of a street (-1 or 1), with gaps, some of them set back."""
    line_m, x = rng.uniform(3.5, 9.0), float(shell.low[0])
    while x < shell.high[0]:
        length, height, depth = rng.uniform((3.0, 3.0, 3.0), (14.0, 18.0, 8.0))
        near = line_m + max(rng.normal(0.0, 0.7), -1.0)
        y = sorted((side * near, side * (near + depth)))
        house = _level([x, y[0], 0.0], [x + length, y[1], height])
        turn = _turn((0.0, 0.0, 1.0), rng.normal(0.0, 0.04))
        yield Block(house.centre, house.half, turn)
        x += float(length + max(rng.normal(0.0, 1.5), 0.0))


def _kerb(side: int, shell: Region, rng: Generator) -> Iterator[Block]:
    """What stands between the road and the houses: cars, poles, boards, bushes."""
    for x in np.arange(2.0, shell.high[0], rng.uniform(1.5, 5.0)):
        place_x, place_y = x + rng.uniform(-1.0, 1.0), side * rng.uniform(2.2, 4.5)
        kind = rng.uniform()
        if kind < 0.35:
            half = 0.5 * rng.uniform((3.2, 1.5, 1.3), (4.8, 1.9, 2.4))
            turn = _turn((0.0, 0.0, 1.0), rng.normal(0.0, 0.05))
            yield Block(np.array([place_x, place_y, half[2]]), half, turn)
        elif kind < 0.6:
            half = 0.5 * rng.uniform((0.08, 0.08, 2.0), (0.4, 0.4, 7.0))
            yield _standing(place_x, place_y, 0.0, half, rng)
        else:
            yield _standing(place_x, place_y, 0.0, _size(0.3, 2.0, rng), rng)


def _street(rng: Generator) -> Place:
    """A street of 60 to 80 m; most have a plain sky, which is the far walls of the shell."""
    side = rng.uniform(18.0, 30.0)
    shell = Region(
        np.array([-12.0, -side, 0.0]), np.array([rng.uniform(60.0, 80.0), side, side + 8.0])
    )
    above = Region(np.array([8.0, -4.0, 3.5]), np.array([50.0, 4.0, 7.0]))
    blocks = [
        *(house for side in (-1, 1) for house in _facades(side, shell, rng)),
        *(thing for side in (-1, 1) for thing in _kerb(side, shell, rng)),
        *_floating(int(rng.integers(0, 4)), above, (0.5, 3.0), rng),
    ]
    eyes = Region(np.array([0.0, -1.2, 0.9]), np.array([15.0, 1.2, 2.2]))
    targets = Region(np.array([25.0, -7.0, 0.0]), np.array([60.0, 7.0, 4.0]))
    sky = bool(rng.uniform() < 0.6)
    return Place('street', shell, tuple(blocks), eyes, targets, 0.5, (4.0, 30.0), 3.0, 9.0, sky)


PLACES: dict[PlaceKind, Callable[[Generator], Place]] = {
    'room': _room,
    'table': _table,
    'street': _street,
}


def draw_place(kind: PlaceKind, rng: Generator) -> Place:
    """Draw a place of a kind."""
    return PLACES[kind](rng)


def is_clear(place: Place, points: Doubles) -> bool:
    """Whether points (N, 3) in m keep the place's clearance from everything."""
    margin = place.clearance_m
    if (points < place.shell.low + margin).any() or (points > place.shell.high - margin).any():
        return False
    return all(block.distance(points).min() >= margin for block in place.blocks)


def _faces(centre: Doubles, half: Doubles, rotation: Doubles, inward: bool) -> Iterator[Face]:
    """Corner, edges (3, 2) and normal of the six faces of a box."""
    widening = 1.0 + OVERLAP if inward else 1.0
    for axis in range(3):
        for sign in (-1.0, 1.0):
            outward = sign * rotation[:, axis]
            along = [(axis + 1) % 3, (axis + 2) % 3]
            if (sign < 0.0) != inward:
                along.reverse()
            edges = rotation[:, along] * (2.0 * widening * half[along])
            corner = centre + outward * half[axis] - edges.sum(1) / 2.0
            yield corner, edges, -outward if inward else outward


def _draw_texels(edges: Doubles, tile_m: float, rng: Generator) -> Doubles:
    """
    Lay a texture on a parallelogram: turned, moved and scaled.

    :param tile_m: what the texture covers at most, about
    :return: column and row in the texture, of (a, b, 1): (2, 3)
    """
    lengths_m = np.linalg.norm(edges, axis=0)
    covered_m = min(lengths_m.max(), tile_m) * rng.uniform(0.5, 1.5)
    angle = float(0.5 * np.pi * rng.integers(4) + rng.normal(0.0, 0.15))
    if rng.uniform() < 0.3:
        angle = rng.uniform(0.0, 2.0 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = rng.uniform(0.0, TEXELS, 2)
    return np.column_stack([turn * (lengths_m * TEXELS / covered_m), offset])


def _paint_box(
    faces: list[Face], textures: Sequence[int], gain: Doubles, tile_m: float, rng: Generator
) -> Iterator[Surface]:
    """Give each face its texture and its share of the light."""
    for (corner, edges, normal), texture in zip(faces, textures, strict=True):
        lit = np.asarray(gain * shade(normal), np.float32)
        plane = np.column_stack([edges, corner])
        yield Surface(plane, texture, _draw_texels(edges, tile_m, rng), lit)


def _under_the_sky(shell: Sequence[Surface], sky: int) -> Iterator[Surface]:
    """The faces of a shell, all but the floor with the sky's texture and no shade."""
    for face, surface in enumerate(shell):
        gain = np.ones(3, np.float32)
        yield surface if face == FLOOR else replace(surface, texture=sky, gain=gain)


def paint_place(place: Place, textures: int, rng: Generator) -> tuple[Surface, ...]:
    """
    Give every face of a place a texture; half of the boxes have the same one all around.

    :param textures: how many there are to choose from; the last one is the sky's alone
    """
    centre, half = (
        (place.shell.low + place.shell.high) / 2,
        (place.shell.high - place.shell.low) / 2,
    )
    boxes = [list(_faces(centre, half, np.eye(3), inward=True))]
    boxes += [list(_faces(b.centre, b.half, b.world_R_block, inward=False)) for b in place.blocks]
    surfaces: list[Surface] = []
    for faces in boxes:
        chosen = rng.integers(textures - 1, size=6).tolist()
        if surfaces and rng.uniform() < 0.5:
            chosen = 6 * chosen[:1]
        gain = rng.uniform(0.6, 1.15) * rng.uniform(0.8, 1.2, 3)
        surfaces += _paint_box(faces, chosen, gain, place.tile_m, rng)
    if place.sky:
        surfaces[:6] = _under_the_sky(surfaces[:6], textures - 1)
    return tuple(surfaces)
