"""Pieces: the small pictures that mosaics are made of, one for each activation vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.models import Model
from features.objectives import direction, directions
from features.parameterizations import Parameterization, fourier
from features.parameterizations.protocols import Parameters, Size
from features.parameterizations.wrapping import Wrapper
from features.transforms import STANDARD, Transform
from features.visualization import Visualization, visualize

Floats = NDArray[np.float32]

# A mosaic is many small pictures: after 64 steps they say what they say after 100 (looked at, GoogLeNet on CIFAR-10).
STEPS = 64
PAPER = 1.0  # the brightness of where there is no picture


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a mosaic are made: what `visualize` is told."""

    image: Parameterization | None = None
    steps: int = STEPS
    transforms: Sequence[Transform] = STANDARD
    seed: int = 0
    batch: int = 64
    progress: bool = True

    def each(self, model: Model, layer: str, vectors: NDArray[Any], cosine: float) -> tuple[Floats, Visualization]:
        """Give a picture for each of ``vectors (n, c)``, ``(n, h, w, 3)``; equal ones get the same, 0 an empty one."""
        wanted = [direction(layer, vector, cosine=cosine) if vector.any() else None for vector in vectors]
        unique = {each.name: each for each in wanted if each is not None}
        if not unique:
            raise ValueError(f"layer {layer!r} is silent all over the image: there is nothing to draw")
        made = self._made(model, list(unique.values()), image=self.image or fourier())
        empty = np.full_like(made[next(iter(unique))], PAPER)
        pictures = [empty if each is None else made[each.name] for each in wanted]
        return np.stack(pictures).astype(np.float32), made

    def aligned(
        self,
        model: Model,
        layer: str,
        vectors: NDArray[Any],
        cells: NDArray[np.int64],
        *,
        cosine: float,
        whitened: NDArray[np.float64],
        alike: float,
    ) -> tuple[Floats, Visualization]:
        """Give a picture for each of ``vectors (n, c)`` so that those of neighbouring ``cells (n, 2)`` share what they
        have in common.
        """
        image = Neighbours(self.image or fourier(), neighbourhood(cells, alike))
        wanted = directions(layer, vectors, cosine=cosine, whitened=whitened)
        made = self._made(model, wanted, image=image, count=len(vectors))
        return np.stack(made.group(made.units[0])).astype(np.float32), made

    def _made(self, model: Model, what: Any, **given: Any) -> Visualization:
        return visualize(
            model,
            what,
            steps=self.steps,
            transforms=self.transforms,
            seed=self.seed,
            batch=self.batch,
            progress=self.progress,
            **given,
        )


@dataclass(frozen=True)
class Neighbours(Wrapper):
    """A group of pictures whose numbers are mixed: picture i is made of ``sum_j mixing[i, j] numbers_j``.

    What a picture's gradient changes then shows in its neighbours too, so that they agree where they can.
    """

    mixing: Tensor = field(repr=False)

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the pictures of the mixed numbers."""
        if any(len(each) != len(self.mixing) for each in parameters):
            raise ValueError(f"{len(self.mixing)} neighbours are drawn together, not {len(parameters[0])}")
        return self.image.picture(tuple(torch.einsum("ij,j...->i...", self.mixing.to(p), p) for p in parameters))

    def sized(self, channels: int, size: Size) -> Neighbours:
        """Give the same with the sizes that are still missing."""
        return Neighbours(self.image.sized(channels, size), self.mixing)


def neighbourhood(cells: NDArray[np.int64], alike: float) -> Tensor:
    """Give the mixing ``(n, n)`` of pictures at ``cells (n, 2)``: ``(1 - alike)`` of its own and ``alike`` of a
    Gaussian of one cell's width around it, rows of length 1.
    """
    if not 0 <= alike < 1:
        raise ValueError(f"alike is {alike}: give a share from 0 (every picture for itself) to below 1")
    apart = ((cells[:, None] - cells[None]) ** 2).sum(-1)
    near = np.exp(-apart / 2)
    near /= np.sqrt((near**2).sum(1, keepdims=True))
    return torch.from_numpy((1 - alike) * np.eye(len(cells)) + alike * near)


def settings_of(made: Visualization, **more: Any) -> dict[str, Any]:
    """Give how the pictures were made, as JSON."""
    return {**made.settings, "seed": made.seed, **more}
