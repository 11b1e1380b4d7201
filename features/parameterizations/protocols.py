"""Protocols: what the engine asks of a parameterization, and what it uses where one offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Generator, Tensor

Size: TypeAlias = tuple[int, int]
Parameters: TypeAlias = tuple[Tensor, ...]


class Parameterization(Protocol):
    """What is optimized. ``size`` is that of the picture, ``None`` until `sized` says it.

    ``start`` gives the numbers to optimize, each tensor with one entry per picture along its first axis, entry i drawn
    from generator i alone; ``picture`` makes of them pictures ``(n, channels, h, w)`` in [0, 1].
    """

    @property
    def size(self) -> Size | None: ...

    def sized(self, channels: int, size: Size) -> Self: ...

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters: ...

    def picture(self, parameters: Parameters) -> Tensor: ...


@runtime_checkable
class Seen(Protocol):
    """A parameterization whose picture is not yet what the network sees, for example because it has an alpha channel.

    ``seen`` gives ``(n, model channels, h, w)`` in [0, 1], what it adds to picture i drawn from generator i, and
    without generators a version that is always the same, for scoring and showing.
    """

    def seen(self, picture: Tensor, generators: Sequence[Generator] | None) -> Tensor: ...


@runtime_checkable
class Constrained(Protocol):
    """A parameterization whose numbers must stay somewhere: ``constrained`` puts them back, in place, after each
    step.
    """

    def constrained(self, parameters: Parameters) -> None: ...


@runtime_checkable
class Grouped(Protocol):
    """A parameterization that shares something among every ``count`` neighbouring pictures."""

    @property
    def count(self) -> int: ...


@runtime_checkable
class Invertible(Protocol):
    """A parameterization that finds the numbers of a picture ``(n, channels, h, w)``: ``picture`` of them gives it
    back.
    """

    def parameters(self, pictures: Tensor) -> Parameters: ...


@runtime_checkable
class Logits(Protocol):
    """A parameterization whose picture is ``sigmoid(logits(parameters))``."""

    def logits(self, parameters: Parameters) -> Tensor: ...
