"""
What the command line tells before it knows the command.

It imports nothing heavy, so that help is there at once.
"""

from __future__ import annotations

from pathlib import Path

PRESETS = Path(__file__).parent / 'presets'

# Of tc-depth render
SCENES, FRAMES, SIZE = 20, 24, (192, 256)
CROSSING = 0.25


class UsageError(ValueError):
    """The request makes no sense; the message names the remedy."""


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in PRESETS.glob('*.yaml'))
