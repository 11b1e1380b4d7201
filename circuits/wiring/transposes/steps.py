"""Step: one recorded operation on the way back; and products that keep what is broken to itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuits.wiring.pulls import Pull, Shape, reduced

LARGEST_SIGNED = 2**63 - 1  # autograd shows a negative number as an unsigned one of 64 bits


class ForeignError(Exception):
    """An operation as it was called here has no fast transpose: go through the node."""


@dataclass(frozen=True)
class Step:
    """One recorded operation: its node, which ``output`` the pull is of, and the shapes that it took and gave."""

    node: Any
    output: int
    before: tuple[Shape | None, ...]
    after: Shape
    bounded: bool

    def saved(self, name: str) -> Any:
        """Give what the operation was called with; `ForeignError` where this release of torch does not say."""
        try:
            return getattr(self.node, f"_saved_{name}")
        except AttributeError as error:
            raise ForeignError from error

    def folded(self, number: int, pull: Pull) -> Pull:
        """Sum a pull of what the operation gave over the axes along which it broadcast an input."""
        return reduced(pull, self.shape(number), self.after, bounded=self.bounded)

    def axis(self, number: int, count: int | None = None) -> int:
        """Give an axis counted from the front."""
        return signed(number) % (len(self.after) if count is None else count)

    def axes(self, numbers: Sequence[int] | None, count: int) -> list[int]:
        """Give axes counted from the front; none named are all."""
        return sorted(self.axis(number, count) for number in numbers) if numbers else list(range(count))

    def shape(self, number: int = 0) -> Shape:
        """Give the shape of an input."""
        shape = self.before[number]
        if shape is None:
            raise ForeignError
        return shape


def signed(number: int) -> int:
    return number - 2**64 if number > LARGEST_SIGNED else number


Given = list[tuple[int, Pull]]
Transpose = Callable[[Step, Pull], Given]


def careful(product: Callable[[Tensor, Tensor], Tensor], values: Tensor, weights: Tensor) -> Tensor:
    """Give a product that is NaN only where an infinite or NaN number truly comes in, not where it meets a zero.

    ``0 * NaN`` is NaN in a sum of products, though what is not connected reads nothing: where the result is not
    finite it is computed from the finite numbers, and the others are followed by themselves.
    """
    found = product(values, weights)
    if bool(torch.isfinite(found.sum())) or bool(found.isfinite().all()):
        return found
    bad, wrong = ~values.isfinite(), ~weights.isfinite()
    clean, right = values.masked_fill(bad, 0), weights.masked_fill(wrong, 0)
    used, real = ((clean != 0) | bad).to(values), ((right != 0) | wrong).to(weights)
    reach = product(bad.to(values), real) + product(used, wrong.to(weights))
    return product(clean, right).masked_fill(reach > 0.5, torch.nan)
