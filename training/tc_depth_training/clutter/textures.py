"""Draw textures: crops of photographs, noise, stripes and checks, and what is nearly plain."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_training.clutter.surfaces import Bytes, Pyramid, make_pyramid
from tc_depth_training.synthetic import Floats, make_noise, two_paints

TEXELS = 512
# How often a texture is of a kind: a photograph, noise, a pattern, plain.
WITH_PHOTOGRAPHS = (0.7, 0.08, 0.1, 0.12)
WITHOUT = (0.0, 0.55, 0.3, 0.15)
SMALLEST_CROP = 0.3  # of a photograph's side
BRIGHTNESS = (0.3, 0.6)  # that a crop is brought to, in the mean, of 0..1
GAIN = (0.7, 3.0)  # by which it may be


def _bytes(levels: NDArray[np.floating[Any]]) -> Bytes:
    """Levels of 0..1 as bytes."""
    return np.asarray(np.rint(255.0 * np.clip(levels, 0.0, 1.0)), np.uint8)


def _photograph(photographs: Sequence[Bytes], rng: np.random.Generator) -> Bytes:
    """A crop of a photograph, mirrored at times, with a colour and a contrast of its own."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    size = np.array(photograph.shape[:2])
    crop = np.maximum((rng.uniform(SMALLEST_CROP, 1.0, 2) * size.min()).astype(int), 2)
    top, left = rng.integers(size - crop + 1)
    part = photograph[top : top + crop[0], left : left + crop[1]]
    part = part[:, :: rng.choice([-1, 1])]
    resized = cv2.resize(part, (TEXELS, TEXELS), interpolation=cv2.INTER_LINEAR)
    levels = np.linspace(0.0, 1.0, 256)[:, None] ** rng.uniform(0.7, 1.4)
    # A crop of shadows would be black, and show nothing that can be matched.
    brightness = float(levels[resized, 0].mean()) + 1e-3
    gain = np.clip(rng.uniform(*BRIGHTNESS) / brightness, *GAIN) * rng.uniform(0.85, 1.15, 3)
    table = _bytes(gain * levels)  # (256, 3): what each byte of each colour becomes
    return np.asarray(cv2.LUT(resized, table[None]), np.uint8)


def _noise(noise: Floats, rng: np.random.Generator, amplitude: float = 1.0) -> Bytes:
    """Two paints, mixed by a crop of the noise."""
    side = int(rng.integers(TEXELS, len(noise) + 1))
    top, left = rng.integers(0, len(noise) - side + 1, 2)
    part = noise[top : top + side, left : left + side]
    resized = cv2.resize(part, (TEXELS, TEXELS), interpolation=cv2.INTER_AREA)
    tone, mix = amplitude * np.moveaxis(np.asarray(resized, np.float32), -1, 0)
    return _mixed(0.5 + 0.9 * mix, tone, rng)


def _mixed(weight: Floats, tone: Floats, rng: np.random.Generator) -> Bytes:
    """Mix two paints by a weight (N, N), and darken them by a tone (N, N) of -1..1."""
    saturation, value = rng.uniform(0.0, 0.8), rng.uniform(0.5, 1.0)
    dark, light = np.array(two_paints(rng.uniform(), saturation, value), np.float32)
    mixed = dark + np.clip(weight, 0.0, 1.0)[..., None] * (light - dark)
    return _bytes(mixed * (1.0 + 0.5 * tone[..., None]))


def _pattern(noise: Floats, rng: np.random.Generator) -> Bytes:
    """Checks or stripes, soft at the edges, and a little soiled."""
    place = np.arange(TEXELS, dtype=np.float32)
    period = np.exp(rng.uniform(np.log(12.0), np.log(200.0), 2))
    across, down = (np.cos(2.0 * np.pi * place / p + rng.uniform(0.0, 6.0)) for p in period)
    wave = across[None] * (down[:, None] if rng.uniform() < 0.5 else np.ones((TEXELS, 1)))
    top, left = rng.integers(0, len(noise) - TEXELS + 1, 2)
    soil = rng.uniform(0.1, 0.7) * noise[top : top + TEXELS, left : left + TEXELS, 0]
    return _mixed(0.5 + 0.5 * np.tanh(4.0 * wave).astype(np.float32), soil, rng)


def draw_sky(rng: np.random.Generator) -> Pyramid:
    """A bright and nearly plain texture: white, grey or blue."""
    colour = rng.uniform(0.75, 1.05) * np.array([1.0 - rng.uniform(0.0, 0.4), 0.95, 1.0])
    clouds = rng.uniform(0.0, 0.1) * make_noise(rng)[:TEXELS, :TEXELS, 0]
    return make_pyramid(_bytes(colour * (1.0 + clouds[..., None])))


def draw_textures(
    count: int, photographs: Sequence[Bytes], rng: np.random.Generator
) -> tuple[Pyramid, ...]:
    """
    Draw textures of TEXELS squared.

    :param photographs: (H, W, 3) RGB, of any sizes; none: the package's own patterns alone
    """
    noise = make_noise(rng)
    kinds = rng.choice(4, count, p=WITH_PHOTOGRAPHS if photographs else WITHOUT)
    textures = []
    for kind in kinds:
        if kind == 0:
            texture = _photograph(photographs, rng)
        elif kind == 1:
            texture = _noise(noise, rng)
        elif kind == 2:
            texture = _pattern(noise, rng)
        else:
            texture = _noise(noise, rng, amplitude=rng.uniform(0.0, 0.08))
        textures.append(make_pyramid(texture))
    return tuple(textures)
