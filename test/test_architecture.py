"""The table that is the architecture: which room may import which, and ROS in one of them only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / 'tc_depth_ros'
TRAINING = REPOSITORY / 'training' / 'tc_depth_training'

MAY_IMPORT = {
    '__init__': set(),
    'settings': set(),
    'pictures': set(),
    'geometry': set(),
    'frames': {'geometry', 'settings'},
    'network': {'geometry'},
    'precision': {'geometry', 'frames', 'network'},
    'temporal': {'geometry', 'network', 'settings'},
    'predictor': {'geometry', 'frames', 'network', 'precision', 'settings', 'temporal'},
    'localisation': {'geometry', 'scale', 'settings', 'temporal'},
    'pipeline': {'frames', 'localisation', 'predictor', 'scale', 'settings', 'temporal'},
    'scale': {'geometry', 'settings'},
    'ros': {
        'geometry',
        'frames',
        'pictures',
        'pipeline',
        'predictor',
        'scale',
        'settings',
        'temporal',
    },
}
TRAINING_MAY_IMPORT = {
    'geometry',
    'frames',
    'localisation',
    'network',
    'pictures',
    'pipeline',
    'predictor',
    'scale',
    'temporal',
}
ROS_MODULES = {
    'builtin_interfaces',
    'cv_bridge',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'nav_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'sensor_msgs',
    'sensor_msgs_py',
    'std_msgs',
    'std_srvs',
    'tf2_msgs',
    'tf2_ros',
    'tf_transformations',
}
# Users' robots have them, the wheels do not: the node must start without
NOT_IN_THE_WHEELS = {
    'cv_bridge',
    'launch',
    'sensor_msgs_py',
    'tf2_msgs',
    'tf2_ros',
    'tf_transformations',
}
# Only what trains or plays bags may need these; bag_player imports rosbags when it plays
NOT_ON_THE_ROBOT = {'rosbags', 'pydantic', 'tqdm', 'tc_depth_training'}


def imports_of(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names of the modules that a file imports."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative imports hide the architecture'
            yield node.module or ''


def room_of(path: Path) -> str:
    """The room or the single module that a file of the package is."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def own_rooms(path: Path) -> set[str]:
    """Rooms of tc_depth_ros that a file imports."""
    names = [n.split('.') for n in imports_of(path) if n.split('.')[0] == 'tc_depth_ros']
    return {name[1] if len(name) > 1 else '__init__' for name in names}


FILES = sorted(PACKAGE.rglob('*.py'))
TRAINING_FILES = sorted(TRAINING.rglob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_downwards_only(path: Path) -> None:
    room = room_of(path)
    assert own_rooms(path) <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_ros_stays_in_its_room(path: Path) -> None:
    is_ros = room_of(path) == 'ros'
    imported = {name.split('.')[0] for name in imports_of(path, top_level_only=is_ros)}
    assert not imported & (NOT_IN_THE_WHEELS if is_ros else ROS_MODULES)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_robot_needs_nothing_of_training(path: Path) -> None:
    assert not {n.split('.')[0] for n in imports_of(path, top_level_only=True)} & NOT_ON_THE_ROBOT


@pytest.mark.parametrize('path', TRAINING_FILES, ids=lambda p: str(p.relative_to(TRAINING)))
def test_training_is_free_of_ros(path: Path) -> None:
    assert not {name.split('.')[0] for name in imports_of(path)} & ROS_MODULES
    assert own_rooms(path) <= TRAINING_MAY_IMPORT


def test_importing_the_package_imports_neither_torch_nor_ros() -> None:
    code = (
        'import sys, tc_depth_ros; '
        "assert not {'torch', 'rclpy', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=REPOSITORY)
