"""Origins: what begins at the user's own picture and stays near it; starting_from, masked and the norm balls."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from features.parameterizations.canvas import check_number
from features.parameterizations.grids import held
from features.parameterizations.protocols import Invertible, Parameterization, Parameters, Size
from features.parameterizations.spectra import fourier
from features.parameterizations.wrapping import Wrapper

Picture: TypeAlias = Tensor | NDArray[Any]


@dataclass(frozen=True)
class Origin(Wrapper):
    """Around ``image``, with the user's picture ``(1, c, h, w)``; ``mark`` is its digest."""

    given: Tensor = field(repr=False, compare=False)
    mark: str

    def sized(self, channels: int, size: Size) -> Self:
        """Give the same with the sizes that are still missing, the picture's own; ``ValueError`` where they differ."""
        own = (int(self.given.shape[2]), int(self.given.shape[3]))
        image = self.image.sized(channels, own)
        if image.size != own or self.given.shape[1] != channels:
            wanted = " x ".join(map(str, image.size or own))
            raise ValueError(
                f"the picture has shape {tuple(self.given.shape[1:])}, and {channels} channels of {wanted} pixels are "
                "wanted: give one of that shape, or leave out the size of the image"
            )
        return dataclasses.replace(self, image=image)

    def base(self, like: Tensor) -> Tensor:
        """Give the user's picture ``(1, c, h, w)`` where ``like`` is and in its precision."""
        return self.given.to(like.device, like.dtype)


@dataclass(frozen=True)
class StartingFrom(Origin):
    """See `starting_from`."""

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give the numbers of the picture, once for each generator."""
        inverse = _inverse_of(self.image)
        if inverse is None:
            raise _without_inverse(self.image)
        pictures = self.given.double().expand(len(generators), -1, -1, -1)
        return tuple(each.to(device, dtype).contiguous() for each in inverse(pictures))


@dataclass(frozen=True)
class Masked(Origin):
    """See `masked`."""

    mask: Tensor = field(repr=False, compare=False)
    mask_mark: str

    def picture(self, parameters: Parameters) -> Tensor:
        """Give ``m x + (1 - m) p`` with the mask ``m``, the image's picture ``x`` and the user's ``p``."""
        picture = self.image.picture(parameters)
        return torch.lerp(self.base(picture).expand_as(picture), picture, self.mask.to(picture))


@dataclass(frozen=True)
class Within(Origin):
    """See `within_l2` and `within_linf`, which are its two kinds."""

    radius: float

    def nearest(self, pictures: Tensor) -> Tensor:
        """Give the point of the ball that is nearest to each of ``pictures``."""
        raise NotImplementedError

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the point of the ball that is nearest to the picture of ``image``."""
        return self.nearest(self.image.picture(parameters))

    def constrained(self, parameters: Parameters) -> None:
        """Put the numbers of pictures that have left the ball back on it, where they can be found from a picture."""
        super().constrained(parameters)
        inverse = _inverse_of(self.image)
        if inverse is None:
            return
        free = self.image.picture(parameters)
        near = self.nearest(free)
        left = (near != free).flatten(1).any(1)
        if bool(left.any()):
            for parameter, found in zip(parameters, inverse(near), strict=True):
                parameter[left] = found[left].to(parameter)


@dataclass(frozen=True)
class WithinL2(Within):
    """See `within_l2`."""

    def nearest(self, pictures: Tensor) -> Tensor:
        """Shorten the difference to the length of the radius."""
        base = self.base(pictures)
        change = pictures - base
        length = change.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)
        shorter = base + change * (self.radius / length).clamp(max=1)
        return torch.where(length > self.radius, shorter, pictures)


@dataclass(frozen=True)
class WithinLinf(Within):
    """See `within_linf`."""

    def nearest(self, pictures: Tensor) -> Tensor:
        """Clamp each difference to the radius."""
        base = self.base(pictures)
        return held(pictures, base - self.radius, base + self.radius)


def starting_from(picture: Picture, image: Parameterization | None = None) -> StartingFrom:
    """A start from your own ``picture``, a tensor ``(c, h, w)`` or an array ``(h, w, c)`` in [0, 1], instead of from
    noise; the optimization is that of ``image`` (`fourier` without it).

    The first picture is yours, the same in 8 bits, for `fourier`, `pixels`, `raw_pixels`, `pyramid` and what is wrapped
    around them. With `maco` it has your picture's phases, and with ``spectrum=fit_spectrum(picture[None])`` too it is
    your picture but for a smooth part at the border. Its size is the picture's. Errors: ``TypeError`` for an image
    whose numbers cannot be found from a picture (`cppn`), ``ValueError`` for a picture of another shape or range.

    >>> picture = torch.rand(3, 16, 16)
    >>> image = starting_from(picture).sized(3, (64, 64))
    >>> start = image.picture(image.start([torch.Generator()]))[0]
    >>> torch.equal((start * 255).round(), (picture * 255).round())
    True
    """
    image = fourier() if image is None else image
    if _inverse_of(image) is None:
        raise _without_inverse(image)
    return StartingFrom(image, *_given(picture))


