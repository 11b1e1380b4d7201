"""Textbook: gradient ascent on raw pixels as lessons teach it, every step kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from features.models import Model
from features.parameterizations import Parameterization, raw_pixels, starting_from
from features.visualization.ascent import BATCH, What, visualize
from features.visualization.optimizers import plain
from features.visualization.results import Visualization

# Chollet, "Visualizing what convnets learn": 30 steps of length 10 along the gradient, divided by its 2-norm, on 180 x
# 180 pixels of 3 colours with values in [-1, 1]: on average 10 / sqrt(180 * 180 * 3) per value, half of it in [0, 1].
STEPS = 30
RATE = 0.016


def ascend(
    model: Model,
    what: What | Sequence[What],
    *,
    picture: ArrayLike | Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    rate: float = RATE,
    normalized: bool = True,
    steps: int = STEPS,
    seed: int = 0,
    batch: int = BATCH,
    progress: bool = True,
) -> Visualization:
    """Climb the gradient of ``what`` in the pixels themselves: ``x <- x + rate g / rms(g)``, held in [0, 1], and
    nothing else.

    No transforms, no decorrelation, no momentum, no penalty: what the first chapter of every course does. It starts
    from uniform noise about grey (of ``size``, the network's without it), or from your ``picture`` ``(h, w, 3)``,
    as a tensor ``(channels, h, w)``, in [0, 1]; without ``normalized`` the step is ``rate g``. Every step is kept:
    ``result.sequence(unit)`` is the optimization as pictures, ``result.animate("film.gif")`` as a film,
    ``result.to_image()`` the grid of all. The pictures are noisier than those of `visualize`, their robustness
    lower, and their verdict often says so: compare them. ``what``, ``seed`` and errors are as in `visualize`.

    >>> from features.models import load_model
    >>> filters = ascend(load_model("sketches"), [f"conv2d1:{i}" for i in range(4)], steps=2, progress=False)
    >>> filters.images.shape, len(filters.sequence("conv2d1:3"))
    ((4, 64, 64, 3), 3)
    """
    return visualize(
        model,
        what,
        image=_from(picture, size),
        transforms=(),
        optimizer=plain(rate, normalized=normalized),
        steps=steps,
        keep=1,
        seed=seed,
        batch=batch,
        progress=progress,
    )


def _from(picture: ArrayLike | Tensor | None, size: int | tuple[int, int] | None) -> Parameterization:
    if picture is None:
        return raw_pixels(size)
    if size is not None:
        raise ValueError("a picture to start from has its own size: leave one of the two out")
    if isinstance(picture, Tensor):
        return starting_from(picture, raw_pixels())
    array = np.asarray(picture)
    if array.ndim != 3 or array.dtype.kind != "f":
        raise ValueError(f"the picture is {array.dtype} of shape {array.shape}: give floats in [0, 1], (h, w, 3)")
    return starting_from(torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1), raw_pixels())
