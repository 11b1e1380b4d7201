"""Family: units that are turned, mirrored, scaled or recoloured copies of each other, and what makes one of another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from circuits.motifs.kernels import recoloured, warped
from features.units import Unit


@dataclass(frozen=True)
class Transform:
    """What makes one picture, kernel or unit of another: mirror left to right, scale, turn, turn the colours.

    ``angle`` in degrees counterclockwise as seen, ``scale`` a factor above 0, ``hue`` in degrees about the grey axis
    (see `circuits.motifs.recoloured`).

    >>> Transform(angle=90.0, mirror=True)
    Transform(angle=90.0, mirror=True, scale=1.0, hue=0.0)
    """

    angle: float = 0.0
    mirror: bool = False
    scale: float = 1.0
    hue: float = 0.0

    def __call__(self, pictures: Tensor) -> Tensor:
        """Apply it to pictures or kernels ``(..., h, w)``; with a hue they must be ``(..., 3, h, w)``.

        >>> import torch
        >>> torch.equal(Transform(mirror=True)(torch.eye(2)), torch.eye(2).flip(-1))
        True
        """
        moved = warped(pictures, self.angle, mirror=self.mirror, scale=self.scale)
        return recoloured(moved, self.hue) if self.hue % 360 else moved


@dataclass(frozen=True)
class Family:
    """Units of one layer that are transformed copies of its first; made by `find_families` and `kernel_families`.

    ``transforms`` make each unit of the first, ``evidence`` is its similarity with the first, transformed (1 for the
    first itself), ``p_value`` that of the least similar of them among the most similar of all pairs under the null.
    """

    layer: str
    units: tuple[str, ...]
    transforms: tuple[Transform, ...]
    evidence: tuple[float, ...]
    p_value: float
    method: str

    @property
    def angles(self) -> dict[str, float]:
        """How far each unit is turned against the first, in degrees: what `circuits.motifs.equivariance` takes."""
        return {unit: transform.angle for unit, transform in zip(self.units, self.transforms, strict=True)}


def transform_between(family: Family, unit: Unit | str, other: Unit | str) -> Transform:
    """Give what makes ``other`` of ``unit``, two members of a family.

    With each the first member mirrored or not and then turned, that is a turn by the difference of their angles where
    both or neither are mirrored, else a mirror and a turn by their sum.

    Raises ``ValueError`` for a unit that is no member.

    >>> two = Family("a", ("a:0", "a:1", "a:2"), (Transform(), Transform(30.0), Transform(90.0)), (1, 1, 1), 0.05, "")
    >>> transform_between(two, "a:1", "a:2").angle
    60.0
    """
    start, end = (_of(family, each) for each in (unit, other))
    mirror = start.mirror != end.mirror
    angle = end.angle + start.angle if mirror else end.angle - start.angle
    return Transform(wrapped(angle), mirror, end.scale / start.scale, wrapped(end.hue - start.hue))


def wrapped(angle: float) -> float:
    """Give the same angle in (-180, 180].

    >>> wrapped(270.0)
    -90.0
    """
    turned = math.fmod(angle, 360)
    return turned - 360 if turned > 180 else turned + 360 if turned <= -180 else turned


def _of(family: Family, unit: Unit | str) -> Transform:
    name = str(Unit.of(unit))
    if name not in family.units:
        raise ValueError(f"{name!r} is not in this family: it has {', '.join(family.units)}")
    return family.transforms[family.units.index(name)]
