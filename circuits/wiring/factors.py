"""Factors: the few kernels that all wires into, or out of, a unit are made of (one-sided NMF)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

ROUNDS = 1000  # of coordinate descent; the last ones change the fourth digit of the error at most
TINY = 1e-12  # of the strongest part's square: what is weaker is rounding, and given as 0
CLOSE = 1e-5  # part of the first round's violation of optimality at which it stops


@dataclass(frozen=True, eq=False)
class Factors:
    """Kernels as a sum of ``rank`` parts, ``kernels[i] = sum_r channels[r, i] * space[r]``, strongest part first.

    ``channels`` is ``(rank, i)``, ``space`` ``(rank, kh, kw)``, or ``(rank, o, kh, kw)`` for the kernels of several
    units at once. ``signed`` says which of the two has both signs, ``"space"`` or ``"channels"``; the other is >= 0 and
    has an L2 norm of 1 in each part, so that the signed one carries the size; a part without any is 0. ``error`` is the
    L2 norm of what is left over, relative to that of the kernels: 0 for a perfect sum, at most about 1.
    """

    channels: NDArray[np.float64]
    space: NDArray[np.float64]
    signed: str
    error: float

    def kernels(self) -> NDArray[np.float64]:
        """Give the kernels that the parts add up to, ``(i, kh, kw)`` or ``(o, i, kh, kw)``."""
        return np.moveaxis(np.tensordot(self.channels, self.space, axes=(0, 0)), 0, -3)


def factor_channels(kernels: Tensor, rank: int) -> Factors:
    """Group the channels: channel factors >= 0, spatial factors with both signs.

    ``kernels`` are ``(i, kh, kw)``: the wires into one unit, ``connect(model, source, target)[unit]``, or out of one,
    ``connect(model, source, target)[:, unit]``; or ``(o, i, kh, kw)``, the wires into several units that are to share
    their groups of channels. With ``A`` the kernels as a matrix, rows for units and places, columns for channels, the
    non-negative factorization of ``[relu(A); relu(-A)]`` is taken and the lower half of its rows subtracted from the
    upper: "channels that pull the same way in the same places", as in the frequency edges of Schubert et al. (2021,
    "High-Low Frequency Detectors"). Of a group all wires have the same sign at one place; `factor_space` is the other.

    Deterministic: NNDSVD starts it, scikit-learn's coordinate descent finds it. Raises ``ValueError`` for a rank that
    is not in 1 ... the smaller side of the matrix, for kernels of another shape, all zero or not finite.

    >>> import torch
    >>> low, high = torch.tensor([[1.0, 1], [1, 1]]), torch.tensor([[1.0, -1], [-1, 1]])
    >>> found = factor_channels(torch.stack([low, 2 * low, 3 * high]), 2)
    >>> found.signed, (found.channels > 0.01).tolist(), round(found.error, 3)
    ('space', [[False, False, True], [True, True, False]], 0.0)
    """
    units = _checked(kernels)
    o, i, kh, kw = units.shape
    matrix = units.transpose(0, 2, 3, 1).reshape(-1, i)
    both = np.concatenate([np.maximum(matrix, 0), np.maximum(-matrix, 0)])
    rows, channels = _factorize(both, rank)
    space = (rows[: len(matrix)] - rows[len(matrix) :]).T.reshape(rank, o, kh, kw)
    return _ordered(channels, space[:, 0] if kernels.dim() == 3 else space, "space", kernels)


def factor_space(kernels: Tensor, rank: int) -> Factors:
    """Group the places: spatial factors >= 0, channel factors with both signs.

    As `factor_channels`, with the positive and the negative halves side by side over channels, ``[relu(A), relu(-A)]``:
    "places that are read together", each with the channels that excite there and those that inhibit.

    >>> import torch
    >>> left, right = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
    >>> found = factor_space(torch.stack([left - right, 2 * left, -3 * right]), 2)
    >>> found.signed, found.channels.round(3).tolist()
    ('channels', [[-1.414, 0.0, -4.243], [1.414, 2.828, 0.0]])
    """
    units = _checked(kernels)
    o, i, kh, kw = units.shape
    matrix = units.transpose(0, 2, 3, 1).reshape(-1, i)
    both = np.concatenate([np.maximum(matrix, 0), np.maximum(-matrix, 0)], axis=1)
    space, columns = _factorize(both, rank)
    channels = columns[:, :i] - columns[:, i:]
    places = space.T.reshape(rank, o, kh, kw)
    return _ordered(channels, places[:, 0] if kernels.dim() == 3 else places, "channels", kernels)


def _checked(kernels: Tensor) -> NDArray[np.float64]:
    """Give kernels as (o, i, kh, kw)."""
    if kernels.dim() not in (3, 4) or kernels.numel() == 0:
        raise ValueError(
            f"kernels of shape {tuple(kernels.shape)} were given: give (i, kh, kw) or (o, i, kh, kw), such as "
            "connect(model, source, target)[unit]"
        )
    numbers: NDArray[np.float64] = kernels.detach().double().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError("the kernels hold infinite or NaN weights: leave those channels out")
    if not numbers.any():
        raise ValueError("all kernels are 0: there is nothing to factor")
    return numbers[None] if kernels.dim() == 3 else numbers


def _factorize(matrix: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank is {rank!r}: give a whole number from 1 to {min(matrix.shape)} for these kernels")
    model = NMF(rank, init="nndsvd", solver="cd", tol=CLOSE, max_iter=ROUNDS, random_state=0)
    scale = float(np.abs(matrix).max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is left over is said in `Factors.error`
        left = model.fit_transform(matrix / scale)
    return left * scale, model.components_


def _ordered(channels: NDArray[np.float64], space: NDArray[np.float64], signed: str, kernels: Tensor) -> Factors:
    """Move all size to the signed side and put the strongest part first."""
    plain = channels if signed == "space" else space
    size = np.sqrt((plain.reshape(len(plain), -1) ** 2).sum(1))
    size[size == 0] = 1.0
    wide = size.reshape(-1, *[1] * (space.ndim - 1))
    channels, space = (
        (channels / size[:, None], space * wide) if signed == "space" else (channels * size[:, None], space / wide)
    )
    strength = (channels**2).sum(1) * (space.reshape(len(space), -1) ** 2).sum(1)
    needed = strength > TINY * strength.max()
    channels, space = channels * needed[:, None], space * needed.reshape(wide.shape)
    order = np.argsort(-strength, kind="stable")
    found = Factors(channels[order], space[order], signed, 0.0)
    true = kernels.detach().double().cpu().numpy()
    error = float(np.linalg.norm(true - found.kernels()) / np.linalg.norm(true))
    return Factors(found.channels, found.space, signed, error)
