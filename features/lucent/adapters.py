"""Adapters: what is this project's own, made into what lucent's ``render_vis`` takes, and back.

Nothing has to be adapted for `features.visualize`, which takes functions of ``T``, functions that give ``(params,
image_f)`` and functions of pictures by itself, nor for `features.lucent.render.render_vis`, which takes both kinds of
objectives and of transforms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from features.lucent.chance import generators, place
from features.lucent.objectives import as_loss
from features.lucent.transform import compose
from features.parameterizations import Constrained, Parameterization
from features.transforms import Transform
from features.visualization.guests import Closure, ParamF, guest_image, guest_objective, guest_transform

__all__ = ["as_loss", "as_param_f", "as_transform", "guest_image", "guest_objective", "guest_transform"]


def as_param_f(
    image: Parameterization,
    size: int | tuple[int, int] = 128,
    *,
    batch: int = 1,
    channels: int = 3,
    device: torch.device | str | None = None,
) -> ParamF:
    """Make of a parameterization a function that gives ``(params, image_f)``, for either ``render_vis``.

    ``size``, the side or ``(h, w)``, holds where ``image`` says none. What it is constrained to it is brought back to
    whenever ``image_f`` is called. One of other channels than the network sees, as a transparent one over its
    backgrounds, is refused when it starts (``ValueError``).

    >>> from features.parameterizations import fourier
    >>> params, image_f = as_param_f(fourier(16), batch=2)()
    >>> image_f().shape
    torch.Size([2, 3, 16, 16])
    """
    sized = image.sized(channels, (size, size) if isinstance(size, int) else size)

    def param_f() -> tuple[list[Tensor], Closure]:
        start = sized.start(generators(batch), device=place(device))
        params = tuple(each.requires_grad_(True) for each in start)
        if (given := sized.picture(params).shape[1]) != channels:
            raise ValueError(
                f"{image!r} has {given} channels, and no render_vis makes {channels} of them: visualize does"
            )

        def image_f() -> Tensor:
            if isinstance(sized, Constrained):
                with torch.no_grad():
                    sized.constrained(params)
            return sized.picture(params)

        return list(params), image_f

    return param_f


def as_transform(transform: Transform) -> Callable[[Tensor], Tensor]:
    """Make of a transform of ``(pictures, generators)`` a function of pictures alone, drawing from torch's global
    generator.

    >>> from features.transforms import rotate
    >>> as_transform(rotate(-10, 10))(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """
    return compose([transform])
