"""Transparency: a picture with an alpha channel, seen over random backgrounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from features.parameterizations.grids import Pixels
from features.parameterizations.protocols import Constrained, Parameterization, Parameters, Seen, Size
from features.parameterizations.spectra import Fourier, fourier

# Mordvintsev et al. 2018, "Differentiable Image Parameterizations": backgrounds are noise that falls as 1 / f^1.5.
BACKGROUND_DECAY = 1.5
# Their spectrum has a standard deviation of 0.2, before lucid's division by 4.
BACKGROUND_DEVIATION = 0.8

# How much of the picture is opaque. The objectives of lucid's notebook multiply by (1 - mean alpha) instead, a penalty
# whose weight depends on the objective's scale.
OPAQUE = 0.3

# Smoother than the colours: with their decay of 0.75 the alpha channel is a fine dust, with 1.5 a few round blobs (seen
# on seven units of two networks).
ALPHA_DECAY = 1.0

# Steps that halve the interval in which the threshold of the alpha channel lies; 40 logits / 2^30 is float noise.
HALVINGS = 30


@dataclass(frozen=True)
class Transparent:
    """See `transparent`."""

    image: Parameterization
    alpha: Fourier | Pixels
    opaque: float

    @property
    def size(self) -> Size | None:
        """The size of the picture."""
        return self.image.size

    def sized(self, channels: int, size: Size) -> Transparent:
        """Give the same with the sizes that are still missing."""
        image = self.image.sized(channels, size)
        return dataclasses.replace(self, image=image, alpha=self.alpha.sized(1, image.size or size))

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give the start of ``image`` and then that of the alpha channel."""
        own = self.image.start(generators, device=device, dtype=dtype)
        return (*own, *self.alpha.start(generators, device=device, dtype=dtype))

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the pictures and their alpha ``(n, channels + 1, h, w)``, in [0, 1]; the mean of alpha is
        ``opaque``.
        """
        own, alpha = self._parts(parameters)
        return torch.cat([self.image.picture(own), _budgeted(self.alpha.logits(alpha), self.opaque)], 1)

    def seen(self, picture: Tensor, generators: Sequence[Generator] | None) -> Tensor:
        """Give the pictures over random backgrounds, ``alpha x + (1 - alpha) b``; over grey without generators."""
        colours, alpha = picture[:, :-1], picture[:, -1:]
        if generators is None:
            return torch.lerp(torch.full_like(colours, 0.5), colours, alpha)
        canvas = Fourier((int(colours.shape[2]), int(colours.shape[3])), int(colours.shape[1]),
                         getattr(self.image, "colours", None), BACKGROUND_DECAY, BACKGROUND_DEVIATION)  # fmt: skip
        with torch.no_grad():
            behind = canvas.picture(canvas.start(generators, device=picture.device, dtype=picture.dtype))
        return torch.lerp(behind, colours, alpha)

    def constrained(self, parameters: Parameters) -> None:
        """Put the numbers back where ``image`` wants them."""
        if isinstance(self.image, Constrained):
            self.image.constrained(self._parts(parameters)[0])

    def _parts(self, parameters: Parameters) -> tuple[Parameters, Parameters]:
        # A Canvas of alpha has one tensor, the last.
        return parameters[:-1], parameters[-1:]


def transparent(
    image: Parameterization | None = None, *, alpha: Fourier | Pixels | None = None, opaque: float = OPAQUE
) -> Transparent:
    """A picture with an alpha channel that is optimized with it, seen over a new random background in each step: only
    what the unit looks for stays (Mordvintsev et al. 2018, "Differentiable Image Parameterizations").

    ``image`` (`fourier` without it) makes the colours and ``alpha`` (`fourier` with a decay of 1 without it) the
    opacity. A unit would have everything opaque, so opacity is given out from a budget: the mean of alpha is
    ``opaque``, by a threshold under the alpha channel that follows it, ``alpha = sigmoid(a - t)``. Pictures are ``(n,
    channels + 1, h, w)``, alpha last. Errors: ``TypeError`` for an image that has an alpha channel already,
    ``ValueError`` for ``opaque`` not between 0 and 1.

    >>> image = transparent(fourier(16), opaque=0.25).sized(3, (64, 64))
    >>> picture = image.picture(image.start([torch.Generator().manual_seed(0)]))
    >>> picture.shape, round(float(picture[:, 3].mean()), 4)
    (torch.Size([1, 4, 16, 16]), 0.25)
    >>> image.seen(picture, None).shape
    torch.Size([1, 3, 16, 16])
    """
    image = fourier() if image is None else image
    alpha = fourier(decay=ALPHA_DECAY) if alpha is None else alpha
    if isinstance(image, Seen):
        raise TypeError(f"{image!r} says itself what is seen of it: wrap transparent(...), not the other way round")
    if not isinstance(alpha, (Fourier, Pixels)):
        raise TypeError(f"alpha is {alpha!r}: give fourier() or pixels()")
    if not 0 < opaque < 1:
        raise ValueError(f"opaque is {opaque}: give the share of the picture that is opaque, between 0 and 1")
    return Transparent(image, alpha, opaque)


def _budgeted(values: Tensor, share: float) -> Tensor:
    """Give ``sigmoid(values - t)`` with the ``t`` of each picture for which its mean is ``share``."""
    flat = values.flatten(1)
    centre = math.log(share / (1 - share))
    with torch.no_grad():
        low, high = flat.amin(1, keepdim=True) - centre, flat.amax(1, keepdim=True) - centre
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = torch.sigmoid(flat - middle).mean(1, keepdim=True) > share
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        alpha = torch.sigmoid(flat - low)
        slopes = alpha * (1 - alpha)
        # How the threshold follows the values, from the derivative of mean(sigmoid(v - t)) = share.
        follows = slopes / slopes.sum(1, keepdim=True).clamp(min=1e-12)
    threshold = low + (follows * (flat - flat.detach())).sum(1, keepdim=True)
    return torch.sigmoid(flat - threshold).reshape(values.shape)
