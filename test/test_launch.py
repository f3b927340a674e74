"""The launch file under the real launch, with stand-ins that write down what they were given."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

# launch_ros first: without ROS, `import launch` would find our own folder of that name.
pytest.importorskip('launch_ros', reason='launch_ros is not installed')
launch = pytest.importorskip('launch')

FILE = Path(__file__).parents[1] / 'launch' / 'tc_depth.launch.py'
STAND_IN = """#!{python}
import json, os, sys
with open(os.path.join({out!r}, os.path.basename(sys.argv[0]) + '.json'), 'w') as file:
    json.dump(sys.argv[1:], file)
"""


def start(**arguments: str) -> int:
    """Run the launch file as `ros2 launch` does, until everything that it started has ended."""
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(FILE))
    include = launch.actions.IncludeLaunchDescription(source, launch_arguments=arguments.items())
    service = launch.LaunchService()
    service.include_launch_description(launch.LaunchDescription([include]))
    return service.run(shutdown_when_idle=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Launch with arguments; return the command line of each executable that was started."""
    for package, executable in (('tc_depth_ros', 'tc_depth_node'), ('rviz2', 'rviz2')):
        stand_in(tmp_path / 'lib' / package / executable, tmp_path)
        marker = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    stand_in(tmp_path / 'bin' / 'ros2', tmp_path)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=':')
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))

    def launched(**arguments: str) -> dict[str, list[str]]:
        assert start(**arguments) == 0
        return {file.stem: json.loads(file.read_text()) for file in tmp_path.glob('*.json')}

    return launched


def stand_in(path: Path, out: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(python=sys.executable, out=str(out)))
    path.chmod(0o755)


def after(flag: str, command: list[str]) -> list[str]:
    return [value for name, value in pairwise(command) if name == flag]


def test_every_argument_is_declared_with_a_description() -> None:
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(FILE))
    description = source.get_launch_description(launch.LaunchContext())
    arguments = {a.name: a for a in description.get_launch_arguments()}
    assert set(arguments) == {
        *('namespace', 'name', 'params_file', 'log_level', 'use_sim_time', 'autostart'),
        *('bag', 'bag_rate', 'rviz', 'rviz_frame', 'image_transport', 'weights', 'device'),
        *('image', 'camera_info', 'depth_image', 'depth_camera_info', 'depth_color', 'points'),
    }
    assert all(a.description and a.default_value is not None for a in arguments.values())


def test_by_default_only_the_node_starts_with_its_own_parameters(run) -> None:
    commands = run()
    assert set(commands) == {'tc_depth_node'}
    node = commands['tc_depth_node']
    assert '__node:=tc_depth' in after('-r', node)
    assert '~/points:=~/points' in after('-r', node)
    own, overrides = after('--params-file', node)
    assert own == str(FILE.parents[1] / 'config' / 'tc_depth.yaml')
    for name in ('weights', 'use_sim_time'):  # or a default would undo the user's own file
        assert name not in Path(overrides).read_text()


def test_a_given_parameter_wins_over_the_file_and_keeps_its_type(run) -> None:
    node = run(weights='7', autostart='false')['tc_depth_node']
    overrides = Path(after('--params-file', node)[-1]).read_text()
    assert "weights: '7'" in overrides
    assert 'autostart: false' in overrides


def test_the_compressed_topic_goes_where_the_image_goes(run) -> None:
    remaps = after('-r', run(image='/front/image_raw', points='/cloud')['tc_depth_node'])
    assert 'image:=/front/image_raw' in remaps
    assert 'image/compressed:=/front/image_raw/compressed' in remaps
    assert '~/points:=/cloud' in remaps


@pytest.mark.usefixtures('run')
def test_a_missing_parameter_file_ends_the_launch(tmp_path) -> None:
    assert start(params_file=str(tmp_path / 'none.yaml')) != 0


def test_a_bag_brings_its_clock_and_rviz_follows_the_topics(run) -> None:
    commands = run(bag='drive', bag_rate='0.5', rviz='true', name='front', image='/cam')
    assert commands['ros2'] == ['bag', 'play', 'drive', '--clock', '--rate', '0.5']
    for executable in ('tc_depth_node', 'rviz2'):
        overrides = Path(after('--params-file', commands[executable])[-1]).read_text()
        assert 'use_sim_time: true' in overrides
    remaps = after('-r', commands['rviz2'])
    assert '/tc_depth/points:=front/points' in remaps
    assert '/image:=/cam' in remaps
