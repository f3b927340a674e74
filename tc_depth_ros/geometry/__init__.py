"""
Pure functions on tensors; the only place that knows the pixel convention.

- the centre of the top-left pixel is (0, 0), as in OpenCV and sensor_msgs/CameraInfo;
- camera axes are x right, y down, z forward (REP 103, ``_optical`` frames);
- depth is the z coordinate, not the length of the ray (REP 118);
- ``a_T_b`` takes points from frame b to frame a: ``points_a = a_T_b @ points_b``;
- K is in pixels of the tensor it accompanies;
- masks are 1 where a pixel is used.
"""
