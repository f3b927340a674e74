"""Temporally consistent depth from one moving camera; this alone imports neither torch nor ROS."""