def masked(image: Parameterization, mask: Picture, picture: Picture) -> Masked:
    """``image`` where ``mask`` ``(h, w)`` is 1, and your ``picture`` ``(c, h, w)`` where it is 0, there to the last
    bit; between, a mixture.

    With ``starting_from(picture)`` as the image, only the region changes. Errors: ``ValueError`` for a mask of another
    shape, out of [0, 1] or 0 everywhere, and for a picture of another shape or range.

    >>> picture, mask = torch.rand(3, 16, 16), torch.zeros(16, 16)
    >>> mask[4:8, 4:8] = 1
    >>> image = masked(fourier(), mask, picture).sized(3, (64, 64))
    >>> changed = (image.picture(image.start([torch.Generator()]))[0] != picture).any(0)
    >>> int(changed.sum())
    16
    """
    given, mark = _given(picture)
    values = torch.as_tensor(mask).detach().to(torch.float64)
    if values.ndim != 2 or values.shape != given.shape[2:]:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}: give one of the picture's, {tuple(given.shape[2:])}")
    if not bool(((values >= 0) & (values <= 1)).all()) or not bool(values.any()):
        raise ValueError("the mask is 0, or has values out of [0, 1]: give 1 where the picture may change, else 0")
    return Masked(image, given, mark, values, _mark(values))


def within_l2(image: Parameterization, picture: Picture, radius: float) -> WithinL2:
    """``image`` held within a ball about your ``picture`` ``(c, h, w)``: ``sqrt(sum (x - p)^2) <= radius``, the sum
    over all values in [0, 1].

    What is shown and seen is the nearest point of the ball, so that every picture lies in it to float noise, and after
    each step the numbers are put there too where they can be found from a picture (projected gradient ascent). A radius
    of ``0.05 * sqrt(c * h * w)`` is a change of 0.05 per value in the root mean square. Errors: ``ValueError`` for a
    radius that is not above 0, and for a picture of another shape or range.

    >>> picture = torch.rand(3, 16, 16)
    >>> image = within_l2(fourier(), picture, 2.0).sized(3, (64, 64))
    >>> round(float((image.picture(image.start([torch.Generator()])) - picture).norm()), 4)
    2.0
    """
    return WithinL2(image, *_given(picture), _radius(radius))


def within_linf(image: Parameterization, picture: Picture, radius: float) -> WithinLinf:
    """``image`` with each value held within ``radius`` of that of your ``picture`` ``(c, h, w)``: ``max |x - p| <=
    radius``.

    Otherwise as `within_l2`; 8 / 255 is what a person hardly sees.

    >>> picture = torch.rand(3, 16, 16)
    >>> image = within_linf(fourier(), picture, 8 / 255).sized(3, (64, 64))
    >>> bool((image.picture(image.start([torch.Generator()])) - picture).abs().max() <= 8 / 255 + 1e-6)
    True
    """
    return WithinLinf(image, *_given(picture), _radius(radius))


def _given(picture: Picture) -> tuple[Tensor, str]:
    """Give the picture as ``(1, c, h, w)`` and its digest."""
    if not isinstance(picture, (Tensor, np.ndarray)):
        raise TypeError(f"the picture is {type(picture).__name__}: give a tensor (c, h, w) or an array (h, w, c)")
    if isinstance(picture, np.ndarray):
        picture = torch.from_numpy(np.array(np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture))
    values = picture.detach().clone()
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or len(values) != 1 or not values.is_floating_point():
        raise ValueError(
            f"the picture is {values.dtype} of shape {tuple(picture.shape)}: give one of floats, (c, h, w), in [0, 1]"
        )
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("the picture has values out of [0, 1]: divide one of 8 bits by 255")
    return values, _mark(values)


def _mark(values: Tensor) -> str:
    return hashlib.sha256(values.double().cpu().numpy().tobytes()).hexdigest()[:6]


def _radius(radius: float) -> float:
    check_number("radius", radius, least=0)
    if radius == 0:
        raise ValueError("a radius of 0 leaves nothing to change: give one above 0")
    return radius


def _inverse_of(image: Parameterization) -> Callable[[Tensor], Parameters] | None:
    if isinstance(image, Origin):
        return _inverse_of(image.image)
    # What shares or wraps otherwise is as invertible as what it wraps.
    if isinstance(image, Wrapper) and not isinstance(image.image, Invertible):
        return None
    return image.parameters if isinstance(image, Invertible) else None


def _without_inverse(image: Parameterization) -> TypeError:
    return TypeError(
        f"{image!r} cannot start from a picture, its numbers cannot be found from one: choose fourier(), pixels(), "
        "raw_pixels(), pyramid() or maco()"
    )
