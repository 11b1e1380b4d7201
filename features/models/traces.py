"""Trace: what is known of a tensor that depends on the image while it flows through a network."""

from __future__ import annotations

from dataclasses import dataclass

from features.models.layers import ReceptiveField

Pair = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Along one image axis, position ``p`` sees the pixels from ``start + p * stride``, ``size`` of them."""

    start: int = 0
    size: int = 1
    stride: int = 1

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Span:
        """Give the span of a window that slides over positions with this span."""
        reach = (kernel - 1) * dilation * self.stride
        return Span(self.start - padding * self.stride, self.size + reach, self.stride * stride)

    def union(self, other: Span) -> Span:
        """Give the smallest span that covers both; the strides are equal."""
        start = min(self.start, other.start)
        return Span(start, max(self.start + self.size, other.start + other.size) - start, self.stride)


Field = tuple[Span, Span]


@dataclass(frozen=True)
class Trace:
    """What is known of a tensor that depends on the image: its row and column axes, and the field of its positions."""

    axes: Pair | None = None
    field: Field | None = None

    def receptive_field(self) -> ReceptiveField | None:
        """Give the field in the public form."""
        if self.field is None or self.axes is None:
            return None
        y, x = self.field
        centre = (y.start + (y.size - 1) / 2, x.start + (x.size - 1) / 2)
        return ReceptiveField((y.size, x.size), (y.stride, x.stride), centre)


LOST = Trace()


@dataclass(frozen=True)
class Input:
    """One tensor given to a function: its shape before the call and its trace."""

    shape: tuple[int, ...]
    trace: Trace

    @property
    def axes(self) -> Pair | None:
        return self.trace.axes

    @property
    def field(self) -> Field | None:
        return self.trace.field
