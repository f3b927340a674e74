"""The only room that imports ROS. It holds no arithmetic: callbacks convert, call, publish."""
