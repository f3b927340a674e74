"""Build the ROS package tc_depth_ros, with colcon on a robot or with pip anywhere."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = 'tc_depth_ros'

setup(
    name=PACKAGE,
    version='0.1.0',
    description='Consistent depth and a coloured point cloud from one moving camera',
    maintainer='tc_depth_ros maintainers',
    maintainer_email='maintainers@tc-depth-ros.example',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', 'weights/*.safetensors', 'weights/*.md', 'weights/*.png']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', glob('config/*')),
    ],
    zip_safe=False,  # the weights are opened by path
    python_requires='>=3.10',
    # Only what has one name in both worlds. apt's python3-opencv is no `opencv-python-headless` to
    # Python, and colcon's console scripts carry `__requires__`: a name that is missing there makes
    # the first `import pkg_resources` of any library end the node. ROS's own packages are in
    # package.xml, and for worlds without ROS in the extra below.
    install_requires=['setuptools', 'numpy', 'torch>=2.1', 'safetensors'],
    extras_require={
        # ROS 2 Jazzy itself, and what rosdep would have installed beside it.
        'ros-wheels': [
            'ros-rclpy[fastrtps]==7.1.6',
            'ros-common-interfaces==5.3.6',
            'opencv-python-headless>=4.8',
            'rosbags>=0.11',
            'transforms3d>=0.4',
        ],
        'test': ['pytest'],  # colcon test looks for pytest here
    },
    entry_points={
        'console_scripts': [
            'tc_depth_node = tc_depth_ros.ros.node:main',
            'tc_depth_bag_player = tc_depth_ros.ros.bag_player:main',
        ],
    },
)
