"""What is written down twice agrees, and the files that only ROS reads are well formed."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from math import cos, sin
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()


def load_yaml(name: str) -> Any:
    yaml = pytest.importorskip('ruamel.yaml')
    return yaml.YAML(typ='safe', pure=True).load(ROOT / name)


def setup_arguments() -> dict[str, ast.expr]:
    tree = ast.parse((ROOT / 'setup.py').read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    setup = next(call for call in calls if getattr(call.func, 'id', None) == 'setup')
    return {keyword.arg: keyword.value for keyword in setup.keywords if keyword.arg}


def test_the_manifest_names_what_the_node_and_its_users_need() -> None:
    depends = {element.text for element in MANIFEST if element.tag.endswith('depend')}
    assert depends >= {
        'cv_bridge',
        'python3-numpy',
        'python3-opencv',
        'rclpy',
        'sensor_msgs',
        'sensor_msgs_py',
        'tf_transformations',
    }
    assert MANIFEST.findtext('name') == 'tc_depth_ros'
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    assert (ROOT / 'resource' / 'tc_depth_ros').is_file()


def test_one_version_everywhere() -> None:
    version = MANIFEST.findtext('version')
    training = (ROOT / 'training' / 'pyproject.toml').read_text()
    assert version == ast.literal_eval(setup_arguments()['version'])
    assert version in re.findall(r"^version = '(.+)'$", training, re.MULTILINE)
    assert f'\n{version} (' in (ROOT / 'CHANGELOG.rst').read_text()


def test_the_console_scripts_exist() -> None:
    scripts = ast.literal_eval(setup_arguments()['entry_points'])['console_scripts']
    for script in scripts:
        module, function = script.split(' = ')[1].split(':')
        tree = ast.parse((ROOT / f'{module.replace(".", "/")}.py').read_text())
        assert function in {getattr(node, 'name', None) for node in tree.body}, script


def test_launch_files_and_profiles_are_installed_where_they_look_for_each_other() -> None:
    lists = ast.unparse(setup_arguments()['data_files'])
    for folder, pattern in (('launch', 'launch/*.launch.py'), ('config', 'config/*')):
        assert f"(f'share/{{PACKAGE}}/{folder}', glob('{pattern}'))" in lists
    assert {file.name for file in (ROOT / 'launch').glob('*.launch.py')} == {
        'tc_depth.launch.py',
        'two_cameras.launch.py',
    }
    assert (ROOT / 'config' / 'fastdds_shm.xml').is_file()


def test_the_profile_is_well_formed_and_made_for_large_messages() -> None:
    root = ElementTree.parse(ROOT / 'config' / 'fastdds_shm.xml').getroot()
    space = {'dds': root.tag.partition('}')[0].lstrip('{')}
    (memory,) = (
        t
        for t in root.iterfind('.//dds:transport_descriptor', space)
        if t.findtext('dds:type', None, space) == 'SHM'
    )
    frame_bytes = 1280 * 720 * (4 + 16 + 3)  # depth, cloud, colours
    history = 5
    assert int(memory.findtext('dds:segment_size', '', space)) >= history * frame_bytes
    pieces = int(memory.findtext('dds:port_queue_capacity', '', space))
    assert pieces >= history * frame_bytes / 65_500  # a message of UDP, and so of all transports


def test_the_node_reads_its_parameters_under_any_name() -> None:
    parameters = load_yaml('config/tc_depth.yaml')['/**']['ros__parameters']
    assert parameters['image_transport'] in ('raw', 'compressed')
    assert parameters['weights'] == ''  # a string: rcl reads an empty value as none at all
    assert all(isinstance(parameters[k], float) for k in ('min_range', 'max_range', 'max_gap_s'))
    assert parameters['autostart'] is True


def test_rviz_shows_image_depth_and_coloured_cloud() -> None:
    manager = load_yaml('config/tc_depth.rviz')['Visualization Manager']
    displays = {d['Topic']['Value']: d for d in manager['Displays'] if 'Topic' in d}
    assert set(displays) == {'/image', '/tc_depth/depth/color', '/tc_depth/points'}
    assert displays['/tc_depth/points']['Color Transformer'] == 'RGB8'
    assert displays['/tc_depth/points']['Topic']['Reliability Policy'] == 'Reliable'
    # Cameras publish best effort, which a reliable subscription refuses.
    assert displays['/image']['Topic']['Reliability Policy'] == 'Best Effort'


def test_the_views_of_rviz_stand_upright_in_the_optical_frame() -> None:
    views = load_yaml('config/tc_depth.rviz')['Visualization Manager']['Views']
    saved = {view['Name']: view for view in views['Saved']}

    for view in [views['Current'], *saved.values()]:
        right, up, _ = orbit_axes(view)
        assert right == pytest.approx((1, 0, 0), abs=1e-6)
        assert up[1] <= 1e-6 and up[2] >= 0  # y points down, z away
    assert orbit_axes(saved["Camera's eye"])[2] == pytest.approx((0, 0, 1), abs=2e-3)
    assert orbit_axes(saved["Bird's eye"])[2] == pytest.approx((0, 1, 0), abs=1e-6)


def orbit_axes(view: dict[str, float]) -> list[tuple[float, ...]]:
    """Right, up and forward of RViz's Orbit view: it looks at its focal point and keeps z up."""
    yaw, pitch = view['Yaw'], view['Pitch']
    right = (-sin(yaw), cos(yaw), 0.0)
    up = (-cos(yaw) * sin(pitch), -sin(yaw) * sin(pitch), cos(pitch))
    forward = (-cos(yaw) * cos(pitch), -sin(yaw) * cos(pitch), -sin(pitch))
    return [right, up, forward]
