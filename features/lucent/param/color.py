"""Colours: from decorrelated ones to RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from features.parameterizations import COLOURS, correlate

# The colour matrix of ImageNet by lucid (optvis/param/color.py), before and after its largest column is made 1 long.
max_norm_svd_sqrt = np.float32(0.46195)
color_correlation_normalized = COLOURS.astype(np.float32)
color_correlation_svd_sqrt = color_correlation_normalized * max_norm_svd_sqrt
color_mean = [0.48, 0.46, 0.41]


def to_valid_rgb(image_f: Callable[[], Tensor], decorrelate: bool = False) -> Callable[[], Tensor]:
    """Give a function that gives ``sigmoid(x)`` of what ``image_f`` gives, with ``decorrelate`` ``sigmoid(C x)`` with
    ImageNet's colour matrix, for three channels.

    >>> to_valid_rgb(lambda: torch.zeros(1, 3, 2, 2), decorrelate=True)().unique()
    tensor([0.5000])
    """

    def image() -> Tensor:
        values = image_f()
        if decorrelate and values.shape[1] != 3:
            raise ValueError(f"colours are decorrelated in three channels, not in {values.shape[1]}: decorrelate=False")
        return torch.sigmoid(correlate(values) if decorrelate else values)

    return image
