"""Objectives about directions in the space of a layer's channels: dot product, cosine, both, and whitened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from features.objectives.algebra import Objective
from features.objectives.places import Position, at, mark, reading, spelled, whole

Where: TypeAlias = Position | Literal["centre"] | None
Term: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of the dot products and the products of lengths

# Below this cosine a direction's factor stays constant, so that a picture which points the wrong way still has a
# gradient (lucid, objectives.py, `_dot_cossim`).
LEAST_COSINE = 0.1
TINY = 1e-12  # shorter activation vectors have no direction


def direction(
    layer: str, vector: ArrayLike, *, cosine: float = 0.0, whitened: ArrayLike | None = None, position: Where = None
) -> Objective:
    """How far the activation vectors of ``layer`` go along ``vector``: the mean over positions of ``(a · v) max(0.1,
    cos(a, v))^p``.

    ``vector`` has one number per channel and ``cosine`` is the power ``p``: 0 is the plain dot product, higher powers
    ask more and more that the activations point that way and no other (Carter et al. 2019, "Activation Atlas", uses 2
    to 4). ``whitened`` is a matrix ``S (c, c)`` such as `whitening` gives: the vector then is ``S v``, which ignores
    what all activations have in common. ``position`` is ``(y, x)``, ``(t,)`` or ``"centre"`` for one position instead
    of the mean. The name carries six digits of the vector's digest, so that two directions have two names.

    >>> direction("mixed3a", [0.0, 2.0]).score({"mixed3a": torch.ones(1, 2, 4, 4)})
    tensor([2.])
    >>> direction("mixed3a", [0.0, 2.0], whitened=[[1, 1], [0, 3]]).score({"mixed3a": torch.ones(1, 2, 4, 4)})
    tensor([8.])
    """
    term, form = _dot_and_cosine(cosine)
    return _along(layer, _turned(vector, whitened)[None], position, term, f"direction {form}")


def directions(
    layer: str, vectors: ArrayLike, *, cosine: float = 0.0, whitened: ArrayLike | None = None, position: Where = None
) -> Objective:
    """Many directions for a group of pictures: picture i is scored as `direction` of ``vectors[i]`` scores it.

    ``vectors`` is ``(n, c)``; ask for ``count=n`` pictures. All are read at once, and their pictures can share what a
    parameterization shares within a group. Raises ``ValueError``, when it is read, for a group of another size.

    >>> directions("mixed3a", [[0.0, 2.0], [1.0, 0.0]]).score({"mixed3a": torch.ones(2, 2, 4, 4)})
    tensor([2., 1.])
    """
    rows = [_turned(vector, whitened) for vector in np.asarray(vectors, dtype=np.float64)]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} directions make no group: give two vectors or more, or use direction")
    term, form = _dot_and_cosine(cosine)
    return _along(layer, np.stack(rows), position, term, f"{len(rows)} directions {form}")


def cosine(layer: str, vector: ArrayLike, *, whitened: ArrayLike | None = None, position: Where = None) -> Objective:
    """How much the activation vectors of ``layer`` point along ``vector``, however long they are: the mean over
    positions of ``cos(a, v)``, from -1 to 1.

    This is what lucent's ``direction`` is. Nothing makes the activations large, so that pictures are often faint; the
    arguments are those of `direction`.

    >>> cosine("mixed3a", [3.0, 4.0]).score({"mixed3a": torch.full((1, 2, 4, 4), 5.0)})
    tensor([0.9899])
    """
    along = _turned(vector, whitened)[None]
    return _along(layer, along, position, lambda dots, lengths: dots / lengths, "cosine with {}")


def whitening(vectors: ArrayLike, *, ridge: float = 0.0) -> NDArray[np.float64]:
    """Give ``(A^T A / n)^-1``, ``(c, c)``, of activation vectors ``A (n, c)``: what makes a direction ignore what all
    have in common.

    ``ridge`` times the mean of the diagonal is added to the diagonal before; with few vectors (less than some 10 c)
    0.01 to 0.1 keeps their noise out. A direction that no vector has a share in (a dead channel) has no inverse and
    stays out: it is the pseudo-inverse. Carter et al. 2019, "Activation Atlas". ``ValueError`` for other shapes and
    values that are not finite.

    >>> whitening([[1.0, 0.0], [0.0, 2.0]])
    array([[2. , 0. ],
           [0. , 0.5]])
    """
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or not len(array) or not np.isfinite(array).all() or not array.any():
        raise ValueError(f"whitening takes finite activation vectors (n, c), not all 0, and these are {array.shape}")
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge is {ridge}: give a share of the mean diagonal, at least 0")
    moments = array.T @ array / len(array)
    moments += ridge * np.trace(moments) / len(moments) * np.eye(len(moments))
    return np.asarray(np.linalg.pinv(moments, hermitian=True), np.float64)


def _turned(vector: ArrayLike, whitened: ArrayLike | None) -> NDArray[np.float64]:
    array = np.asarray(vector, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or not array.any():
        raise ValueError(f"a direction is finite numbers, one per channel, not all 0, and this has shape {array.shape}")
    if whitened is None:
        return array
    matrix = np.asarray(whitened, dtype=np.float64)
    if matrix.shape != (len(array), len(array)) or not np.isfinite(matrix).all():
        raise ValueError(f"whitened is {matrix.shape}: give finite numbers ({len(array)}, {len(array)}), see whitening")
    if not (matrix @ array).any():
        raise ValueError("whitened, the direction is 0: no activation has a share in it")
    return matrix @ array


def _dot_and_cosine(power: float) -> tuple[Term, str]:
    if not power >= 0:
        raise ValueError(f"the power of the cosine is {power}: give 0 (the plain dot product) or more")
    if not power:
        return lambda dots, lengths: dots, "{}"
    return lambda dots, lengths: dots * (dots / lengths).clamp(min=LEAST_COSINE) ** power, f"{{}} * cos^{power:g}"


def _along(layer: str, vectors: NDArray[np.float64], position: Where, term: Term, form: str) -> Objective:
    """Score along one vector ``(1, c)``, or picture i along vector i of ``(n, c)``."""
    along = torch.from_numpy(vectors)
    lengths = along.norm(dim=1)
    place = None if position is None or position == "centre" else whole(position)
    name = f"{layer} {form.format(mark(vectors))}{'' if position is None else f' {spelled(place)}'}"

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = reading(activations, layer)
        if values.shape[1] != along.shape[1]:
            raise ValueError(
                f"the direction has {along.shape[1]} numbers, and layer {layer!r} has {values.shape[1]} channels"
            )
        if len(along) not in (1, len(values)):
            raise ValueError(f"{name!r} is about a group of {len(along)} pictures, and this has {len(values)}")
        dots = torch.einsum("nc...,nc->n...", values, along.to(values).expand(len(values), -1))
        sizes = (values.square().sum(1) + TINY**2).sqrt() * lengths.to(values).reshape(-1, *[1] * (values.ndim - 2))
        terms = term(dots, sizes.clamp(min=TINY))
        return terms.reshape(len(values), -1).mean(1) if position is None else at(terms, place, layer)

    return Objective(score, (layer,), name, joint=len(along) > 1)
