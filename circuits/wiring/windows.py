"""Windows: which positions of a source layer each position of a target layer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuits.wiring.segments import run
from features.models import Model

Place = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """How positions of a target lie over a source on images of one size.

    ``source`` and ``target`` are the sizes of their maps, ``None`` where there is none; ``centre`` is the central
    position of the target, ``corner`` and ``extent`` its window in the source, clipped to the map; ``stride`` is by how
    much the window moves from one position to the next, ``None`` where that is not a whole number.
    """

    source: Place | None
    target: Place | None
    centre: Place = (0, 0)
    corner: Place = (0, 0)
    extent: Place = (1, 1)
    stride: Place | None = None
    used: frozenset[str] = frozenset()

    def corner_at(self, place: Place) -> Place:
        """Give where the window of the target's position ``place`` begins; it may lie outside the map."""
        step = self.stride or (1, 1)
        y, x = (c + s * (p - m) for c, s, p, m in zip(self.corner, step, place, self.centre, strict=True))
        return y, x

    def inside(self) -> list[Place]:
        """Give the positions of the target whose window lies inside the map of the source."""
        if self.source is None or self.target is None or self.stride is None:
            return []
        rows, columns = ([p for p in range(self.target[axis]) if self._fits(p, axis)] for axis in (0, 1))
        return [(y, x) for y in rows for x in columns]

    def apart(self) -> list[list[Place]]:
        """Give the positions of `inside` in groups whose windows do not overlap."""
        groups: dict[Place, list[Place]] = {}
        steps = [-(-e // s) for e, s in zip(self.extent, self.stride or (1, 1), strict=True)]
        for y, x in self.inside():
            groups.setdefault((y % steps[0], x % steps[1]), []).append((y, x))
        return list(groups.values())

    def windows(self, values: Tensor, places: Sequence[Place]) -> Tensor:
        """Cut the windows of ``places`` out of ``values``, (o, i, h, w): (places, o, i, kh, kw)."""
        corners = torch.tensor([self.corner_at(place) for place in places], device=values.device)
        rows, columns = (
            corners[:, axis, None] + torch.arange(self.extent[axis], device=values.device) for axis in (0, 1)
        )
        return values[:, :, rows[:, :, None], columns[:, None, :]].movedim(2, 0)

    def holding(self, model: Model, source: str, target: str, extent: Place) -> Frame:
        """Give the frame of kernels of size ``extent``; larger ones than a clipped window are placed by theory."""
        if self.source is None or self.target is None:
            return self
        if self.stride is None:
            raise ValueError(f"how the windows of {target!r} move over {source!r} is not known: no receptive fields")
        if extent == self.extent:
            return self
        narrow, wide = model.layer(source).field, model.layer(target).field
        if narrow is None or wide is None:
            raise ValueError(
                f"kernels of size {extent} do not fit the window of {target!r} in {source!r}, {self.extent}"
            )
        y, x = (
            round((b + place * far - a) / near - (size - 1) / 2)
            for a, b, near, far, place, size in zip(
                narrow.offset, wide.offset, narrow.stride, wide.stride, self.centre, extent, strict=True
            )
        )
        return replace(self, corner=(y, x), extent=extent)

    def _fits(self, place: int, axis: int) -> bool:
        assert self.source is not None
        start = self.corner_at((place, place))[axis]
        return start >= 0 and start + self.extent[axis] <= self.source[axis]


def find_frame(model: Model, source: str, target: str, images: Tensor, cut: Sequence[str]) -> Frame:
    """Find the frame on images of this size; ``ValueError`` where the source does not feed the target."""
    if source == target:
        raise ValueError(f"source and target are both {source!r}: name two layers")
    segment = run(model, source, target, cut, images[:1], structure=True)
    leaf, output, used = segment.leaf, segment.output, segment.used
    maps = [len(model.layer(name).shape) == 3 for name in (source, target)]
    sizes = [
        (tensor.shape[2], tensor.shape[3]) if known else None
        for tensor, known in zip((leaf, output), maps, strict=True)
    ]
    if not all(maps):
        return Frame(sizes[0], sizes[1], used=used)
    h, w = output.shape[2:]
    centre = (h // 2, w // 2)
    box = _read(leaf, output, centre)
    if box is None:
        raise ValueError(f"nothing that layer {source!r} gives reaches the middle of {target!r}")
    stride = _stride_by_fields(model, source, target) or _stride_by_reading(leaf, output, centre, box)
    return Frame(sizes[0], sizes[1], centre, *box, stride, used)


def check_images(model: Model, images: Tensor) -> None:
    """Raise ``ValueError`` for what is no batch of this model's images, or an empty one."""
    if images.dim() != 4 or len(images) == 0 or images.shape[1] != model.channels:
        raise ValueError(
            f"images have shape {tuple(images.shape)}: give (n, {model.channels}, h, w) in [0, 1], at least one"
        )


def centre_of(values: Tensor) -> Tensor:
    """Give the values at the central position: (n, c) of (n, c, ...)."""
    for axis in range(values.dim() - 1, 1, -1):
        values = values.select(axis, values.shape[axis] // 2)
    return values


def _read(leaf: Tensor, output: Tensor, place: Place) -> tuple[Place, Place] | None:
    """Give the corner and the extent of the box that a position of the output reads."""
    values = output[0, :, place[0], place[1]]
    weights = torch.linspace(0.5, 1.5, len(values), dtype=values.dtype, device=values.device)
    (gradient,) = torch.autograd.grad((values * weights).sum(), leaf, retain_graph=True)
    read = (gradient != 0).flatten(0, 1).any(0)
    rows, columns = read.any(1).nonzero(), read.any(0).nonzero()
    if len(rows) == 0:
        return None
    corner = (int(rows[0]), int(columns[0]))
    return corner, (int(rows[-1]) + 1 - corner[0], int(columns[-1]) + 1 - corner[1])


def _stride_by_fields(model: Model, source: str, target: str) -> Place | None:
    narrow, wide = model.layer(source).field, model.layer(target).field
    if narrow is None or wide is None or any(b % a for a, b in zip(narrow.stride, wide.stride, strict=True)):
        return None
    y, x = (b // a for a, b in zip(narrow.stride, wide.stride, strict=True))
    return y, x


def _stride_by_reading(leaf: Tensor, output: Tensor, centre: Place, box: tuple[Place, Place]) -> Place | None:
    """Give how far the window moves between the centre and the position before it, where both are whole."""
    if min(centre) == 0:
        return None
    before = _read(leaf, output, (centre[0] - 1, centre[1] - 1))
    if before is None or before[1] != box[1]:
        return None
    y, x = (after - corner for after, corner in zip(box[0], before[0], strict=True))
    return (y, x) if y > 0 and x > 0 else None
