"""
A camera's geometry: which size its images have, how they are rectified, and K of the result.

The matrices of a CameraInfo are of the full image. ROI and binning are applied to them in that
order, as image_geometry does, and ``roi.do_rectify`` is not looked at, as image_proc does not:
the rectified image shows the same window of the full rectified image that the ROI is of the raw.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.frames.camera_info import Calibration, CameraInfoMessage
from tc_depth_ros.geometry.intrinsics import resize_intrinsics

POLYNOMIAL_MODELS = ('plumb_bob', 'rational_polynomial')  # OpenCV's standard model, short or long
EQUIDISTANT = 'equidistant'  # OpenCV's fisheye model
POLYNOMIAL_LENGTHS = (4, 5, 8, 12, 14)  # that OpenCV takes
EQUIDISTANT_LENGTH = 4
MAP_RESOLUTION_PX = 1 / 32  # of OpenCV's fixed-point maps
OUTSIDE_PX = -1000.0  # where a map reads black
ROTATION_TOLERANCE = 1e-3  # calibration files are rounded


class RectificationMaps(NamedTuple):
    """Where each pixel of the rectified image is read, in OpenCV's fixed point."""

    whole_px: NDArray[np.int16]  # (H, W, 2), u and v
    fraction: NDArray[np.uint16]  # (H, W)


