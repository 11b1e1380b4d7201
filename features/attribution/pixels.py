"""Pixels: methods that ask the gradient at the image itself, plain, averaged over noise, or summed along a way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from features.attribution.targets import Method, mean_colour, pixel_gradient, pixel_gradients, score_of, whole_number
from features.models import Model
from features.objectives import Objective

Baseline: TypeAlias = str | float | Tensor

# SmoothGrad's noise: the paper finds 10 to 20 % of the picture's range best, and little gain beyond 50 samples.
SPREAD, SAMPLES = 0.15, 50
BLUR = 0.125  # the standard deviation of the blurred baseline, as a share of the picture's side


def gradient(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """The gradient of the target, summed over colours: ``sum_c dS / dx_c``. It promises no sum.

    Simonyan, Vedaldi and Zisserman 2014, "Deep Inside Convolutional Networks"; their map is `saliency`.
    """
    return pixel_gradient(model, images, objective).sum(1), None


def absolute_gradient(
    model: Model, images: Tensor, objective: Objective, layer: str | None = None
) -> tuple[Tensor, None]:
    """How strongly a pixel acts, whatever the sign: ``sum_c |dS / dx_c|``. It promises no sum."""
    return pixel_gradient(model, images, objective).abs().sum(1), None


def saliency(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """The largest over colours, ``max_c |dS / dx_c|``: the saliency map of Simonyan et al. 2014. It promises no sum."""
    return pixel_gradient(model, images, objective).abs().amax(1), None


def gradient_x_input(
    model: Model, images: Tensor, objective: Objective, layer: str | None = None
) -> tuple[Tensor, None]:
    """``sum_c (x_c - mean_c) dS / dx_c``, with the model's mean colour as what counts as nothing. It promises no sum.

    Shrikumar et al. 2017, "Not Just a Black Box". Exact for a network that is linear: then it is the target's
    difference to that on the mean colour.
    """
    return (pixel_gradient(model, images, objective) * (images - mean_colour(model, images))).sum(1), None


def smoothgrad(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    samples: int = SAMPLES,
    spread: float = SPREAD,
    seed: int = 0,
) -> tuple[Tensor, None]:
    """The mean gradient over noisy copies, summed over colours: ``sum_c mean_j dS / dx_c (x + e_j)``.

    Smilkov et al. 2017, "SmoothGrad". The noise is normal, ``spread`` times the image's range (largest less smallest
    value) in standard deviation; every image meets the same draws, so that its heat does not depend on the others.
    """
    total = torch.zeros_like(images)
    for found in pixel_gradients(model, _noisy(images, samples, spread, seed), objective):
        total += found
    return (total / samples).sum(1), None


def vargrad(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    samples: int = SAMPLES,
    spread: float = SPREAD,
    seed: int = 0,
) -> tuple[Tensor, None]:
    """How much the gradient varies over noisy copies: ``sum_c var_j dS / dx_c (x + e_j)``, never negative.

    Adebayo et al. 2018, "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values". The
    noise is that of `smoothgrad`; the variance is the sample's (divided by ``samples - 1``).
    """
    if whole_number("samples", samples) < 2:
        raise ValueError("samples is 1: a variance needs at least 2")
    mean, squares = torch.zeros_like(images), torch.zeros_like(images)
    for count, found in enumerate(pixel_gradients(model, _noisy(images, samples, spread, seed), objective), start=1):
        step = found - mean
        mean += step / count
        squares += step * (found - mean)
    return (squares / (samples - 1)).sum(1), None


def integrated_gradients(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    steps: int = 50,
    baseline: Baseline | Sequence[Baseline] = "mean",
) -> tuple[Tensor, Tensor]:
    """``sum_c (x_c - x0_c) * mean of dS/dx_c on the way from x0 to x``; promises the sum ``S(x) - S(x0)``.

    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks". The mean over the straight line is taken
    with Gauss-Legendre quadrature at ``steps`` points. ``baseline`` x0 is a name in `BASELINES` (``"mean"`` is the
    model's mean colour, which its preprocessing makes 0), a number, or a tensor that fits the images, in [0, 1] as they
    are; of several, heat and promise are the means (Sturmfels et al. 2020, "Visualizing the Impact of Feature
    Attribution Baselines").
    """
    points, weights = np.polynomial.legendre.leggauss(whole_number("steps", steps))
    single = isinstance(baseline, str | int | float | Tensor)
    several = [baseline] if single else list(cast(Sequence[Baseline], baseline))
    if not several:
        raise ValueError(f"no baseline was given: choose of {', '.join(BASELINES)}, or give numbers or tensors")
    heat, promised = torch.zeros_like(images[:, 0]), torch.zeros(len(images)).to(images)
    for start in (_baseline(model, images, cast(Baseline, each)) for each in several):
        way = (start + (point + 1) / 2 * (images - start) for point in points)
        mean = torch.zeros_like(images)
        for weight, found in zip(weights / 2, pixel_gradients(model, way, objective), strict=True):
            mean += weight * found
        heat += (mean * (images - start)).sum(1)
        promised += score_of(model, images, objective) - score_of(model, start, objective)
    return heat / len(several), promised / len(several)


def _noisy(images: Tensor, samples: int, spread: float, seed: int) -> Iterator[Tensor]:
    if not spread > 0:
        raise ValueError(f"spread is {spread!r}: give the noise as a share of the picture's range, above 0")
    generator = torch.Generator().manual_seed(seed)
    flat = images.flatten(1)
    width = (spread * (flat.amax(1) - flat.amin(1)))[:, None, None, None]
    for _ in range(whole_number("samples", samples)):
        yield images + width * torch.randn(images.shape[1:], generator=generator, dtype=torch.float64).to(images)


def _baseline(model: Model, images: Tensor, given: Baseline) -> Tensor:
    if isinstance(given, str):
        if given not in BASELINES:
            raise ValueError(f"no baseline {given!r}: choose {', '.join(BASELINES)}, or give a number or a tensor")
        return BASELINES[given](model, images).expand_as(images)
    try:
        return torch.as_tensor(given).to(images).expand_as(images)
    except RuntimeError:
        shape = tuple(torch.as_tensor(given).shape)
        raise ValueError(f"a baseline of shape {shape} does not fit images of {tuple(images.shape)}") from None


def _uniform(model: Model, images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(images.shape[1:], generator=generator, dtype=torch.float64).to(images)


def _blurred(model: Model, images: Tensor) -> Tensor:
    spread = BLUR * min(images.shape[2:])
    kernel = [min(2 * round(3 * spread) + 1, 2 * side - 1) for side in images.shape[3:1:-1]]
    blurred: Tensor = gaussian_blur(images, kernel, [spread, spread])
    return blurred


# What counts as nothing: the model's mean colour, black, white, the image blurred away, uniform noise (one draw).
BASELINES: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "mean": mean_colour,
    "black": lambda model, images: torch.zeros_like(images),
    "white": lambda model, images: torch.ones_like(images),
    "blurred": _blurred,
    "noise": _uniform,
}
GRADIENTS: dict[str, Method] = {
    "gradient": gradient,
    "absolute-gradient": absolute_gradient,
    "saliency": saliency,
    "gradient-x-input": gradient_x_input,
    "smoothgrad": smoothgrad,
    "vargrad": vargrad,
    "integrated-gradients": integrated_gradients,
}
