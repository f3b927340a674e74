"""
Start the TC-Depth node; on request play a bag into it and open RViz.

    ros2 launch tc_depth_ros tc_depth.launch.py image:=/camera/image_raw \
        camera_info:=/camera/camera_info
    ros2 launch tc_depth_ros tc_depth.launch.py --show-args
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).parents[1] / 'config'  # the same in the source tree and installed

RESPAWN_DELAY_S = 2.0
# Where Fast DDS looks for its profiles: Humble and Jazzy, Kilted.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

# Topic of the node -> the argument that remaps it, and what it carries.
TOPICS = {
    'image': ('image', 'camera image in; <image>/compressed when image_transport is compressed'),
    'camera_info': ('camera_info', 'intrinsics of the image'),
    'odom': ('odom', "the robot's odometry, for scale.source: odometry and weights that match"),
    '~/depth/image': ('depth_image', 'depth in metres, 32FC1'),
    '~/depth/camera_info': ('depth_camera_info', 'intrinsics of the depth image'),
    '~/depth/color': ('depth_color', 'depth as colours, for eyes'),
    '~/points': ('points', 'organised point cloud with colours'),
    '~/confidence': ('confidence', 'probability that a depth is right, 0 to 1'),
    '~/odometry': ('odometry', "the camera's own motion"),
}
# Parameters that a launch may set; one left empty keeps its value in params_file.
PARAMETERS = {
    'image_transport': (str, 'raw or compressed'),
    'weights': (str, 'a .safetensors file'),
    'device': (str, 'auto, cpu, cuda or cuda:<n>'),
    'autostart': (bool, 'whether the node configures and activates itself'),
}
# Argument -> default, description.
ARGUMENTS = {
    'namespace': ('', 'namespace of the node'),
    'name': ('tc_depth', 'name of the node'),
    'params_file': (str(CONFIG / 'tc_depth.yaml'), 'parameters of the node'),
    'dds_profile': (
        '',
        'Fast DDS profiles (XML) of all that is started here; empty: config/fastdds_shm.xml, for '
        'large images, unless the environment names a file; none: whatever the environment says',
    ),
    'respawn': ('false', 'start the node again if it ends, as after a CUDA error: true or false'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'bag': ('', 'a bag to play with --clock; empty: none, the camera is live'),
    'bag_rate': ('1.0', 'speed at which the bag is played'),
    'use_sim_time': ('', 'follow /clock; empty: true with a bag, whose clock it is'),
    'rviz': ('false', 'open RViz: true or false'),
    'rviz_frame': ('camera_color_optical_frame', "RViz's fixed frame: the frame_id of the camera"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; everything else follows from their values."""
    topics = {argument: (topic, text) for topic, (argument, text) in TOPICS.items()}
    parameters = {
        k: ('', f'{text}; empty: see params_file') for k, (_, text) in PARAMETERS.items()
    }
    described = {**ARGUMENTS, **topics, **parameters}
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in described.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    """Start what the arguments ask for."""
    value = context.launch_configurations
    if not Path(value['params_file']).is_file():  # launch_ros would only warn
        raise FileNotFoundError(f'params_file: no such file: {value["params_file"]}')
    sim_time = value['use_sim_time'] or ('true' if value['bag'] else '')
    clock = {'use_sim_time': typed(sim_time, bool)} if sim_time else {}

    profile = dds_profile(value['dds_profile'])

    actions = [depth_node(value, clock, profile)]
    if value['bag']:
        actions.append(bag_player(value, profile))
    if value['rviz'].lower() == 'true':
        actions.append(rviz(value, clock, profile))
    return actions


def dds_profile(chosen):
    """Environment variables that name the profiles; none where the user's own are to stand."""
    if chosen == 'none' or (not chosen and any(map(os.environ.get, PROFILE_VARIABLES))):
        return {}
    path = Path(chosen or CONFIG / 'fastdds_shm.xml').absolute()
    if not path.is_file():  # Fast DDS would only log it, and lose images
        raise FileNotFoundError(f'dds_profile: no such file: {path}')
    return dict.fromkeys(PROFILE_VARIABLES, str(path))


def depth_node(value, clock, environment):
    """Give the node its topics, and over params_file only the parameters that were given."""
    given = {k: typed(value[k], type_) for k, (type_, _) in PARAMETERS.items() if value[k]}
    return Node(
        package='tc_depth_ros',
        executable='tc_depth_node',
        name=value['name'],
        namespace=value['namespace'],
        output='screen',
        parameters=[value['params_file'], {**given, **clock}],
        remappings=[
            *((topic, value[argument]) for topic, (argument, _) in TOPICS.items()),
            ('image/compressed', value['image'] + '/compressed'),  # no rule reaches below a name
        ],
        ros_arguments=['--log-level', value['log_level']],
        additional_env=environment,
        respawn=value['respawn'].lower() == 'true',
        respawn_delay=RESPAWN_DELAY_S,
    )


def bag_player(value, environment):
    """Play the bag, its time on /clock."""
    play = ['ros2', 'bag', 'play', value['bag'], '--clock', '--rate', value['bag_rate']]
    return ExecuteProcess(cmd=play, output='screen', additional_env=environment)


def rviz(value, clock, environment):
    """Show image, depth and cloud, wherever the arguments put them."""
    shown = {
        '/image': 'image',
        '/tc_depth/depth/color': 'depth_color',
        '/tc_depth/points': 'points',
    }
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=value['namespace'],
        arguments=['-d', str(CONFIG / 'tc_depth.rviz'), '-f', value['rviz_frame']],
        parameters=[clock],
        # `~` is the depth node here, not RViz.
        remappings=[(k, value[v].replace('~', value['name'], 1)) for k, v in shown.items()],
        additional_env=environment,
    )


def typed(text, type_):
    """Keep launch_ros from guessing a type: a file of weights may be called 7."""
    return ParameterValue(TextSubstitution(text=text), value_type=type_)
