"""Sharing: pictures of one group that have their coarse structure in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from features.parameterizations.canvas import Mixture, check_count, check_number, noise
from features.parameterizations.colours import mixed
from features.parameterizations.grids import enlarged
from features.parameterizations.protocols import Invertible, Logits, Parameterization, Parameters, Size
from features.parameterizations.spectra import fourier
from features.parameterizations.wrapping import Wrapper

# Mordvintsev et al. 2018, "Differentiable Image Parameterizations", aligned interpolation: what is shared has a half,
# a quarter, an eighth of the side.
COARSER = (2, 4, 8)


@dataclass(frozen=True)
class Shared(Wrapper):
    """See `shared`."""

    count: int
    coarser: tuple[int, ...]
    sd: float
    canvas: Mixture = field(default_factory=Mixture)

    def sized(self, channels: int, size: Size) -> Shared:
        """Give the same with the sizes that are still missing."""
        image = self.image.sized(channels, size)
        canvas = Mixture(image.size or size, channels, getattr(image, "colours", None))
        return Shared(image, self.count, self.coarser, self.sd, canvas)

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give the start of ``image``, then for each coarser grid every picture's part of it, ``(n, channels, h',
        w')``.
        """
        self._check_groups(len(generators))
        own = self.image.start(generators, device=device, dtype=dtype)
        channels, _ = self.canvas.known
        grids = [noise(generators, (channels, *side), self.sd).to(device, dtype) for side in self._sides()]
        return (*own, *grids)

    def picture(self, parameters: Parameters) -> Tensor:
        """Give ``sigmoid`` of the logits of ``image`` and the mean over each group of the coarser grids, enlarged."""
        return torch.sigmoid(self.logits(parameters))

    def logits(self, parameters: Parameters) -> Tensor:
        """Give what the sigmoid gets."""
        own, grids = parameters[: -len(self.coarser)], parameters[-len(self.coarser) :]
        if not isinstance(self.image, Logits):
            raise _unshared(self.image)
        self._check_groups(len(grids[0]))
        _, size = self.canvas.known
        groups = [each.reshape(-1, self.count, *each.shape[1:]).mean(1) for each in grids]
        values = torch.stack([enlarged(each, size) for each in groups]).sum(0)
        return self.image.logits(own) + mixed(values, self.canvas.colours).repeat_interleave(self.count, 0)

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the numbers that make ``pictures``: nothing shared, everything the picture's own."""
        if not isinstance(self.image, Invertible):
            raise TypeError(f"{self.image!r} cannot start from a picture: share fourier(), pixels() or pyramid()")
        channels, _ = self.canvas.known
        return (*self.image.parameters(pictures), *(pictures.new_zeros(len(pictures), channels, *side).double()
                for side in self._sides()))  # fmt: skip

    def _sides(self) -> list[Size]:
        _, (height, width) = self.canvas.known
        return [(-(-height // divisor), -(-width // divisor)) for divisor in self.coarser]

    def _check_groups(self, pictures: int) -> None:
        if pictures % self.count:
            raise ValueError(
                f"{pictures} pictures are no groups of {self.count}: make the image with shared(count=...) equal to "
                "the count of pictures of each objective"
            )


def shared(
    image: Parameterization | None = None, *, count: int, coarser: tuple[int, ...] = COARSER, sd: float = 0.01
) -> Shared:
    """Pictures whose coarse structure is common to every ``count`` neighbours, so that they are aligned: for
    interpolations, diversity and caricatures (Mordvintsev et al. 2018).

    To each picture of ``image`` (`fourier` without it; any whose picture is a sigmoid) is added, before the sigmoid,
    what its group shares: grids with the side divided by each of ``coarser``. Every picture owns an equal part of these
    and the group sees the mean, so that all parts get the same gradient. Errors: ``TypeError`` for an image that
    nothing can be added to, ``ValueError`` for a number of pictures that is no multiple of ``count``.

    >>> image = shared(fourier(16), count=2).sized(3, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(seed) for seed in range(4)])).shape
    torch.Size([4, 3, 16, 16])
    """
    image = fourier() if image is None else image
    if not isinstance(image, Logits):
        raise _unshared(image)
    check_count("count", count, least=1)
    check_number("sd", sd, least=0)
    if not coarser:
        raise ValueError("nothing is shared: give what the side is divided by, such as coarser=(2, 4, 8)")
    for divisor in coarser:
        check_count("a divisor in coarser", divisor, least=1)
    return Shared(image, count, tuple(coarser), sd)


def _unshared(image: Parameterization) -> TypeError:
    return TypeError(
        f"nothing can be added to {image!r} before a sigmoid: share fourier(), pixels(), pyramid(), cppn() or maco()"
    )
