"""Transforms under lucent's names: functions of pictures ``(n, c, h, w)``, as `visualize` and both ``render_vis`` take
them.

Called on pictures alone, as lucent does, they draw from torch's global generator; ``(pictures, generators)``, as this
engine does, draws for picture i from generator i alone. Either way each picture gets its own transform, where lucent
has one for the whole batch: `alike` makes it one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from features.lucent.chance import generators as drawn
from features.transforms import Affine, Transform, transform
from features.visualization.guests import guest_transform, is_guest_transform

Size: TypeAlias = tuple[int, int]
Generators: TypeAlias = Sequence[Generator] | None

# What torchvision's classifiers of ImageNet were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Moving:
    """Moves pixels by a matrix; neighbours of its kind become one resampling, with mirrored borders."""

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        raise NotImplementedError

    def __call__(self, images: Tensor, generators: Generators = None) -> Tensor:
        return transform(images, [self], drawn(len(images)) if generators is None else generators)


@dataclass(frozen=True)
class _Jitter(_Moving):
    reach: int
    numbers: ClassVar[int] = 2

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        result = torch.eye(3, dtype=numbers.dtype).repeat(len(numbers), 1, 1)
        result[:, :2, 2] = torch.floor(numbers * (2 * self.reach + 1)) - self.reach
        return result


@dataclass(frozen=True)
class _Scale(_Moving):
    scales: tuple[float, ...]
    numbers: ClassVar[int] = 1

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        factor = _chosen(self.scales, numbers[:, 0])
        return torch.diag_embed(torch.stack([1 / factor, 1 / factor, torch.ones_like(factor)], dim=1))


@dataclass(frozen=True)
class _Rotate(_Moving):
    degrees: tuple[float, ...]
    numbers: ClassVar[int] = 1

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        angle = torch.deg2rad(_chosen(self.degrees, numbers[:, 0]))
        cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
        return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


@dataclass(frozen=True)
class _Pad:
    width: int
    mode: str
    value: float

    def __call__(self, images: Tensor, generators: Generators = None) -> Tensor:
        value = self.value if self.mode == "constant" else None
        return F.pad(images, [self.width] * 4, mode=self.mode, value=value)


@dataclass(frozen=True)
class _Normalize:
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, generators: Generators = None) -> Tensor:
        if images.shape[1] != len(self.mean):
            raise ValueError(f"pictures of {images.shape[1]} channels were given: this scales {len(self.mean)}")
        mean, std = (torch.tensor(each, dtype=images.dtype, device=images.device) for each in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]


@dataclass(frozen=True)
class Composed:
    """See `compose`."""

    transforms: tuple[Transform, ...]

    def __call__(self, images: Tensor, generators: Generators = None) -> Tensor:
        chances = drawn(len(images)) if generators is None else generators
        for moving, run in groupby(self.transforms, lambda each: isinstance(each, Affine)):
            if moving:
                images = transform(images, list(run), chances)
            else:
                for each in run:
                    images = each(images, chances)
        return images


@dataclass(frozen=True)
class _Alike:
    transform: Transform

    def __call__(self, images: Tensor, generators: Generators = None) -> Tensor:
        chance = (drawn(1) if generators is None else generators)[0]
        state = chance.get_state()
        copies = [Generator() for _ in range(len(images) - 1)]
        for copy in copies:
            copy.set_state(state)
        return self.transform(images, [chance, *copies])


def jitter(d: int) -> _Jitter:
    """Shift by whole pixels, at most ``d // 2`` in each direction, up, down, left and right alike; the border is
    mirrored.

    lucid shifts by as much; lucent by 0 to d - 1 down and right only, with black behind.

    >>> jitter(8)(torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    if d <= 1:
        raise ValueError(f"jitter({d}): give a width of more than 1 pixel")
    return _Jitter(int(d) // 2)


def pad(w: int, mode: str = "reflect", constant_value: float = 0.5) -> _Pad:
    """Put a border of ``w`` pixels around the pictures, mirrored or, with mode 'constant', of ``constant_value``.

    In a render it is room for the transforms that follow: what the network sees is the middle, as large as the picture.

    >>> pad(2)(torch.rand(1, 3, 8, 10)).shape
    torch.Size([1, 3, 12, 14])
    """
    return _Pad(int(w), mode, constant_value)


def random_scale(scales: Sequence[float]) -> _Scale:
    """Enlarge about the centre by one of ``scales``, both sides alike; the size stays, and where the picture shrinks
    its border is mirrored.

    lucent gives another size each time, does not keep the proportions of pictures that are not square, and pads black.

    >>> random_scale([0.5, 2])(torch.rand(1, 3, 8, 10)).shape
    torch.Size([1, 3, 8, 10])
    """
    return _Scale(_numbers("random_scale", scales, above=0.0))


def random_rotate(angles: Sequence[float], units: str = "degrees") -> _Rotate:
    """Turn about the centre by one of ``angles``, counterclockwise as one looks at the picture; the border is mirrored.

    ``units`` are 'degrees', or 'radians', 'rads', 'rad'.

    >>> random_rotate([90])(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]).round().flatten()
    tensor([2., 4., 1., 3.])
    """
    given = _numbers("random_rotate", angles)
    if units.lower() not in UNITS:
        raise ValueError(f"random_rotate(units={units!r}): give one of {', '.join(UNITS)}")
    factor = torch.rad2deg(torch.tensor(1.0, dtype=torch.float64)).item() if UNITS[units.lower()] == "radians" else 1.0
    return _Rotate(tuple(factor * each for each in given))


def compose(transforms: Sequence[Callable[..., Tensor]]) -> Composed:
    """Make one transform of several, in order; neighbours that move pixels become one resampling.

    >>> compose([pad(2), jitter(4), random_scale([1])])(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 12, 12])
    """
    return Composed(tuple(understood(transforms)))


def alike(transform: Callable[..., Tensor]) -> Transform:
    """Do to all pictures what ``transform`` does to the first: what `lucent` always does, and what an objective needs
    that compares its pictures place by place.

    >>> pictures = torch.rand(1, 3, 16, 16).expand(2, 3, 16, 16)
    >>> one, other = alike(jitter(8))(pictures)
    >>> bool((one == other).all())
    True
    """
    return _Alike(transform if isinstance(transform, Composed) else understood([transform])[0])


def normalize() -> _Normalize:
    """Scale as torchvision's ImageNet classifiers want it, ``(x - mean) / std``; in a render the model does this, and
    ``preprocess=False`` leaves it to the transforms.

    >>> normalize()(torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)).flatten()
    tensor([0., 0., 0.])
    """
    return _Normalize(MEAN, STD)


def preprocess_inceptionv1() -> _Normalize:
    """Scale as lucent's InceptionV1 wants it, ``255 x - 117``.

    >>> preprocess_inceptionv1()(torch.ones(1, 3, 1, 1)).flatten()
    tensor([138.0000, 138.0000, 138.0000])
    """
    return _Normalize((117 / 255,) * 3, (1 / 255,) * 3)


def understood(transforms: Sequence[Callable[..., Tensor]]) -> list[Transform]:
    """Give ``transforms`` as functions of ``(pictures, generators)``: those of `compose` one by one, and functions of
    pictures alone (lucent's, torchvision's, a user's) as guests.
    """
    found: list[Transform] = []
    for each in transforms:
        if isinstance(each, Composed):
            found += each.transforms
        elif not callable(each):
            raise TypeError(f"{each!r} is no transform: give a function of pictures (n, c, h, w)")
        else:
            found.append(guest_transform(each) if is_guest_transform(each) else each)
    return found


def _chosen(values: Sequence[float], numbers: Tensor) -> Tensor:
    return torch.tensor(values, dtype=numbers.dtype)[(numbers * len(values)).long()]


def _numbers(name: str, values: Sequence[float], *, above: float = -torch.inf) -> tuple[float, ...]:
    given = tuple(float(each) for each in values)
    if not given or not all(above < each < torch.inf for each in given):
        raise ValueError(f"{name}({given}): give a list of finite numbers{f' above {above:g}' if above == 0 else ''}")
    return given


UNITS = {"degrees": "degrees", "radians": "radians", "rads": "radians", "rad": "radians"}

# lucid's. In a render their pixels are those that the network sees (lucent: those of the picture before it is larger).
standard_transforms: list[Callable[..., Tensor]] = [
    pad(12, mode="constant", constant_value=0.5),
    jitter(8),
    random_scale([1 + (i - 5) / 50.0 for i in range(11)]),
    random_rotate([*range(-10, 11), 0, 0, 0, 0, 0]),
    jitter(4),
]

TRANSFORMS = {"jitter": jitter, "pad": pad, "random_scale": random_scale, "random_rotate": random_rotate}
