"""Fitting: pictures of Pillow, of any mode and size, as the tensors that a model takes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from features.pictures import check_picture, strict_decoding


def fit_image(image: Image.Image, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Give Pillow's ``image`` as a tensor ``(channels, h, w)`` in [0, 1]: the short side fitted to ``size``, the centre
    kept.

    Bilinear with antialias; then upright by EXIF, and transparency on white. Any mode: integers of 16 bits are divided
    by 65535 and keep their precision, floats must lie in [0, 1], all others have 8 bits. An animation gives its current
    frame. The whole image is never made floats, but for 16 bits. ``ValueError`` for other than 1 (grey) or 3
    (RGB) channels, and for values outside their range.

    >>> fit_image(Image.new("L", (40, 20), 255), (10, 10)).shape
    torch.Size([3, 10, 10])
    """
    if channels not in (1, 3):
        raise ValueError(f"the model takes {channels} channels, and a picture has 1 or 3: give a dataset of tensors")
    with strict_decoding():
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    height, width = size[::-1] if turn in SIDEWAYS else size
    whole = _resizable(image)
    fitted = whole.resize((width, height), Image.Resampling.BILINEAR, box=_centre(whole.size, (height, width)))
    if turn in UPRIGHT:
        fitted = fitted.transpose(UPRIGHT[turn])
    levels = _deep_levels(fitted, image.mode) if fitted.mode == "F" else _levels(fitted, channels)
    levels = np.broadcast_to(levels.reshape(*size, -1), (*size, channels))
    return torch.from_numpy(np.array(levels)).permute(2, 0, 1).contiguous()


def _resizable(image: Image.Image) -> Image.Image:
    """Give ``image`` in a mode that can be resized without loss: RGB, RGBA, or F for more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return image.convert("F")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _deep_levels(fitted: Image.Image, mode: str) -> np.ndarray:
    """Give the levels (h, w) of floats, or of integers of 16 bits, which Pillow reads into 32 bits as well."""
    return check_picture(np.asarray(fitted) / np.float32(1 if mode == "F" else 65535))[:, :, 0]


def _levels(fitted: Image.Image, channels: int) -> np.ndarray:
    """Give the levels (h, w, 3), or (h, w) for one channel."""
    if fitted.mode == "RGBA":
        fitted = Image.alpha_composite(Image.new("RGBA", fitted.size, "white"), fitted).convert("RGB")
    return np.asarray(fitted if channels == 3 else fitted.convert("L"), dtype=np.float32) / np.float32(255)


def _centre(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Give the largest box ``(x0, y0, x1, y1)`` of the shape of ``size`` (h, w) around the centre of an image of
    ``given`` (w, h).
    """
    scale = min(given[0] / size[1], given[1] / size[0])
    width, height = size[1] * scale, size[0] * scale
    left, top = max(0.0, (given[0] - width) / 2), max(0.0, (given[1] - height) / 2)
    return left, top, min(given[0], left + width), min(given[1], top + height)


# How a camera's orientation is undone (as in Pillow's `ImageOps.exif_transpose`), and which of them lie on their side.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset([5, 6, 7, 8])