@dataclass(frozen=True)
class CameraModel:
    """What is done with the images of one camera, as long as its calibration holds."""

    calibration: Calibration
    K: NDArray[np.float64]  # (3, 3), in pixels of the rectified image
    maps: RectificationMaps | None  # None: the images are as they should be
    seen: NDArray[np.bool_] | None  # (H, W), False where the maps show nothing; None: all is seen

    @classmethod
    def from_message(cls, camera_info: CameraInfoMessage, rectify: bool) -> CameraModel:
        """
        Work out a camera; takes tens of milliseconds where there is something to rectify.

        :param rectify: False: its images are rectified already, and D and R are of no concern
        :raises ValueError: no focal length, a ROI that leaves the image, a distortion model that
            is not known, or coefficients or a rotation that are none
        """
        return cls.from_calibration(Calibration.from_message(camera_info), rectify)

    @classmethod
    def from_calibration(cls, calibration: Calibration, rectify: bool) -> CameraModel:
        """Do as :meth:`from_message` does, for what a message says."""
        _check_roi(calibration)
        K = _reduced(_rectified_intrinsics(calibration), calibration)
        raw_K = np.array(calibration.k).reshape(3, 3)
        if not rectify or _is_rectified(calibration, raw_K):
            return cls(calibration, K, None, None)
        raw_K = _reduced(raw_K, calibration)
        u, v = _raw_pixels(calibration, raw_K, K)
        seen = _is_seen(calibration, raw_K, K, u, v)
        u[~seen] = v[~seen] = OUTSIDE_PX
        whole, fraction = cv2.convertMaps(u, v, cv2.CV_16SC2)
        maps = RectificationMaps(np.asarray(whole), np.asarray(fraction))
        return cls(calibration, K, maps, None if seen.all() else seen)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images, raw and rectified."""
        return self.calibration.image_size

    def rectify(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """
        Rectify an image of ``size``; the very same is returned where there is nothing to do.

        :return: RGB, (H, W, 3), black where ``seen`` is False
        """
        if self.maps is None:
            return image
        return np.asarray(cv2.remap(image, *self.maps, cv2.INTER_LINEAR), dtype=np.uint8)

    def rectify_depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        Rectify depth that fits the raw image, of ``size``; the same where there is nothing to do.

        Each pixel takes the raw one nearest, since the mean of two surfaces is on neither.

        :param depth: z along the raw camera's optical axis, in m, (H, W)
        :return: z along the rectified camera's, in m, (H, W), NaN where ``seen`` is False
        """
        if self.maps is None:
            return depth
        nothing: NDArray[np.int16] = np.empty(0, dtype=np.int16)
        read = cv2.remap(depth, self._nearest_px, nothing, cv2.INTER_NEAREST, borderValue=np.nan)
        return np.asarray(read / self._raw_z, dtype=np.float32)

    @cached_property
    def _nearest_px(self) -> NDArray[np.int16]:
        """The raw pixel nearest to where the maps read, (H, W, 2): OpenCV itself rounds down."""
        assert self.maps is not None
        steps = round(1 / MAP_RESOLUTION_PX)
        beyond = np.stack([self.maps.fraction % steps, self.maps.fraction // steps], axis=-1)
        return np.asarray(self.maps.whole_px + (beyond >= steps // 2), dtype=np.int16)

    @cached_property
    def _raw_z(self) -> NDArray[np.float32]:
        """z in the raw camera of the ray that has z = 1 in the rectified one, (H, W)."""
        row, column = np.indices(self.size)
        pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
        # The last row of R^T K^-1
        raw_z = pixels @ (_rotation(self.calibration).T @ np.linalg.inv(self.K))[2]
        return np.asarray(raw_z, dtype=np.float32)


def _check_roi(calibration: Calibration) -> None:
    roi, (height, width) = calibration.roi, calibration.image_size
    fits = (
        min(height, width) > 0
        and roi.x_offset + roi.width <= calibration.width
        and roi.y_offset + roi.height <= calibration.height
    )
    if not fits:
        raise ValueError(
            f'CameraInfo says {calibration.width}x{calibration.height} (width x height), of which '
            f'a ROI of {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset}) is captured: '
            'height and width must be those of the full image, and roi lie within; mend the '
            'camera driver'
        )


def _is_filled_in(K: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0)


def _rectified_intrinsics(calibration: Calibration) -> NDArray[np.float64]:
    """K of the full rectified image: the left 3x3 of P, or K where P is not filled in."""
    raw = np.array(calibration.k).reshape(3, 3)
    projection = np.array(calibration.p).reshape(3, 4)[:, :3]
    for K in (projection, raw):
        if _is_filled_in(K):
            return K
    raise ValueError(
        f'CameraInfo has no intrinsics (k[0] is {raw[0, 0]}, p[0] is {projection[0, 0]}): '
        'calibrate the camera, or set its camera_info_url'
    )


def _reduced(K: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """
    K of the image that ROI and binning leave of the full one.

    Binning combines b pixels, so the centre of the first lies at (b - 1)/2 of the full image, and
    ``c' = (c + 0.5)/b - 0.5`` as for any resize. image_geometry has ``c' = c/b``, which is right
    for a camera that skips pixels, but not for one that bins as CameraInfo defines it: it is
    (b - 1)/(2b) of a pixel off.
    """
    cropped = np.array(K)
    cropped[0, 2] -= calibration.roi.x_offset
    cropped[1, 2] -= calibration.roi.y_offset
    if (calibration.binning_x, calibration.binning_y) == (1, 1):
        return cropped
    scale_x, scale_y = 1 / calibration.binning_x, 1 / calibration.binning_y
    return np.asarray(resize_intrinsics(torch.from_numpy(cropped), scale_x, scale_y))


def _is_rectified(calibration: Calibration, K: NDArray[np.float64]) -> bool:
    """Whether the raw image is the rectified one: no distortion, no rotation, and P equals K."""
    return (
        # Without coefficients, an equidistant lens still bends what a pinhole leaves straight
        calibration.distortion_model != EQUIDISTANT
        and not _coefficients(calibration).any()
        and np.array_equal(_rotation(calibration), np.eye(3))
        and np.array_equal(_rectified_intrinsics(calibration), K)
    )


def _coefficients(calibration: Calibration) -> NDArray[np.float64]:
    """D as OpenCV takes it; raises ValueError where it does not fit its model."""
    d, model = np.array(calibration.d, dtype=np.float64), calibration.distortion_model
    undistorted = not d.any()  # NaN is any
    if model not in (*POLYNOMIAL_MODELS, EQUIDISTANT) and not (model == '' and undistorted):
        raise ValueError(
            f"CameraInfo's distortion_model is '{model}', which cannot be rectified; known are "
            f'{", ".join((*POLYNOMIAL_MODELS, EQUIDISTANT))}: calibrate the camera with one of '
            'these, or rectify its images elsewhere and remap to image_rect'
        )
    if model != EQUIDISTANT and undistorted:
        return np.zeros(POLYNOMIAL_LENGTHS[0])
    lengths = (EQUIDISTANT_LENGTH,) if model == EQUIDISTANT else POLYNOMIAL_LENGTHS
    if d.size not in lengths or not np.isfinite(d).all():
        raise ValueError(
            f'CameraInfo has d of {list(calibration.d)} for {model}, which takes '
            f'{" or ".join(map(str, lengths))} finite coefficients: calibrate the camera again'
        )
    return d


def _rotation(calibration: Calibration) -> NDArray[np.float64]:
    """R, or the identity where it is not filled in; raises ValueError where it is no rotation."""
    R = np.array(calibration.r).reshape(3, 3)
    if not R.any():
        return np.eye(3)
    orthonormal = np.allclose(R @ R.T, np.eye(3), rtol=0, atol=ROTATION_TOLERANCE)
    if not (orthonormal and np.linalg.det(R) > 0):
        raise ValueError(
            f'CameraInfo has r of {list(calibration.r)}, which is no rotation: calibrate the '
            'camera again'
        )
    return R


def _raw_pixels(
    calibration: Calibration, raw_K: NDArray[np.float64], K: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """u and v in the raw image of each pixel of the rectified one, each (H, W)."""
    if not _is_filled_in(raw_K):
        raise ValueError(
            f'CameraInfo has no k (k[0] is {raw_K[0, 0]}, p[0] is {calibration.p[0]}), which the '
            'raw image needs to be rectified: calibrate the camera, set its camera_info_url, or '
            'remap to image_rect'
        )
    coefficients, R = _coefficients(calibration), _rotation(calibration)
    equidistant = calibration.distortion_model == EQUIDISTANT
    make_maps = cv2.fisheye.initUndistortRectifyMap if equidistant else cv2.initUndistortRectifyMap
    size = calibration.image_size[::-1]
    u, v = make_maps(raw_K, coefficients, R, K, size, cv2.CV_32FC1)
    return np.asarray(u), np.asarray(v)


def _is_seen(
    calibration: Calibration,
    raw_K: NDArray[np.float64],
    K: NDArray[np.float64],
    u: NDArray[np.float32],
    v: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """
    Where the raw image has what the rectified one shows, (H, W).

    Beyond the angles that it was fitted for, a polynomial may turn back and lead into the image
    again: first mirrored, where the Jacobian's determinant is negative, then upside down, where
    the pixel lies on the other side of the optical axis than its ray.
    """
    height, width = u.shape
    slack = MAP_RESOLUTION_PX / 2  # rounded, it reads the outermost pixels
    inside = (u >= -slack) & (u <= width - 1 + slack) & (v >= -slack) & (v <= height - 1 + slack)
    row, column = np.indices(u.shape)
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    x, y, z = np.moveaxis(pixels @ np.linalg.inv(K @ _rotation(calibration)).T, -1, 0)
    with np.errstate(invalid='ignore'):  # behind an equidistant camera, pixels are infinite
        (u_y, u_x), (v_y, v_x) = np.gradient(u), np.gradient(v)
        upright = u_x * v_y > u_y * v_x
        same_side = (u - raw_K[0, 2]) * x + (v - raw_K[1, 2]) * y > -slack * z
    return np.asarray(inside & upright & same_side & (z > 0))
