"""Optimizers: how a picture's numbers are moved along the gradient; momentum, adam, plain, or any of torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

Optimize: TypeAlias = Callable[[list[Tensor]], Optimizer]

# Gradients of unit size with momentum against Adam, both 100 steps at 0.05 from Fourier noise of decay 1, medians over
# 11 units of a GoogLeNet trained on CIFAR-10 at 64 px: 1.2 % instead of 8.4 % of the picture's energy above a quarter
# cycle per pixel, and 8 % more activation under transforms that neither was made with. Adam moves every frequency
# alike, also those whose gradient is noise.
RATE = 0.08
DECAY = 0.9  # of the momentum, per step
TINY = 1e-18  # squares of smaller float32 gradients are 0


@runtime_checkable
class Falling(Protocol):
    """An optimizer that wants to know how many steps there will be, so that its rate can fall to 0 at the last."""

    def over(self, steps: int) -> Optimize: ...


@dataclass(frozen=True)
class Momentum:
    """See `momentum`."""

    rate: float
    decay: float
    steps: int | None = None

    def over(self, steps: int) -> Optimize:
        """Give the same with a rate that falls along half a cosine to 0 at step ``steps``."""
        return Momentum(self.rate, self.decay, steps)

    def __call__(self, parameters: list[Tensor]) -> Optimizer:
        return _Momentum(parameters, self)


@dataclass(frozen=True)
class Plain:
    """See `plain`."""

    rate: float
    normalized: bool

    def __call__(self, parameters: list[Tensor]) -> Optimizer:
        return _Plain(parameters, self)


@dataclass(frozen=True)
class Adaptive:
    """See `adam`."""

    rate: float

    def __call__(self, parameters: list[Tensor]) -> Optimizer:
        return Adam(parameters, lr=self.rate)


def momentum(rate: float = RATE, *, decay: float = DECAY) -> Momentum:
    """Momentum on gradients of unit size, the rate falling along half a cosine from ``rate`` to 0; the default.

    ``m <- decay m + (1 - decay) g / rms(g)`` and ``p <- p - r m / (1 - decay^t)`` at step t of T, with ``r = rate (1 +
    cos(pi (t - 1) / T)) / 2``. The root mean square is over each picture's own numbers, so that the scale of a layer
    does not matter and the pictures of a batch never meet. Used outside `visualize`, with no known T, the rate stays.

    >>> picture = torch.zeros(2, 5, requires_grad=True)
    >>> picture.grad = torch.tensor([[3.0] * 5, [-0.01] * 5])
    >>> momentum(0.5)([picture]).step()
    >>> picture[:, 0].tolist()
    [-0.5, 0.5]
    """
    _check_rate(rate)
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay!r}: give a number from 0 (no momentum) to below 1")
    return Momentum(float(rate), float(decay))


def plain(rate: float, *, normalized: bool = True) -> Plain:
    """Plain gradient steps ``p <- p - rate g``; ``normalized`` divides ``g`` by its root mean square over each picture.

    Normalized, ``rate`` is how far a number moves per step on average, whatever the layer (Keras' lesson divides by the
    2-norm, which makes the step depend on the picture's size).

    >>> picture = torch.zeros(1, 2, requires_grad=True)
    >>> picture.grad = torch.tensor([[-7.0, 7.0]])
    >>> plain(0.1)([picture]).step()
    >>> picture.tolist()
    [[0.10000000149011612, -0.10000000149011612]]
    """
    _check_rate(rate)
    return Plain(float(rate), normalized)


def adam(rate: float = 0.05) -> Adaptive:
    """`torch.optim.Adam` at ``rate``, as lucid and lucent have it.

    >>> type(adam()([torch.zeros(1, requires_grad=True)])).__name__
    'Adam'
    """
    _check_rate(rate)
    return Adaptive(float(rate))


def made_for(optimizer: Optimize, parameters: list[Tensor], steps: int) -> Optimizer:
    """Give the torch optimizer that ``optimizer`` makes for ``parameters`` and a run of ``steps``.

    Raises ``TypeError`` where it makes none.
    """
    if not callable(optimizer):
        raise TypeError(
            f"the optimizer is {type(optimizer).__name__}: give momentum(), adam(), plain(rate), or a function that "
            "gets a list of tensors and gives a torch.optim.Optimizer"
        )
    made = (optimizer.over(max(steps, 1)) if isinstance(optimizer, Falling) else optimizer)(parameters)
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"the optimizer {optimizer!r} gave {type(made).__name__}: give momentum(), adam(), plain(rate), or a "
            "function that gets a list of tensors and gives a torch.optim.Optimizer"
        )
    return made


class _Step(Optimizer):
    """An optimizer whose state is its own: the numbers, and how one of them moves."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})
        self.taken = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.taken += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad)
        return loss

    def move(self, parameter: Tensor, gradient: Tensor) -> None:
        raise NotImplementedError


class _Momentum(_Step):
    def __init__(self, parameters: list[Tensor], how: Momentum) -> None:
        super().__init__(parameters)
        self.how = how
        for parameter in parameters:
            self.state[parameter]["mean"] = torch.zeros_like(parameter)

    def move(self, parameter: Tensor, gradient: Tensor) -> None:
        how, mean = self.how, self.state[parameter]["mean"]
        rate = how.rate
        if how.steps is not None:
            rate *= (1 + math.cos(math.pi * min(self.taken - 1, how.steps) / how.steps)) / 2
        mean.lerp_(_of_unit_size(gradient), 1 - how.decay)
        parameter.sub_(mean, alpha=rate / (1 - how.decay**self.taken))


class _Plain(_Step):
    def __init__(self, parameters: list[Tensor], how: Plain) -> None:
        super().__init__(parameters)
        self.how = how

    def move(self, parameter: Tensor, gradient: Tensor) -> None:
        parameter.sub_(_of_unit_size(gradient) if self.how.normalized else gradient, alpha=self.how.rate)


def _of_unit_size(gradient: Tensor) -> Tensor:
    size = gradient.reshape(len(gradient), -1).square().mean(1).sqrt().clamp(min=TINY)
    return gradient / size.reshape(-1, *[1] * (gradient.ndim - 1))


def _check_rate(rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, SupportsFloat):
        raise TypeError(f"rate is {type(rate).__name__}: give a number above 0, as in optimizer=adam(0.05)")
    if not (0 < float(rate) < math.inf):
        raise ValueError(f"rate is {rate!r}: give a finite number above 0")


OPTIMIZERS = {"momentum": momentum, "adam": adam, "plain": plain}
