"""Layer and ReceptiveField: what can be read in a network, and which pixels each position of it sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels can change the value at a position of a layer, in theory: a box that moves with the position.

    ``size`` is the box's height and width in pixels, ``stride`` how many pixels it moves from one position to the next,
    ``offset`` its centre at position (0, 0), in pixel indices (0 is the centre of the first pixel). All ``(y, x)``.
    The box of ``position`` starts at ``offset + position * stride - (size - 1) / 2``.

    >>> field = ReceptiveField(size=(7, 7), stride=(2, 2), offset=(0.0, 0.0))
    >>> field.box((3, 0))
    (3, -3, 10, 4)
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[float, float]

    def box(self, position: tuple[int, int]) -> tuple[int, int, int, int]:
        """Give the pixels seen by ``position`` ``(y, x)`` as ``(y0, x0, y1, x1)``, ends excluded, not clipped to the
        image."""
        y, x = (
            round(offset + place * stride - (size - 1) / 2)
            for offset, place, stride, size in zip(self.offset, position, self.stride, self.size, strict=True)
        )
        return y, x, y + self.size[0], x + self.size[1]


@dataclass(frozen=True)
class Layer:
    """One readable call of a module.

    ``name`` is its address (``name#1`` for the second call of a module), ``kind`` the module's class, ``shape`` what
    one image gives, channels first: ``(c, h, w)``, ``(c, t)`` or ``(c,)``; ``layout`` how the module itself orders the
    axes (a key of `features.activations.TURNS`), ``field`` the receptive field, ``None`` where a position sees the
    whole image or where no box is known; ``overwritten`` whether the network later changes this output in place, so
    that reading it costs a copy.
    """

    name: str
    kind: str
    channels: int
    shape: tuple[int, ...]
    layout: str
    field: ReceptiveField | None
    overwritten: bool
