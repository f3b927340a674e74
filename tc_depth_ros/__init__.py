"""Temporally consistent depth from one moving camera. Importing this imports neither torch nor ROS."""
