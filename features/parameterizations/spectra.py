"""Spectra: pictures as their Fourier spectrum, whole (fourier) and with fixed magnitudes (maco)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from features.parameterizations.canvas import Mixture, check_number, noise, spelled
from features.parameterizations.colours import decorrelate, logits_of, matrix_of
from features.parameterizations.protocols import Parameters, Size

# lucid divides the Fourier picture by 4 before the sigmoid, so that Adam's first steps do not saturate the colours.
CONTRAST = 0.25

# Natural pictures fall as 1 / f. A gradient step passes the scaling twice, on the way back and on the way out, so that
# pictures grow as 1 / f^1.5 here and as 1 / f^2 with lucid's decay of 1, where units of early layers end in large flat
# patches instead of their pattern (42 units of the embedded network: the median score is 1 % higher with 0.75).
DECAY = 0.75

# Photographs: amplitudes fall as 1 / f, and along the first axis of colour brightnesses have a standard deviation of
# 0.46195 (the number that lucid's matrix was divided by), which is 4 times as much before the sigmoid at grey.
NATURAL_DECAY = 1.0
NATURAL_DEVIATION = 4 * 0.46195


# Momentum with a first step of 0.08 then turns phases by 0.24 radians. Four units of a GoogLeNet trained on CIFAR-10:
# with magnitudes that fall as 1 / f, scores were higher with 3 than with 1; with fitted ones 1 and 3 gave the same, and
# 10 less.
GAIN = 3.0


@dataclass(frozen=True)
class Fourier(Mixture):
    """See `fourier`."""

    decay: float = DECAY
    sd: float = 0.01

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give ``((n, channels, h, w // 2 + 1, 2),)``: real and imaginary parts of the spectrum, unscaled."""
        channels, (height, width) = self.known
        return (noise(generators, (channels, height, width // 2 + 1, 2), self.sd).to(device, dtype),)

    def values(self, parameters: Parameters) -> Tensor:
        """Give ``irfft2(s p)`` with the scaling ``s`` by frequency."""
        (spectrum,), (_, size) = parameters, self.known
        scale = _scaling(size, self.decay, spectrum.device, spectrum.dtype)
        values: Tensor = torch.fft.irfft2(torch.view_as_complex(spectrum * scale), s=size)
        return values

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the spectrum that makes ``pictures``."""
        values, (_, size) = self.wanted(pictures), self.known
        spectrum = torch.view_as_real(torch.fft.rfft2(values))
        return (spectrum / _scaling(size, self.decay, values.device, values.dtype),)


@dataclass(frozen=True)
class Maco(Mixture):
    """See `maco`."""

    magnitudes: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    spectrum: str = "1/f"
    gain: float = GAIN

    def sized(self, channels: int, size: Size) -> Maco:
        """Give the same with the sizes that are still missing; ``ValueError`` where the magnitudes are for others."""
        made = super().sized(channels, size)
        if self.magnitudes is None:
            return made
        wanted, (height, width) = made.known
        if self.magnitudes.shape != (wanted, height, width // 2 + 1):
            raise ValueError(
                f"the spectrum has shape {self.magnitudes.shape}, and a picture of {wanted} channels and {height} x "
                f"{width} pixels has {(wanted, height, width // 2 + 1)}: fit_spectrum on images of that size"
            )
        return made

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give ``((n, channels, h, w // 2 + 1),)``: phases, uniform over the circle, in units of ``gain`` radians."""
        channels, (height, width) = self.known
        shape = (channels, height, width // 2 + 1)
        uniform = torch.stack([torch.rand(shape, generator=each, device=each.device) for each in generators])
        return (((2 * uniform - 1) * (math.pi / self.gain)).to(device, dtype),)

    def values(self, parameters: Parameters) -> Tensor:
        """Give ``irfft2(m exp(i phase))`` with the fixed magnitudes ``m``."""
        (turns,), (channels, size) = parameters, self.known
        if self.magnitudes is None:
            magnitudes = _natural(size, turns.device, turns.dtype).expand(channels, -1, -1)
        else:
            magnitudes = torch.as_tensor(self.magnitudes, dtype=turns.dtype, device=turns.device)
        phases = _odd(self.gain * turns, size[1])
        spectrum = torch.complex(magnitudes * torch.cos(phases), magnitudes * torch.sin(phases))
        values: Tensor = torch.fft.irfft2(spectrum, s=size)
        return values

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the phases of `periodic` ``pictures``; their magnitudes are lost."""
        return (torch.fft.rfft2(periodic(self.wanted(pictures))).angle() / self.gain,)


def fourier(
    size: int | Size | None = None, *, decay: float = DECAY, sd: float = 0.01, colours: ArrayLike | None = None
) -> Fourier:
    """A picture as its Fourier spectrum, in decorrelated colours: pictures without high-frequency noise (Olah et al.
    2017).

    The amplitude at frequency ``f`` (cycles per pixel) is scaled by ``sqrt(h w) / max(f, 1 / max(h, w))^decay / 4``; a
    higher ``decay`` gives smoother pictures, 1 is that of natural ones. ``sd`` is the noise it starts from. ``size`` is
    the picture's side or ``(h, w)`` in pixels, and without it what the network takes. ``colours`` is the matrix
    ``(c, c)`` that makes colours of decorrelated ones, such as `fit_colours` of your images; without it three channels
    get ImageNet's, `COLOURS`, and with any other number each channel is itself.

    >>> image = fourier((24, 32)).sized(3, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).shape
    torch.Size([1, 3, 24, 32])
    """
    check_number("decay", decay, least=0)
    check_number("sd", sd, least=0)
    return Fourier(spelled(size), colours=matrix_of(colours), decay=decay, sd=sd)


def maco(
    size: int | Size | None = None,
    *,
    spectrum: ArrayLike | None = None,
    colours: ArrayLike | None = None,
    gain: float = GAIN,
) -> Maco:
    """A picture whose magnitudes at all frequencies are fixed, those of photographs; only the phases are optimized
    (MACO, Fel et al. 2023).

    No step can add contrast or noise: all that is left to change is where things are. Large pictures, wide `crop` and
    `noise` as transforms (`MACO`) and several views are what the paper uses it with. ``spectrum`` is what
    `fit_spectrum` gives for images of the same size and the same ``colours``; without it amplitudes fall as ``1 / f``
    with the contrast of ImageNet's photographs. A spectrum of your own images makes better pictures by far. The phases
    in radians are ``gain`` times the numbers that are optimized, which suits the engine's own steps; for NAdam or Adam
    use a rate of 0.1 / gain. ``size`` and ``colours`` are as in `fourier`.

    The numbers of frequencies that are their own mirror image, such as the mean, are real and stay as they are; the
    paper's own code lets the inverse transform drop the part that is not real, which changes magnitudes.

    >>> image = maco(16).sized(3, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).shape
    torch.Size([1, 3, 16, 16])
    """
    if not (np.isfinite(gain) and gain > 0):
        raise ValueError(f"gain is {gain}: give a finite number above 0, the radians of one unit")
    made = Maco(spelled(size), colours=matrix_of(colours), gain=gain)
    if spectrum is None:
        return made
    magnitudes = np.array(spectrum, dtype=np.float64)
    if magnitudes.ndim != 3 or not np.isfinite(magnitudes).all():
        raise ValueError(
            f"the spectrum has shape {magnitudes.shape}: give finite numbers (c, h, w // 2 + 1), such as fit_spectrum"
        )
    mark = hashlib.sha256(magnitudes.tobytes()).hexdigest()[:6]
    return Maco(made.size, colours=made.colours, magnitudes=magnitudes, spectrum=mark, gain=gain)


def fit_spectrum(images: Tensor, *, colours: ArrayLike | None = None) -> NDArray[np.float64]:
    """Find the magnitudes ``(c, h, w // 2 + 1)`` that ``images`` ``(n, c, h, w)`` in [0, 1] have on average, for
    `maco`.

    They are those of the numbers before the sigmoid and before the colours are mixed, ``|rfft2(P C^-1 logit(x))|``, so
    that `maco` with the same ``colours`` has just these. ``P`` takes the jump from each border to the opposite one away
    (`periodic`), which would make a plaid of every picture. The four (or fewer) frequencies that are their own mirror
    image, such as the mean, keep their sign. Errors: ``ValueError`` for images of another shape or range.

    >>> fit_spectrum(torch.rand(4, 3, 8, 10)).shape
    (3, 8, 6)
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"a spectrum is fitted on images (n, c, h, w), and these have shape {tuple(images.shape)}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("a spectrum is fitted on images with values in [0, 1]: divide those of 8 bits by 255")
    spectrum = torch.fft.rfft2(periodic(decorrelate(logits_of(images.detach().double()), colours)))
    own = _own_mirror((int(images.shape[2]), int(images.shape[3]))).to(spectrum.device)
    return np.asarray(torch.where(own, spectrum.real, spectrum.abs()).mean(0).cpu().numpy())


def periodic(values: Tensor) -> Tensor:
    """Give ``values`` ``(..., h, w)`` less a smooth part, so that they go on without a jump where they are repeated
    (Moisan 2011, "Periodic plus smooth image decomposition").

    What comes out has, at every pixel, the differences to its cyclic neighbours that ``values`` have to those inside.

    >>> ramp = torch.arange(8.0).expand(8, 8)
    >>> found = periodic(ramp)
    >>> float(ramp[0, 7] - ramp[0, 0]), float((found[0, 7] - found[0, 0]).abs().round(decimals=3))
    (7.0, 0.875)
    """
    height, width = values.shape[-2:]
    jumps = torch.zeros_like(values)
    for axis in (-2, -1):
        first, last = values.select(axis, 0), values.select(axis, -1)
        jumps.select(axis, 0).add_(last - first)
        jumps.select(axis, -1).add_(first - last)
    rows, columns = (
        2 * torch.cos(2 * math.pi * torch.arange(side, device=values.device, dtype=values.dtype) / side) - 2
        for side in (height, width)
    )
    laplacian = rows[:, None] + columns[None, :]
    laplacian[0, 0] = 1
    smooth = torch.fft.fft2(jumps) / laplacian
    smooth[..., 0, 0] = 0
    less: Tensor = values - torch.fft.ifft2(smooth).real
    return less


def frequencies(size: Size) -> NDArray[np.float64]:
    """Give the frequency of each coefficient ``(h, w // 2 + 1)`` in cycles per pixel; that of the mean counts as the
    lowest other.
    """
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    return np.asarray(np.maximum(frequency, 1 / max(height, width)))


def _odd(phases: Tensor, width: int) -> Tensor:
    """Make phases those of a real picture: in the columns that hold a frequency and its mirror image, opposite."""
    mirrored = torch.roll(phases.flip(-2), 1, -2)
    edge = torch.zeros(phases.shape[-1], dtype=torch.bool, device=phases.device)
    edge[0] = True
    if width % 2 == 0:
        edge[-1] = True
    return torch.where(edge, (phases - mirrored) / 2, phases)


def _own_mirror(size: Size) -> Tensor:
    height, width = size
    rows = torch.arange(height) * 2 % height == 0
    columns = torch.arange(width // 2 + 1) * 2 % width == 0
    return rows[:, None] & columns[None, :]


@lru_cache(maxsize=16)
def _scaling(size: Size, decay: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    scale = CONTRAST * math.sqrt(size[0] * size[1]) / frequencies(size) ** decay
    with torch.inference_mode(False):  # what is kept from inference could not be part of a gradient later
        return torch.as_tensor(scale[:, :, None], dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _natural(size: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Give magnitudes ``(h, w // 2 + 1)`` that fall as 1/f, of a picture of mean 0 and the deviation of photographs."""
    height, width = size
    magnitudes = 1 / frequencies(size) ** NATURAL_DECAY
    magnitudes[0, 0] = 0
    twice = np.where(np.arange(width // 2 + 1) * 2 % width == 0, 1, 2)
    deviation = np.sqrt((twice * magnitudes**2).sum()) / (height * width)
    magnitudes *= NATURAL_DEVIATION / max(deviation, 1e-12)
    with torch.inference_mode(False):
        return torch.as_tensor(magnitudes, dtype=dtype, device=device)
