"""Colours: the matrix that makes colours of decorrelated ones; ImageNet's, and one fitted on the user's images."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

# The square root of the covariance of colours in ImageNet, its largest column of length 1 (lucid,
# optvis/param/color.py): the columns are brightness, blue against yellow and green against magenta, in falling order of
# how much pictures vary along them.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]]) / 0.46195

# A direction in which the images do not vary at all (grey images in three channels) would make the matrix singular: it
# gets this share of the largest standard deviation.
LEAST_DEVIATION = 1e-3

# Half of an 8-bit level, less a little for rounding: values nearer to 0 or 1 have a logit without bound, and a picture
# whose values are moved in by this much is the same in 8 bits.
EDGE = 0.499 / 255


def correlate(values: Tensor, colours: ArrayLike | None = None) -> Tensor:
    """Make colours ``(n, c, h, w)`` of decorrelated ones, ``C x`` at every pixel.

    Without ``colours`` three channels are mixed by `COLOURS`, and any other number stays as it is. Errors:
    ``ValueError`` for a matrix that is none or is of another number of channels.

    >>> correlate(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)).flatten()
    tensor([0.5628, 0.5845, 0.5845])
    """
    return mixed(values, matrix_of(colours))


def decorrelate(values: Tensor, colours: ArrayLike | None = None) -> Tensor:
    """Undo `correlate`.

    >>> x = torch.rand(1, 3, 2, 2)
    >>> torch.allclose(decorrelate(correlate(x)), x, atol=1e-5)
    True
    """
    return mixed(values, matrix_of(colours), inverse=True)


def fit_colours(images: Tensor) -> NDArray[np.float64]:
    """Find the colour matrix of ``images`` ``(n, c, h, w)``: a square root ``C`` of the covariance of their colours.

    ``C = U sqrt(S) / max sqrt(S)`` with the covariance ``U S U'``: its columns are the axes along which the colours
    vary, the strongest first and of length 1, so that ``C C'`` is the covariance divided by its largest eigenvalue.
    Give it as ``colours=`` to a parameterization, for images that are not photographs or have other channels than red,
    green and blue. An axis along which nothing varies gets a thousandth of the strongest. Errors: ``ValueError`` for
    images of another shape, without variation or with numbers that are not finite.

    >>> grey = torch.rand(2, 1, 8, 8).expand(2, 2, 8, 8)
    >>> fit_colours(grey).round(3)
    array([[ 0.707, -0.001],
           [ 0.707,  0.001]])
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"colours are fitted on images (n, c, h, w), and these have shape {tuple(images.shape)}")
    values = images.detach().double().movedim(1, 0).flatten(1)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the images have values that are not finite: leave those images out")
    centred = values - values.mean(1, keepdim=True)
    variances, axes = np.linalg.eigh((centred @ centred.T / centred.shape[1]).cpu().numpy())
    deviations = np.sqrt(np.clip(variances[::-1], 0, None))
    if deviations[0] < EDGE:
        raise ValueError("the images are all of one colour: give images whose colours vary")
    axes = axes[:, ::-1]
    # An axis has no direction of its own: the larger half of its numbers is made positive, so that results repeat.
    axes = axes * np.where(axes.sum(0) < -1e-9, -1.0, 1.0)
    return np.asarray(axes * np.maximum(deviations / deviations[0], LEAST_DEVIATION))


def matrix_of(colours: ArrayLike | None) -> Matrix | None:
    """Give the colour matrix as numbers that can be compared and printed; ``ValueError`` for what is none."""
    if colours is None:
        return None
    array = np.asarray(colours, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.isfinite(array).all():
        raise ValueError(
            f"the colours have shape {array.shape}: give a finite matrix (c, c), such as fit_colours(images)"
        )
    if np.linalg.matrix_rank(array) < len(array):
        raise ValueError("the matrix of the colours is singular: give one with an inverse, such as fit_colours(images)")
    return tuple(tuple(float(each) for each in row) for row in array)


def mixed(values: Tensor, colours: Matrix | None, *, inverse: bool = False) -> Tensor:
    """Multiply the colours ``(n, c, h, w)`` by the matrix or its inverse; without one by `COLOURS` if there are 3."""
    channels = values.shape[1]
    if colours is None and channels != 3:
        return values
    if colours is not None and len(colours) != channels:
        raise ValueError(
            f"the colours are a matrix for {len(colours)} channels, and the picture has {channels}: "
            "fit_colours on images with as many channels as the network takes"
        )
    mixing = _mixing(colours, inverse, values.device, values.dtype)
    return (mixing @ values.flatten(2)).view_as(values)


def logits_of(pictures: Tensor) -> Tensor:
    """Undo the sigmoid for ``pictures`` in [0, 1]; 0 and 1 become the nearest number that is still the same in 8
    bits.
    """
    return torch.logit(pictures.clamp(EDGE, 1 - EDGE))


@lru_cache(maxsize=64)
def _mixing(colours: Matrix | None, inverse: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    matrix = COLOURS if colours is None else np.array(colours)
    with torch.inference_mode(False):  # what is kept from inference could not be part of a gradient later
        return torch.as_tensor(np.linalg.inv(matrix) if inverse else matrix, dtype=dtype, device=device)
