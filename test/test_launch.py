"""The launch files under the real launch, with stand-ins that write down what they were given."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

# launch_ros first: without ROS, `import launch` would find our own folder of that name.
pytest.importorskip('launch_ros', reason='launch_ros is not installed')
launch = pytest.importorskip('launch')

ROOT = Path(__file__).parents[1]
FILE = ROOT / 'launch' / 'tc_depth.launch.py'
TWO_CAMERAS = ROOT / 'launch' / 'two_cameras.launch.py'
PROFILE = ROOT / 'config' / 'fastdds_shm.xml'
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
STAND_IN = """#!{python}
import json, os, sys
with open(os.path.join({out!r}, '%d.json' % os.getpid()), 'w') as file:
    json.dump([os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)], file)
"""


@dataclass(frozen=True)
class Started:
    """One process that a launch has started."""

    executable: str
    command: list[str]  # its arguments
    environment: dict[str, str]

    @property
    def profiles(self) -> tuple[str | None, ...]:
        """Where it looks for DDS profiles: on Humble and Jazzy, on Kilted."""
        return tuple(self.environment.get(name) for name in PROFILE_VARIABLES)


def start(file: Path = FILE, **arguments: str) -> int:
    """Run a launch file as `ros2 launch` does, until everything that it started has ended."""
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(file))
    include = launch.actions.IncludeLaunchDescription(source, launch_arguments=arguments.items())
    service = launch.LaunchService()
    service.include_launch_description(launch.LaunchDescription([include]))
    return service.run(shutdown_when_idle=True)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., list[Started]]:
    """Launch with arguments; return all that was started."""
    for package, executable in (('tc_depth_ros', 'tc_depth_node'), ('rviz2', 'rviz2')):
        stand_in(tmp_path / 'lib' / package / executable, tmp_path)
        marker = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    stand_in(tmp_path / 'bin' / 'ros2', tmp_path)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=':')
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def launched(file: Path = FILE, **arguments: str) -> list[Started]:
        assert start(file, **arguments) == 0
        return [Started(*json.loads(path.read_text())) for path in tmp_path.glob('*.json')]

    return launched


def the(executable: str, started: list[Started]) -> Started:
    """The one process of an executable."""
    (found,) = (process for process in started if process.executable == executable)
    return found


def stand_in(path: Path, out: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(python=sys.executable, out=str(out)))
    path.chmod(0o755)


def after(flag: str, command: list[str]) -> list[str]:
    return [value for name, value in pairwise(command) if name == flag]


def declared(file: Path) -> set[str]:
    """Names of a launch file's arguments, all of which are described and may be left out."""
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(file))
    description = source.get_launch_description(launch.LaunchContext())
    arguments = description.get_launch_arguments()
    assert all(a.description and a.default_value is not None for a in arguments)
    return {a.name for a in arguments}


def test_every_argument_is_declared_with_a_description() -> None:
    assert declared(FILE) == {
        *('namespace', 'name', 'params_file', 'log_level', 'use_sim_time', 'autostart'),
        *('bag', 'bag_rate', 'rviz', 'rviz_frame', 'image_transport', 'weights', 'device'),
        *('image', 'camera_info', 'depth_image', 'depth_camera_info', 'depth_color', 'points'),
        *('odom', 'confidence', 'odometry', 'dds_profile', 'respawn'),
    }
    assert declared(TWO_CAMERAS) == {'cameras', 'image', 'camera_info', 'bag'}


def test_by_default_only_the_node_starts_with_its_own_parameters(run) -> None:
    (started,) = run()
    assert started.executable == 'tc_depth_node'
    node = started.command
    assert '__node:=tc_depth' in after('-r', node)
    assert '~/points:=~/points' in after('-r', node)
    own, overrides = after('--params-file', node)
    assert own == str(FILE.parents[1] / 'config' / 'tc_depth.yaml')
    for name in ('weights', 'use_sim_time'):  # or a default would undo the user's own file
        assert name not in Path(overrides).read_text()


def test_a_given_parameter_wins_over_the_file_and_keeps_its_type(run) -> None:
    node = the('tc_depth_node', run(weights='7', autostart='false')).command
    overrides = Path(after('--params-file', node)[-1]).read_text()
    assert "weights: '7'" in overrides
    assert 'autostart: false' in overrides


def test_the_compressed_topic_goes_where_the_image_goes(run) -> None:
    node = the('tc_depth_node', run(image='/front/image_raw', points='/cloud'))
    remaps = after('-r', node.command)
    assert 'image:=/front/image_raw' in remaps
    assert 'image/compressed:=/front/image_raw/compressed' in remaps
    assert '~/points:=/cloud' in remaps


