"""Recorded bags to windows of frames. No ROS is needed to read a bag."""
