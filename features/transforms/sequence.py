"""Sequence: several transforms one after the other; the same draw for several pictures; sets that are known to work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from features.transforms.changes import noise, pad
from features.transforms.moves import Affine, Size, Transform, check, crop, jitter, moved, rotate, scale


@dataclass(frozen=True)
class Alike:
    """See `alike`."""

    transforms: tuple[Transform, ...]
    count: int | None

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        count = self.count or max(1, len(images))
        check(len(images) % count == 0, f"{len(images)} pictures are no groups of {count}: give whole groups")
        # One seed for each group, drawn in turn: where a generator comes again, for another view, it draws anew.
        seeds = [int(torch.randint(2**62, (), generator=each, device=each.device)) for each in generators[::count]]
        same = [Generator(each.device).manual_seed(seed) for seed in seeds for each in generators[:count]]
        return transform(images, self.transforms, same)


def alike(*transforms: Transform, count: int | None = None) -> Alike:
    """Several transforms as one that does the same to every ``count`` neighbouring pictures, or to all there are.

    What they draw comes from the generator of the first of the group alone. For pictures that are compared place by
    place: a picture and the image that it inverts, two ends of an interpolation. With several units in one batch give
    ``count``, the pictures of each, or what one meets depends on its companions.

    >>> same, chances = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1), [torch.Generator(), torch.Generator()]
    >>> first, second = alike(jitter(0.2), rotate(-9, 9))(same, chances)
    >>> torch.equal(first, second)
    True
    """
    check(len(transforms) > 0, "alike() of nothing: give at least one transform")
    whole = isinstance(count, int) and not isinstance(count, bool)
    check(count is None or (whole and count >= 1), f"alike(count={count!r}): give a whole number of at least 1")
    return Alike(tuple(transforms), count)


def transform(
    images: Tensor, transforms: Sequence[Transform], generators: Sequence[Generator], *, size: Size | None = None
) -> Tensor:
    """Give ``images`` ``(n, c, h, w)`` after ``transforms``, in order, in the size they came in; image i draws from
    generator i.

    Neighbouring `jitter`, `scale`, `rotate` and `crop` become one bilinear resampling with mirrored borders, which
    blurs once instead of several times. Any function of ``(images, generators)`` is a transform too; where the result
    is larger or smaller, its middle is taken. With ``size`` ``(h', w')`` what would be shown is resized to that, in the
    same resampling, for a network that takes no other. Errors: ``ValueError`` for a number of generators that is not
    the number of images, ``TypeError`` for a transform that gives no batch of images.

    >>> transform(torch.rand(1, 3, 32, 48), STANDARD, [torch.Generator().manual_seed(0)]).shape
    torch.Size([1, 3, 32, 48])
    """
    check(len(generators) == len(images), f"{len(generators)} generators for {len(images)} images: give one each")
    cut = _size_of(images)
    moves: list[Affine] = []
    for each in transforms:
        if isinstance(each, Affine):
            moves.append(each)
            continue
        images = each(moved(images, moves, generators, _size_of(images)), generators)
        moves = []
        if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != len(generators):
            raise TypeError(f"the transform {each!r} gave no images: it gets and gives (n, c, h, w)")
    return moved(images, moves, generators, cut, size)


def _size_of(images: Tensor) -> Size:
    return int(images.shape[2]), int(images.shape[3])


# Wider than lucid's standard (at 128 px shifts of 4 and 2 pixels either way, scales 0.9 to 1.1, angles -10 to 10).
# Medians over 11 units of a GoogLeNet trained on CIFAR-10 at 64 px: 90 % of a picture's score is left under transforms
# that it was not made with; 87 % with shifts of 1/14 and 1/28 of the side and lucid's scales and angles.
STANDARD: tuple[Transform, ...] = (jitter(1 / 10), scale(0.85, 1.2), rotate(-15, 15))

# lucid, optvis/transform.py, `standard_transforms`, at 128 px: a border of 12, which makes 152, and shifts over a range
# of 8 and 4 pixels.
LUCID: tuple[Transform, ...] = (pad(12 / 128), jitter(4 / 152), scale(0.9, 1.1), rotate(-10, 10), jitter(2 / 152))

# The notebook on transparency of Mordvintsev et al. 2018, at 128 px: shifts over ranges of 4, 4, 8, 8 and 8 pixels,
# scales 0.995^n for n from -5 to 79, angles -20 to 20, a shift over 2 more.
ROBUST: tuple[Transform, ...] = (
    *(jitter(reach / 128) for reach in (2, 2, 4, 4, 4)),
    scale(0.995**79, 0.995**-5),
    rotate(-20, 20),
    jitter(1 / 128),
)

# For a picture larger than what the network is shown, with several views in each step. The windows of xplique's MACO,
# 50 % to 5 % of 512 pixels with noise of 0.08, are too small for 160 pixels shown in 64: three units of a GoogLeNet
# trained on CIFAR-10 drew a whole car, cat and dog with these, and blurred pieces with windows of 50 % to 10 %.
MACO: tuple[Transform, ...] = (crop(0.4, 1.0), noise(0.03))

PRESETS = {"standard": STANDARD, "lucid": LUCID, "robust": ROBUST, "maco": MACO}
