"""Kernels and pictures turned, mirrored, scaled and recoloured."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def warped(pictures: Tensor, angle: float = 0.0, *, mirror: bool = False, scale: float = 1.0) -> Tensor:
    """Mirror pictures or kernels ``(..., h, w)`` left to right, enlarge them, then turn them about their centre.

    ``angle`` in degrees, counterclockwise as seen; quarter turns of squares without a scale are exact, others
    interpolate (bicubic); beyond the border lies 0.

    >>> kernel = torch.arange(9.0).reshape(3, 3)
    >>> torch.equal(warped(kernel, 90), torch.rot90(kernel))
    True
    """
    if not pictures.is_floating_point() or pictures.ndim < 2:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)}, {pictures.dtype}: give floats (..., h, w)")
    if not (math.isfinite(angle) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"angle is {angle!r} and scale {scale!r}: give degrees, and a factor above 0")
    pictures = pictures.flip(-1) if mirror else pictures
    h, w = pictures.shape[-2:]
    if scale == 1 and angle % 90 == 0 and (h == w or angle % 180 == 0):
        return torch.rot90(pictures, int(angle // 90) % 4, (-2, -1))
    flat = pictures.reshape(-1, 1, h, w)
    grid = _grid(h, w, angle, scale).to(flat)
    turned = F.grid_sample(flat, grid.expand(len(flat), -1, -1, -1), mode="bicubic", align_corners=False)
    return turned.reshape(pictures.shape)


def recoloured(pictures: Tensor, hue: float) -> Tensor:
    """Turn the colours of ``(..., 3, h, w)`` about the grey axis, by ``hue`` degrees: red, green, blue at 120 and 240.

    The linear map of kernels and of pictures in [0, 1], which may leave that range.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    >>> recoloured(red, 120).flatten().abs().round(decimals=5).tolist()
    [0.0, 1.0, 0.0]
    """
    if pictures.ndim < 3 or pictures.shape[-3] != 3:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)} have no hue: give (..., 3, h, w)")
    if hue % 360 == 0:
        return pictures
    return torch.einsum("ab,...bhw->...ahw", _turn_of_colours(hue).to(pictures), pictures)


def disc(h: int, w: int) -> Tensor:
    """Give the mask ``(h, w)`` of what stays in the picture whatever the angle: the disc that the kernel holds."""
    y = torch.arange(h, dtype=torch.float64) - (h - 1) / 2
    x = torch.arange(w, dtype=torch.float64) - (w - 1) / 2
    inside: Tensor = (y[:, None] ** 2 + x**2).sqrt() <= min(h, w) / 2
    return inside.double()


def _grid(h: int, w: int, angle: float, scale: float) -> Tensor:
    """Give the place each pixel is read from, ``(1, h, w, 2)`` as ``grid_sample`` takes it."""
    turn = math.radians(angle)
    y = torch.arange(h, dtype=torch.float64)[:, None] - (h - 1) / 2
    x = torch.arange(w, dtype=torch.float64)[None] - (w - 1) / 2
    from_x = (x * math.cos(turn) - y * math.sin(turn)) / scale
    from_y = (x * math.sin(turn) + y * math.cos(turn)) / scale
    return torch.stack([from_x * 2 / w, from_y * 2 / h], dim=-1)[None]


def _turn_of_colours(hue: float) -> Tensor:
    """Give the rotation about (1, 1, 1): Rodrigues' formula."""
    turn, third = math.radians(hue), 1 / 3
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64) * math.sqrt(third)
    grey = torch.full((3, 3), third, dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) * math.cos(turn) + grey * (1 - math.cos(turn)) + cross * math.sin(turn)
