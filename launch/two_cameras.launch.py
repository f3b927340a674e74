"""
Start one TC-Depth node per camera, each in the camera's namespace.

    ros2 launch tc_depth_ros two_cameras.launch.py cameras:=front,rear

takes /front/image_raw and /front/camera_info, publishes /front/tc_depth/points, and so for rear.
What tc_depth.launch.py takes besides, this takes too, for every camera: device:=cuda, say, or
odom:=/odom for the one odometry of the robot.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

ONE_CAMERA = Path(__file__).parent / 'tc_depth.launch.py'
# Argument -> default, description.
ARGUMENTS = {
    'cameras': ('front,rear', 'namespaces of the cameras, with commas between; two or more'),
    'image': (
        'image_raw',
        "image topic within each camera's namespace, without a slash before it",
    ),
    'camera_info': ('camera_info', 'its intrinsics, likewise'),
    'bag': ('', 'a bag with all cameras, to play with --clock; empty: none, they are live'),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; everything else follows from their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    """Include tc_depth.launch.py once per camera; the first one plays the bag for all."""
    value = dict(context.launch_configurations)  # an include changes them
    cameras = [name.strip().strip('/') for name in value['cameras'].split(',')]
    if len(set(cameras)) < len(cameras) or not all(cameras):
        raise ValueError(
            f'cameras: {value["cameras"]!r} must be different names, as in front,rear'
        )
    for argument in ('image', 'camera_info'):
        if value[argument].startswith('/'):  # all nodes would take the one camera
            raise ValueError(
                f"{argument}: {value[argument]} must stand in each camera's namespace"
            )
    # Every node needs it, though only one plays
    sim_time = value.get('use_sim_time') or ('true' if value['bag'] else '')
    source = PythonLaunchDescriptionSource(str(ONE_CAMERA))
    return [
        IncludeLaunchDescription(
            source,
            launch_arguments={
                'namespace': camera,
                'image': value['image'],
                'camera_info': value['camera_info'],
                'bag': '' if index else value['bag'],
                'use_sim_time': sim_time,
            }.items(),
        )
        for index, camera in enumerate(cameras)
    ]
