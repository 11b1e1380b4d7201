"""The picture that most code asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from features.lucent.param.color import to_valid_rgb
from features.lucent.param.spatial import fft_image, pixel_image


def image(
    w: int,
    h: int | None = None,
    sd: float | None = None,
    batch: int | None = None,
    decorrelate: bool = True,
    fft: bool = True,
    channels: int | None = None,
    *,
    device: torch.device | str | None = None,
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Give ``(params, image_f)`` for ``batch`` pictures in [0, 1], ``(batch, channels, h, w)``: `fft_image` or
    `pixel_image` through `to_valid_rgb`.

    As in lucent the width comes first, and colours are decorrelated only where ``channels`` is not said.

    >>> params, image_f = image(24, h=16, batch=2)
    >>> image_f().shape
    torch.Size([2, 3, 16, 24])
    """
    made = fft_image if fft else pixel_image
    params, image_f = made([batch or 1, channels or 3, h or w, w], sd=sd, device=device)
    return params, to_valid_rgb(image_f, decorrelate=decorrelate and not channels)