@pytest.mark.usefixtures('run')
def test_a_missing_parameter_file_ends_the_launch(tmp_path) -> None:
    assert start(params_file=str(tmp_path / 'none.yaml')) != 0


def test_a_bag_brings_its_clock_and_rviz_follows_the_topics(run) -> None:
    started = run(bag='drive', bag_rate='0.5', rviz='true', name='front', image='/cam')
    assert the('ros2', started).command == ['bag', 'play', 'drive', '--clock', '--rate', '0.5']
    for executable in ('tc_depth_node', 'rviz2'):
        overrides = Path(after('--params-file', the(executable, started).command)[-1]).read_text()
        assert 'use_sim_time: true' in overrides
    remaps = after('-r', the('rviz2', started).command)
    assert '/tc_depth/points:=front/points' in remaps
    assert '/image:=/cam' in remaps


# ---- large messages ------------------------------------------------------------------------


def test_all_that_is_started_takes_large_messages(run) -> None:
    started = run(bag='drive', rviz='true')
    assert sorted(process.executable for process in started) == ['ros2', 'rviz2', 'tc_depth_node']
    for process in started:
        assert process.profiles == (str(PROFILE), str(PROFILE))


@pytest.mark.parametrize('variable', PROFILE_VARIABLES)
def test_a_profile_in_the_environment_is_left_alone(run, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, '/mine.xml')
    given = tuple('/mine.xml' if name == variable else None for name in PROFILE_VARIABLES)
    assert the('tc_depth_node', run()).profiles == given


def test_a_profile_that_is_asked_for_wins(run, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(PROFILE_VARIABLES[0], '/mine.xml')
    other = tmp_path / 'other.xml'
    other.touch()
    profiles = the('tc_depth_node', run(dds_profile=str(other))).profiles
    assert profiles == (str(other), str(other))


def test_no_profile_is_set_where_none_is_wanted(run) -> None:
    assert the('tc_depth_node', run(dds_profile='none')).profiles == (None, None)


@pytest.mark.usefixtures('run')
def test_a_missing_profile_ends_the_launch(tmp_path) -> None:
    assert start(dds_profile=str(tmp_path / 'none.xml')) != 0


# ---- several cameras -----------------------------------------------------------------------


def namespaces(nodes: list[Started]) -> dict[str, Started]:
    """The nodes by the namespace that each was given."""
    return {rule[6:]: n for n in nodes for rule in after('-r', n.command) if rule[:6] == '__ns:='}


def test_each_camera_has_its_node_in_its_namespace(run) -> None:
    started = run(TWO_CAMERAS, cameras='front,rear', device='cpu')
    nodes = namespaces(started)
    assert len(started) == 2 and set(nodes) == {'/front', '/rear'}
    for node in nodes.values():
        remaps = after('-r', node.command)
        assert '__node:=tc_depth' in remaps
        # Names without a slash before them: each resolves in its namespace
        assert {'image:=image_raw', 'camera_info:=camera_info'} <= set(remaps)
        assert '~/points:=~/points' in remaps
        assert 'device: cpu' in Path(after('--params-file', node.command)[-1]).read_text()


def test_three_cameras_with_topics_of_their_own(run) -> None:
    started = run(TWO_CAMERAS, cameras='a, b,robot/c', image='color/image', camera_info='color/k')
    nodes = namespaces(started)
    assert set(nodes) == {'/a', '/b', '/robot/c'}
    for node in nodes.values():
        remaps = after('-r', node.command)
        assert {'image:=color/image', 'camera_info:=color/k'} <= set(remaps)
        assert 'image/compressed:=color/image/compressed' in remaps


def test_one_bag_plays_for_all_cameras(run) -> None:
    started = run(TWO_CAMERAS, bag='drive')
    the('ros2', started)  # not one per camera
    for node in namespaces(started).values():
        overrides = Path(after('--params-file', node.command)[-1]).read_text()
        assert 'use_sim_time: true' in overrides


@pytest.mark.usefixtures('run')
@pytest.mark.parametrize(
    'arguments',
    [{'cameras': 'front,front'}, {'cameras': 'front,'}, {'image': '/camera/image_raw'}],
)
def test_cameras_that_would_be_one_end_the_launch(arguments: dict[str, str]) -> None:
    assert start(TWO_CAMERAS, **arguments) != 0
