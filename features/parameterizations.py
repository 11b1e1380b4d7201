"""Parameterizations: the numbers that are optimized and the picture they make; fourier and pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
import torch
from torch import Generator, Tensor

Size = tuple[int, int]

# The square root of the covariance of colours in ImageNet, its largest column of length 1 (lucid,
# optvis/param/color.py): the columns are brightness, blue against yellow and green against magenta, in falling order of
# how much pictures vary along them.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]]) / 0.46195

# lucid divides the Fourier picture by 4 before the sigmoid, so that Adam's first steps do not saturate the colours.
CONTRAST = 0.25

# Natural pictures fall as 1 / f. A gradient step passes the scaling twice, on the way back and on the way out, so that
# pictures grow as 1 / f^1.5 here and as 1 / f^2 with lucid's decay of 1, where units of early layers end in large flat
# patches instead of their pattern (42 units of the embedded network: the median score is 1 % higher with 0.75).
DECAY = 0.75


class Parameterization(Protocol):
    """What is optimized. ``size`` and ``channels`` are those of the picture; ``None`` until `sized` says them.

    ``start`` gives the numbers to optimize, each tensor with one entry per image along its first axis, entry i drawn
    from generator i alone; ``picture`` makes of them images ``(n, channels, h, w)`` in [0, 1].
    """

    @property
    def size(self) -> Size | None: ...

    def sized(self, channels: int, size: Size) -> Self: ...

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]: ...

    def picture(self, parameters: tuple[Tensor, ...]) -> Tensor: ...


@dataclass(frozen=True)
class Pixels:
    """See `pixels`."""

    size: Size | None = None
    channels: int | None = None
    sd: float = 0.01

    def sized(self, channels: int, size: Size) -> Pixels:
        """Give the same with the sizes that are still missing."""
        return dataclasses.replace(self, channels=self.channels or channels, size=self.size or size)

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Give ``((n, channels, h, w),)``: normal noise of standard deviation ``sd``."""
        channels, (height, width) = _known(self.channels, self.size)
        return (_noise(generators, (channels, height, width), self.sd).to(device, dtype),)

    def picture(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Give the images, ``sigmoid(C p)`` with the colour matrix ``C``."""
        return torch.sigmoid(correlate(parameters[0]))


@dataclass(frozen=True)
class Fourier:
    """See `fourier`."""

    size: Size | None = None
    channels: int | None = None
    decay: float = DECAY
    sd: float = 0.01

    def sized(self, channels: int, size: Size) -> Fourier:
        """Give the same with the sizes that are still missing."""
        return dataclasses.replace(self, channels=self.channels or channels, size=self.size or size)

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Give ``((n, channels, h, w // 2 + 1, 2),)``: real and imaginary parts of the spectrum, unscaled."""
        channels, (height, width) = _known(self.channels, self.size)
        return (_noise(generators, (channels, height, width // 2 + 1, 2), self.sd).to(device, dtype),)

    def picture(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Give the images, ``sigmoid(C irfft2(s p))`` with colour matrix ``C`` and scaling ``s`` by frequency."""
        _, size = _known(self.channels, self.size)
        (spectrum,) = parameters
        scale = _scaling(size, self.decay, spectrum.device, spectrum.dtype)
        return torch.sigmoid(correlate(torch.fft.irfft2(torch.view_as_complex(spectrum * scale), s=size)))


def fourier(size: int | Size | None = None, *, decay: float = DECAY, sd: float = 0.01) -> Fourier:
    """A picture as its Fourier spectrum, in decorrelated colours: pictures without high-frequency noise (Olah et al.
    2017).

    The amplitude at frequency ``f`` (cycles per pixel) is scaled by ``sqrt(h w) / max(f, 1 / max(h, w))^decay``; a
    higher ``decay`` gives smoother pictures, 1 is that of natural ones. ``sd`` is the noise it starts from. ``size`` is
    the picture's side or ``(h, w)`` in pixels, and without it what the network takes. Three channels are made of
    decorrelated ones by ImageNet's colour matrix `COLOURS`; with any other number of channels there is no such matrix
    and each is itself.

    >>> image = fourier((24, 32)).sized(3, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).shape
    torch.Size([1, 3, 24, 32])
    """
    _check_number("decay", decay, least=0)
    _check_number("sd", sd, least=0)
    return Fourier(None if size is None else _spelled(size), decay=decay, sd=sd)


def pixels(size: int | Size | None = None, *, sd: float = 0.01) -> Pixels:
    """A picture as its pixels, in decorrelated colours: what is left when the Fourier basis is taken away (it shows
    more noise).

    ``size`` and the colours are as in `fourier`.

    >>> image = pixels(16).sized(1, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).shape
    torch.Size([1, 1, 16, 16])
    """
    _check_number("sd", sd, least=0)
    return Pixels(None if size is None else _spelled(size), sd=sd)


def correlate(values: Tensor) -> Tensor:
    """Make colours ``(n, 3, h, w)`` of decorrelated ones, ``C x`` at every pixel; other numbers of channels stay as
    they are.

    >>> correlate(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)).flatten()
    tensor([0.5628, 0.5845, 0.5845])
    """
    return _mixed(values, COLOURS)


def decorrelate(values: Tensor) -> Tensor:
    """Undo `correlate`.

    >>> x = torch.rand(1, 3, 2, 2)
    >>> torch.allclose(decorrelate(correlate(x)), x, atol=1e-5)
    True
    """
    return _mixed(values, np.linalg.inv(COLOURS))


def _mixed(values: Tensor, matrix: np.ndarray) -> Tensor:
    if values.shape[1] != 3:
        return values
    mixing = torch.as_tensor(matrix, dtype=values.dtype, device=values.device)
    return torch.einsum("oc,nchw->nohw", mixing, values)


@lru_cache(maxsize=16)
def _scaling(size: Size, decay: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    scale = CONTRAST * np.sqrt(height * width) / np.maximum(frequency, 1 / max(height, width)) ** decay
    return torch.as_tensor(scale[:, :, None], dtype=dtype, device=device)


def _noise(generators: Sequence[Generator], shape: tuple[int, ...], sd: float) -> Tensor:
    return torch.stack([sd * torch.randn(shape, generator=generator) for generator in generators])


def _known(channels: int | None, size: Size | None) -> tuple[int, Size]:
    if channels is None or size is None:
        raise ValueError("the picture's size is not known yet: call image.sized(channels, (h, w)) first")
    return channels, size


def _spelled(size: int | Size) -> Size:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"the size {size!r} is none: give the side of the picture or (h, w), in whole pixels above 0")
    return pair[0], pair[1]


def _check_number(name: str, value: float, *, least: float) -> None:
    if not (np.isfinite(value) and value >= least):
        raise ValueError(f"{name} is {value}: give a finite number of at least {least}")


PARAMETERIZATIONS = {"fourier": fourier, "pixels": pixels}
