"""Train, evaluate and refine TC-Depth on recorded bags. No ROS needed, and none imported."""

__version__ = '0.1.0'
