"""Pictures as pixels or as a Fourier spectrum, unbounded: `to_valid_rgb` makes colours of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.lucent.chance import generators, place

# lucid divides the Fourier picture by 4, so that Adam's first steps do not saturate the colours.
MAGIC = 4.0


def pixel_image(
    shape: Sequence[int], sd: float | None = None, *, device: torch.device | str | None = None
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Give ``([t], lambda: t)``: normal noise of ``shape`` ``(n, c, h, w)`` and standard deviation ``sd`` (0.01).

    Each picture has its own random numbers (`features.lucent.chance`), the same alone and in a batch; it lies on
    ``device``, in a render where its network is (lucent guesses when it is imported).

    >>> params, image_f = pixel_image([2, 3, 8, 8])
    >>> image_f() is params[0], params[0].shape
    (True, torch.Size([2, 3, 8, 8]))
    """
    tensor = noise(shape, 0.01 if sd is None else sd, place(device))
    return [tensor], lambda: tensor


def rfft2d_freqs(h: int, w: int) -> NDArray[np.float64]:
    """Give the frequency of each entry of a real picture's spectrum, ``(h, w // 2 + 1)``, in cycles per pixel.

    lucent has one column more for an odd width, and does not use it.

    >>> rfft2d_freqs(4, 5).shape
    (4, 3)
    """
    frequency: NDArray[np.float64] = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None, :])
    return frequency


def fft_image(
    shape: Sequence[int], sd: float | None = None, decay_power: float = 1, *, device: torch.device | str | None = None
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Give a spectrum ``(n, c, h, w // 2 + 1, 2)`` and the picture ``irfft2(s p) / 4`` with ``s = 1 / max(f, 1 / max(h,
    w))^decay_power``, transformed orthonormally.

    Otherwise as `pixel_image`. The numbers are those of lucid and lucent.

    >>> params, image_f = fft_image([1, 3, 8, 6])
    >>> image_f().shape
    torch.Size([1, 3, 8, 6])
    """
    batch, channels, height, width = shape
    frequency = rfft2d_freqs(height, width)
    spectrum = noise((batch, channels, *frequency.shape, 2), 0.01 if sd is None else sd, place(device))
    scale = torch.from_numpy(1 / np.maximum(frequency, 1 / max(height, width)) ** decay_power)
    scale = scale[..., None].to(spectrum)

    def image() -> Tensor:
        values = torch.view_as_complex(spectrum * scale)
        picture: Tensor = torch.fft.irfft2(values, s=(height, width), norm="ortho") / MAGIC
        return picture

    return [spectrum], image


def noise(shape: Sequence[int], sd: float, device: torch.device) -> Tensor:
    """Give normal noise ``(n, ...)`` to be optimized, entry i from the generator of picture i."""
    count, *rest = shape
    drawn = torch.stack([torch.randn(rest, generator=each) for each in generators(count)])
    return (sd * drawn).to(device).requires_grad_(True)
