"""Parameterizations under lucent's names: each gives ``(params, image_f)``, tensors to optimize and the picture they
make. lucent's ``upconvGAN`` is not here: the address of its weights is dead.
"""

from __future__ import annotations

from features.lucent.param.color import (
    color_correlation_normalized,
    color_correlation_svd_sqrt,
    color_mean,
    max_norm_svd_sqrt,
    to_valid_rgb,
)
from features.lucent.param.cppn import CompositeActivation, cppn
from features.lucent.param.images import image
from features.lucent.param.lowres import lowres_tensor, resize_bilinear_nd
from features.lucent.param.spatial import fft_image, pixel_image, rfft2d_freqs

__all__ = [
    "CompositeActivation",
    "color_correlation_normalized",
    "color_correlation_svd_sqrt",
    "color_mean",
    "cppn",
    "fft_image",
    "image",
    "lowres_tensor",
    "max_norm_svd_sqrt",
    "pixel_image",
    "resize_bilinear_nd",
    "rfft2d_freqs",
    "to_valid_rgb",
]
